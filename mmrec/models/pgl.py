"""PGL: Mind Individual Information! Principal Graph Learning for Multimedia Recommendation.

Yu, Tan, Lu and Bao, AAAI 2025. https://doi.org/10.1609/aaai.v39i12.33429

From the paper: training on a principal subgraph of the user-item graph, and ranking with the whole
graph. From its public code: items have no ID embeddings; features are trainable; the item graph is
that of FREEDOM; the contrastive loss compares two dropout copies of the batch's embeddings with
temperature 0.2. Ours: any number of modalities, and items that lack one. The global subgraph is
the truncated SVD, which needs no users x items matrix; the public code multiplies the 16 largest of
64 singular values by the 16 smallest, and then drops entries below 0.001.

Shapes: U users, I items, M modalities, D embedding size of a modality, B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.config.errors import SettingError
from mmrec.data import TrainingView, Triplets, require_modalities
from mmrec.graphs import (
    check_neighbours,
    modality_shares,
    normalized_adjacency,
    normalized_interactions,
    sampled_adjacency,
    truncated_svd,
    weighted_content_graph,
)
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import LowRankPropagation, ProjectedFeatures, Propagation, SparseMatrix, lookup
from mmrec.nn.losses import bpr, info_nce, pair_scores

PrincipalGraph = Literal["local", "global"]
TEMPERATURE = 0.2


class PGL(Recommender):
    """LightGCN over content, trained on the principal part of its graph.

    The initial vector of an item is the concatenation of its projected modalities, each of unit
    norm. Users have an embedding of the same size.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D of each modality.
        layers: propagation steps over the user-item graph.
        item_layers: propagation steps over the item graph.
        neighbours: number of content neighbours per item, including the item itself.
        modality_weights: share of each modality in the item graph. None gives `image` a share of
            0.1 and divides the rest among the others; without `image` all shares are equal.
        graph: graph of the training steps. `local` samples edges in each epoch, with a probability
            proportional to `1 / sqrt(d_u d_i)`; `global` is a fixed reconstruction of the
            normalised interactions from their largest singular values.
        edge_dropout: share of edges dropped with `graph="local"`, in [0, 1).
        rank: number of singular values with `graph="global"`. A singular value of the interactions
            corresponds to two of the whole graph, of which the public code keeps 16.
        dropout: dropout rate of the embeddings in the contrastive loss, in [0, 1).
        contrast: weight of the contrastive loss.

    Raises:
        SettingError: `rank` is not below the number of users and of items.
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
        graph: PrincipalGraph = "local",
        edge_dropout: float = 0.7,
        rank: int = 8,
        dropout: float = 0.2,
        contrast: float = 0.05,
    ) -> None:
        check_at_least(1, dim=dim, neighbours=neighbours, rank=rank)
        check_at_least(0, layers=layers, item_layers=item_layers, contrast=contrast)
        check_choice(PrincipalGraph, graph=graph)
        check_share(edge_dropout=edge_dropout, dropout=dropout, whole=False)
        super().__init__(corpus)
        modalities = require_modalities(corpus, "pgl")
        check_neighbours(modalities, neighbours, "model.neighbours", self_loops=True)
        self.item_layers, self.contrast = item_layers, contrast
        self.edge_dropout = edge_dropout if graph == "local" else 0.0
        self.user = nn.Embedding(corpus.n_users, len(modalities) * dim)
        for of_modality in torch.split(self.user.weight.detach(), dim, dim=1):
            nn.init.xavier_uniform_(of_modality)
        self.project = nn.ModuleList(
            ProjectedFeatures(modality, dim, trainable=True, unit=True)
            for modality in modalities.values()
        )
        shares = modality_shares(modalities, modality_weights)
        self.item_graph = SparseMatrix(weighted_content_graph(modalities, shares, neighbours))
        self.dropout = nn.Dropout(dropout)
        size = corpus.n_users, corpus.n_items
        self.propagate = Propagation(normalized_adjacency(corpus.train, *size), layers)
        self.principal: nn.Module = self.propagate
        if graph == "global":
            if rank >= min(size):
                raise SettingError(
                    setting="model.rank",
                    value=rank,
                    expected=f"less than {min(size)}, the number of users or items",
                )
            factors = truncated_svd(normalized_interactions(corpus.train, *size), rank)
            self.principal = LowRankPropagation(*factors, layers)

    def start_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Sample the edges of the epoch and normalise the resulting graph."""
        super().start_epoch(epoch, generator)
        if self.edge_dropout:
            adjacency = sampled_adjacency(
                self.corpus, 1 - self.edge_dropout, generator=generator, by_degree=True
            )
            self.principal = Propagation(adjacency.to(self.device), self.propagate.layers)

    def encode(self) -> Embeddings:
        """Propagate over the user-item graph, and add item vectors of the item graph."""
        content = torch.cat([project() for project in self.project], dim=1)  # [I, M*D]
        graph = self.principal if self.training else self.propagate
        nodes = graph(torch.cat([self.user.weight, content]))  # [U+I, M*D]
        users, items = nodes.split([self.corpus.n_users, self.corpus.n_items])
        for _ in range(self.item_layers):
            content = self.item_graph(content)
        return Embeddings(users, items + content)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return BPR, and the contrast between two dropout copies of users and positive items."""
        users, positives, negatives = lookup(batch, *self.encode())
        terms = {"bpr": bpr(*pair_scores(users, positives, negatives))}
        if self.contrast:
            apart = [
                info_nce(self.dropout(rows), self.dropout(rows), TEMPERATURE, cosine=True)
                for rows in (users, positives)
            ]
            terms["contrast"] = self.contrast * torch.stack(apart).mean()
        return terms
