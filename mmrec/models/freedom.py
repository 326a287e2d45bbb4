"""FREEDOM: A Tale of Two Graphs: Freezing and Denoising Graph Structures.

Zhou and Shen, MM 2023. https://arxiv.org/abs/2211.06924

From the paper: all formulas. From its public code: features are trainable, each item is its own
neighbour, `content_weight` scales the content terms of the loss, and the loss has no L2 term. Ours:
support for any number of modalities and for items that lack one.

Shapes: U users, I items, M modalities, F_m width of modality m, D embedding size, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec.config.checks import check_at_least, check_share
from mmrec.data import TrainingView, Triplets, require_modalities
from mmrec.graphs import (
    check_neighbours,
    modality_shares,
    normalized_adjacency,
    sampled_adjacency,
    weighted_content_graph,
)
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import Features, Propagation, SparseMatrix
from mmrec.nn.lookup import pairs_with_negatives
from mmrec.nn.losses import bpr, pair_scores


class FREEDOM(Recommender):
    """LightGCN on a user-item graph with pruned edges, plus a frozen item graph from content.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        layers: propagation steps over the user-item graph.
        item_layers: propagation steps over the item graph.
        neighbours: number of content neighbours per item, including the item itself.
        modality_weights: share of each modality in the item graph (Eq. 4). None gives `image` a
            share of 0.1 and divides the rest among the others, as in the paper; without `image`
            all shares are equal.
        edge_dropout: share of user-item edges pruned in each epoch, in [0, 1). An edge is kept
            with a probability proportional to `1 / sqrt(d_u d_i)` (Eq. 7).
        content_weight: weight of the BPR terms of projected content (Eq. 12).
    """

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        item_layers: int = 1,
        neighbours: int = 10,
        modality_weights: Mapping[str, float] | None = None,
        edge_dropout: float = 0.8,
        content_weight: float = 1e-3,
    ) -> None:
        check_at_least(1, dim=dim, neighbours=neighbours)
        check_at_least(0, layers=layers, item_layers=item_layers, content_weight=content_weight)
        check_share(edge_dropout=edge_dropout, whole=False)
        super().__init__(corpus)
        modalities = require_modalities(corpus, "freedom")
        check_neighbours(modalities, neighbours, "model.neighbours", self_loops=True)
        self.item_layers, self.edge_dropout = item_layers, edge_dropout
        self.content_weight = content_weight
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)
        shares = modality_shares(modalities, modality_weights)
        item_graph = weighted_content_graph(modalities, shares, neighbours)  # Eq. 1 to 4
        self.item_graph = SparseMatrix(item_graph)
        adjacency = normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items)
        self.propagate = Propagation(adjacency, layers)
        self.pruned = self.propagate
        if content_weight:
            self.features = nn.ModuleList(
                Features(modality, trainable=True) for modality in modalities.values()
            )
            self.project = nn.ModuleList(nn.Linear(m.width, dim) for m in modalities.values())

    def start_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Sample the user-item edges of the epoch and normalise the resulting graph."""
        super().start_epoch(epoch, generator)
        if self.edge_dropout:
            adjacency = sampled_adjacency(
                self.corpus, 1 - self.edge_dropout, generator=generator, by_degree=True
            )
            self.pruned = Propagation(adjacency.to(self.device), self.propagate.layers)

    def encode(self) -> Embeddings:
        """Return the sum of the embeddings of both graphs (Eq. 10)."""
        graph = self.pruned if self.training else self.propagate
        nodes = graph(torch.cat([self.user.weight, self.item.weight]))  # [U+I, D]  Eq. 8
        users, items = nodes.split([self.corpus.n_users, self.corpus.n_items])
        content = self.item.weight
        for _ in range(self.item_layers):
            content = self.item_graph(content)  # [I, D]  Eq. 5
        return Embeddings(users, items + content)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return BPR of the final embeddings, and of users with projected content (Eq. 12)."""
        users, items = self.encode()
        index = pairs_with_negatives(batch)
        terms = {"bpr": bpr(*pair_scores(*index.rows(users, items)))}
        if self.content_weight:
            seen, place = torch.unique(index.item, return_inverse=True)  # [R] [B(1+K)]
            index = index._replace(item=place)  # only these items are projected
            of_content = [
                bpr(*pair_scores(*index.rows(users, project(features(seen)))))
                for features, project in zip(self.features, self.project, strict=True)
            ]
            terms["content"] = self.content_weight * torch.stack(of_content).sum()
        return terms
