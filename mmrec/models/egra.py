"""EGRA: Enhancing the Behavior Graph and Representation Alignment for Multimodal Recommendation.

arXiv 2508.16170, 2025. https://arxiv.org/abs/2508.16170

A re-implementation from the public abstract and related work; no code is public. From the paper:
the behaviour graph includes an item graph, built from the item representations of a pretrained
multimodal recommender; the alignment of modality and behaviour representations weighs each entity
by its degree of alignment, and its overall strength grows during training. Ours: all formulas and
constants. The modality branch is that of MGCN (Yu et al., MM 2023,
https://arxiv.org/abs/2308.03588); the joint graph resembles that of GUME (Lin et al., CIKM 2024,
https://arxiv.org/abs/2407.12338).

Shapes: U users, I items, N nodes (users, then items), D embedding size, B batch, K negatives per
pair, T dimension of the teacher's embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from mmrec.config.checks import check_at_least, check_choice
from mmrec.data import Modality, TrainingView, Triplets, content_hash, require_modalities
from mmrec.graphs import (
    check_neighbours,
    content_similarity,
    csr_matrix,
    directed_content_graph,
    joint_adjacency,
    normalized_adjacency,
    normalized_interactions,
    symmetric_normalization,
)
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import (
    FusedViews,
    ModalityViews,
    ProjectedFeatures,
    Propagation,
    SparseMatrix,
    ViewFusion,
)
from mmrec.nn.lookup import pairs_with_negatives
from mmrec.nn.losses import bpr, info_nce, norm_penalty, pair_scores

Merge = Literal["joint", "branch", "none"]
Focus = Literal["hard", "easy", "none"]
RampShape = Literal["linear", "exp", "constant"]
Sides = Literal["both", "users", "items"]
LARGEST = 5.0  # maximum weight of an entity; the mean weight is 1


class EGRA(Recommender):
    """LightGCN over a behaviour graph with a pretrained item graph, aligned with content views.

    LightGCN on the normalised adjacency `[[0, R], [R^T, gamma S]]` gives the behaviour embeddings
    b, where S holds cosines of the teacher's item embeddings. The modality branch (`ModalityViews`,
    `ViewFusion`) gives f. The final embeddings are `b + f`.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        layers: propagation steps over the behaviour graph.
        item_graph: `joint` adds S to the behaviour graph, `branch` propagates over S separately and
            adds the result to the items, `none` does not use S.
        gamma: weight of S in the joint graph, relative to the weight 1 of an interaction; used only
            with `item_graph="joint"`.
        neighbours: neighbours per item in S, and in the graph of each modality, which includes the
            item itself.
        align: strength of the alignment at the end of its ramp.
        ramp: growth of the strength: `linear`, `exp` (fast at first) or `constant`.
        ramp_epochs: length of the ramp in epochs.
        temperature: temperature of the alignment.
        focus: weight of entities in the alignment: `hard`, `(1 - degree)^rho`; `easy`,
            `degree^rho`; or `none`. The degree of alignment is `(1 + cos(b, f)) / 2`; weights have
            a mean of 1 and are clipped at 5.
        rho: exponent of the weights.
        sides: align `both`, only `users`, or only `items`.
        l2: weight of the squared norm of the final embeddings in a batch.
        teacher: embeddings of a pretrained model; None computes S from mean content cosines.
    """

    teacher_items: Tensor

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        item_graph: Merge = "joint",
        gamma: float = 0.5,
        neighbours: int = 10,
        align: float = 0.01,
        ramp: RampShape = "linear",
        ramp_epochs: int = 50,
        temperature: float = 0.2,
        focus: Focus = "hard",
        rho: float = 1.0,
        sides: Sides = "both",
        l2: float = 1e-4,
        teacher: Embeddings | None = None,
    ) -> None:
        check_at_least(1, dim=dim, neighbours=neighbours, ramp_epochs=ramp_epochs)
        check_at_least(0, layers=layers, gamma=gamma, align=align, rho=rho, l2=l2)
        check_at_least(0.01, temperature=temperature)  # below, a single negative dominates
        check_choice(Merge, item_graph=item_graph)
        check_choice(RampShape, ramp=ramp)
        check_choice(Focus, focus=focus)
        check_choice(Sides, sides=sides)
        super().__init__(corpus)
        modalities = require_modalities(corpus, "egra")
        check_neighbours(modalities, neighbours, "model.neighbours")
        self.names = tuple(modalities)
        self.l2, self.align, self.ramp, self.ramp_epochs = l2, align, ramp, ramp_epochs
        self.temperature, self.focus, self.rho, self.sides = temperature, focus, rho, sides
        self.strength = self.strength_at(0)
        size = corpus.n_users, corpus.n_items
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)

        of_teacher = torch.zeros(0, 0) if teacher is None else teacher.items
        self.register_buffer("teacher_items", of_teacher)  # [I, T]
        compared = modalities if teacher is None else {"teacher": as_modality(teacher.items)}
        if item_graph == "joint" and gamma:
            similar = content_similarity(compared, neighbours)
            adjacency = joint_adjacency(corpus.train, *size, similar, gamma)
        else:
            adjacency = normalized_adjacency(corpus.train, *size)
        self.propagate = Propagation(adjacency, layers)
        self.branch: SparseMatrix | None = None
        if item_graph == "branch":
            similar = normalized(content_similarity(compared, neighbours))
            self.branch = SparseMatrix(similar, symmetric=True)

        self.project = nn.ModuleList(
            ProjectedFeatures(modality, dim, trainable=True) for modality in modalities.values()
        )
        graphs = [directed_content_graph(m, neighbours) for m in modalities.values()]
        self.views = ModalityViews(graphs, normalized_interactions(corpus.train, *size), dim)
        self.fuse = ViewFusion(len(modalities), dim)

    @classmethod
    def without_teacher(cls, settings: Mapping[str, Any]) -> str | None:
        """Name the setting that disables the item graph, and with it the teacher."""
        if settings.get("item_graph") == "none":
            return "item_graph"
        joint = settings.get("item_graph", "joint") == "joint"
        return "gamma" if joint and settings.get("gamma") == 0 else None

    @classmethod
    def teacher_in(cls, state: Mapping[str, Tensor]) -> Embeddings | None:
        """Return the teacher's item embeddings; user embeddings are not stored, so [0, T]."""
        items = state["teacher_items"]
        return Embeddings(items[:0], items) if len(items) else None

    def start_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Set the strength of the alignment."""
        super().start_epoch(epoch, generator)
        self.strength = self.strength_at(epoch)

    def strength_at(self, epoch: int) -> float:
        """Return the strength of the alignment in an epoch, counted from 0."""
        share = min((epoch + 1) / self.ramp_epochs, 1.0)
        match self.ramp:
            case "linear":
                return self.align * share
            case "exp":
                return self.align * (1 - math.exp(-5 * share)) / (1 - math.exp(-5))
            case "constant":
                return self.align

    @property
    def table(self) -> Tensor:
        """ID embeddings of all nodes: [N, D]."""
        return torch.cat([self.user.weight, self.item.weight])

    def branch_items(self) -> Tensor | None:
        """Return the item embeddings of the separate graph, [I, D]; None without one."""
        return None if self.branch is None else self.branch(self.item.weight)

    def nodes(self) -> tuple[Tensor, FusedViews]:
        """Return the behaviour embeddings [N, D] and the fused views of all nodes."""
        behaviour = self.propagate(self.table)
        if (added := self.branch_items()) is not None:
            behaviour = torch.cat([behaviour[: -len(added)], behaviour[-len(added) :] + added])
        views = self.views(self.item.weight, [project() for project in self.project])  # [N, M, D]
        return behaviour, self.fuse(views, behaviour, self.views.present)

    def encode(self) -> Embeddings:
        """Return the sum of behaviour and content embeddings."""
        behaviour, content = self.nodes()
        nodes = behaviour + content.vectors
        return Embeddings(*torch.split(nodes, [self.corpus.n_users, self.corpus.n_items]))

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return BPR, the alignment of users and positive items, and the L2 penalty."""
        index = pairs_with_negatives(batch)
        rows = index.nodes(self.corpus.n_users)  # [B+B(1+K)]
        behaviour = self.propagate.rows(self.table, rows)
        if (added := self.branch_items()) is not None:
            users, items = index.sides(behaviour)
            behaviour = torch.cat([users, items + added[index.item]])
        projected = [project() for project in self.project]  # [I, D] each
        views = self.views.rows(self.item.weight, projected, index.user, index.item)
        content = self.fuse(views, behaviour, self.views.present[rows]).vectors
        final = index.parts(*index.sides(behaviour + content))  # [B, D] [B, D] [B, K, D]
        terms = {"bpr": bpr(*pair_scores(*final)), "l2": self.l2 * norm_penalty("squared", *final)}
        if self.strength:
            of_users, of_items = (
                self.alignment(b, f, self.views.present[nodes].any(1))
                for b, f, nodes in zip(
                    index.parts(*index.sides(behaviour))[:2],
                    index.parts(*index.sides(content))[:2],
                    (batch.user, self.corpus.n_users + batch.positive),
                    strict=True,
                )
            )
            if self.sides != "items":
                terms["align_users"] = self.strength * of_users
            if self.sides != "users":
                terms["align_items"] = self.strength * of_items
        return terms

    def alignment(self, behaviour: Tensor, content: Tensor, viewed: Tensor) -> Tensor:
        """Return the weighted InfoNCE loss of the entities with content: [B, D] twice -> []."""
        if not viewed.all():
            behaviour, content = behaviour[viewed], content[viewed]
        weights = self.entity_weights(degree(behaviour, content))
        return info_nce(behaviour, content, self.temperature, cosine=True, weights=weights)

    def entity_weights(self, degree: Tensor) -> Tensor | None:
        """Return weights from degrees of alignment, [B] -> [B]; None if all are equal."""
        match self.focus:
            case "hard":
                weights = (1 - degree).pow(self.rho)
            case "easy":
                weights = degree.pow(self.rho)
            case "none":
                return None
        return (weights / weights.mean().clamp(min=1e-12)).clamp(max=LARGEST)

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Return the attention of each modality: [I] each."""
        _, content = self.nodes()
        return content.item_weights(self.names, self.corpus.n_users)

    @torch.no_grad()
    def item_measures(self) -> dict[str, Tensor]:
        """Return the degree of alignment, its weight, and the gates of modalities: [I] each.

        Alignment values are NaN for items without content, which are excluded from the alignment.
        """
        users, present = self.corpus.n_users, self.views.present
        behaviour, content = self.nodes()
        viewed = present[users:].any(1)  # [I]
        aligned = degree(behaviour[users:], content.vectors[users:])[viewed]
        weights = self.entity_weights(aligned)
        weights = torch.ones_like(aligned) if weights is None else weights
        found = {"alignment degree": aligned, "alignment weight": weights}
        unknown = behaviour.new_full((len(viewed),), torch.nan)
        measures = {name: unknown.masked_scatter(viewed, value) for name, value in found.items()}
        return {**measures, **content.item_measures(self.names, users, present)}


def degree(behaviour: Tensor, content: Tensor) -> Tensor:
    """Return the degree of alignment of entities, in [0, 1], without gradient: [B, D] -> [B]."""
    cosine = cosine_similarity(behaviour.detach(), content.detach(), dim=-1)
    return ((1 + cosine) / 2).clamp(0, 1)  # rounding can exceed the range


def as_modality(items: Tensor) -> Modality:
    """Wrap item embeddings [I, T] as a modality, so that their graph is cached."""
    present = torch.ones(len(items), dtype=torch.bool)
    return Modality(items, present, content_hash([items]))


def normalized(graph: Tensor) -> Tensor:
    """Normalise a symmetric graph by the row sums of both ends of each edge: [I, I] sparse CSR."""
    (row, column), size = graph.to_sparse().indices(), len(graph)
    values = symmetric_normalization(row, column, graph.values(), size)
    return csr_matrix(row, column, values, (size, size))
