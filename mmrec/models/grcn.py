"""GRCN: Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback.

Wei et al., MM 2020. https://arxiv.org/abs/2111.02036

From the paper: neighbour routing, which moves users towards prototypes of the items they like; edge
weights from affinity and confidence, with negative weights pruned; propagation of ID embeddings on
the refined graph; concatenation with content. In the public code, routing does not update users,
which equals `routings=0`. Ours: any number of modalities; an item that lacks a modality has weight
0 in the attention of its users there, and its edges get no weight from that modality. Items without
any modality use their ID embedding only.

Shapes: U users, I items, N = U + I nodes, E edges, M modalities, D embedding size, B batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, leaky_relu

from mmrec.config.checks import check_at_least
from mmrec.data import Modality, TrainingView, Triplets, require_modalities
from mmrec.graphs import normalized_interactions
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import InteractionEdges, ProjectedFeatures, lookup, unit_rows
from mmrec.nn.losses import bpr, norm_penalty, pair_scores


class GRCN(Recommender):
    """ID embeddings on a user-item graph refined by content, concatenated with content.

    See `InteractionEdges` for the reason why its layers do not use PyG's `MessagePassing`.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D of IDs and of each modality.
        layers: propagation steps of ID embeddings; the results of all steps are summed.
        routings: number of neighbour routing steps; 0 disables routing, as in the public code.
        l2: weight of the squared norm of the batch's ID embeddings and user preferences.
    """

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        routings: int = 3,
        l2: float = 0.0,
    ) -> None:
        check_at_least(1, dim=dim, layers=layers)
        check_at_least(0, routings=routings, l2=l2)
        super().__init__(corpus)
        modalities = require_modalities(corpus, "grcn")
        self.layers, self.l2 = layers, l2
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        self.user_confidence = nn.Parameter(torch.empty(corpus.n_users, len(modalities)))
        self.item_confidence = nn.Parameter(torch.empty(corpus.n_items, len(modalities)))
        self.preference = nn.ModuleList(nn.Embedding(corpus.n_users, dim) for _ in modalities)
        for table in self.parameters():
            nn.init.xavier_normal_(table)
        interactions = normalized_interactions(corpus.train, corpus.n_users, corpus.n_items)
        self.edges = InteractionEdges(interactions)
        self.content = nn.ModuleList(
            RoutedContent(modality, self.edges, dim, routings) for modality in modalities.values()
        )

    def encode(self) -> Embeddings:
        """Concatenate the propagated ID embeddings with content: [U or I, (1+M)D]."""
        content = self.routed()
        to_users, to_items = self.edge_weights(content)
        users, items = unit_rows(self.user.weight), unit_rows(self.item.weight)
        all_users, all_items = users, items
        for _ in range(self.layers):
            users, items = (
                self.edges.to_users(to_users, items),
                self.edges.to_items(to_items, users),
            )
            all_users, all_items = all_users + users, all_items + items
        return Embeddings(
            torch.cat([all_users, *(each.users for each in content)], dim=1),
            torch.cat([all_items, *(each.items for each in content)], dim=1),
        )

    def routed(self) -> list[Routed]:
        """Return the content of each modality after routing."""
        pairs = zip(self.content, self.preference, strict=True)
        return [route(table.weight) for route, table in pairs]

    def edge_weights(self, content: list[Routed]) -> tuple[Tensor, Tensor]:
        """Return the edge weights in both directions: [E] to users and [E] to items.

        The weight is the maximum over modalities of the affinity times the confidence of the
        sending node, or 0 if all are negative.
        """
        weights = []
        for affinity, confidence, sender in (
            ([each.to_users for each in content], self.item_confidence, self.edges.item),
            ([each.to_items for each in content], self.user_confidence, self.edges.user),
        ):
            weighted = torch.stack(affinity, dim=1) * embedding(sender, confidence)  # [E, M]
            weights.append(weighted.amax(dim=1).relu())
        return weights[0], weights[1]

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return BPR and, with `l2`, the L2 penalty."""
        terms = {"bpr": bpr(*pair_scores(*lookup(batch, *self.encode())))}
        if self.l2:
            ids = lookup(batch, self.user.weight, self.item.weight)
            preferences = [table(batch.user) for table in self.preference]
            terms["l2"] = self.l2 * norm_penalty("squared", *ids, *preferences)
        return terms


class Routed(NamedTuple):
    """Content of one modality after routing.

    Attributes:
        users: [U, D].
        items: [I, D].
        to_users: [E], affinity of each edge as a softmax over the items of the user.
        to_items: [E], affinity of each edge as a softmax over the users of the item.
    """

    users: Tensor
    items: Tensor
    to_users: Tensor
    to_items: Tensor


class RoutedContent(nn.Module):
    """Neighbour routing of one modality: move user preferences towards matching items.

    Args:
        modality: features [I, F] and presence [I].
        edges: edges of the user-item graph.
        dim: embedding size D.
        routings: number of routing steps.
    """

    known: Tensor | None

    def __init__(
        self, modality: Modality, edges: InteractionEdges, dim: int, routings: int
    ) -> None:
        super().__init__()
        self.edges, self.routings = edges, routings
        self.project = ProjectedFeatures(modality, dim)
        nn.init.xavier_normal_(self.project.linear.weight)
        known = None if modality.present.all() else modality.present[edges.item]
        self.register_buffer("known", known, persistent=False)

    def forward(self, preference: Tensor) -> Routed:
        """Route, then propagate content once along the edges in both directions.

        Args:
            preference: initial user preferences, [U, D].
        """
        edges = self.edges
        items = unit_rows(leaky_relu(self.project()))  # [I, D]
        users = unit_rows(preference)
        for _ in range(self.routings):
            affinity = edges.user_softmax(edges.dots(users, items), self.known)
            users = unit_rows(users + edges.to_users(affinity, items))
        dots = edges.dots(users, items)  # [E]
        to_users = edges.user_softmax(dots, self.known)
        to_items = edges.item_softmax(dots, self.known)
        return Routed(
            users + edges.to_users(to_users, items),
            items + edges.to_items(to_items, users),
            to_users,
            to_items,
        )
