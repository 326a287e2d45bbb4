"""MGCN: Multi-View Graph Convolutional Network for Multimedia Recommendation.

Yu et al., MM 2023. https://arxiv.org/abs/2308.03588

From the paper: all formulas. From its public code: features are trainable; item graphs are directed
and weighted by cosine, and each item is its own neighbour; the contrastive loss has temperature
0.2. Ours: any number of modalities; absent modalities have weight 0 in attention, gates and mean;
nodes without any view are excluded from the contrastive loss.

Shapes: U users, I items, N nodes (users, then items), M modalities, F_m width of modality m,
D embedding size, B batch, K negatives per pair.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrec.config.checks import check_at_least
from mmrec.data import TrainingView, Triplets, require_modalities
from mmrec.graphs import (
    check_neighbours,
    directed_content_graph,
    normalized_adjacency,
    normalized_interactions,
)
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import (
    FusedViews,
    ModalityViews,
    ProjectedFeatures,
    Propagation,
    ViewFusion,
    contrast_views,
)
from mmrec.nn.lookup import pairs_with_negatives
from mmrec.nn.losses import bpr, norm_penalty, pair_scores

TEMPERATURE = 0.2


class MGCN(Recommender):
    """LightGCN plus views of each modality, whose common and specific parts are fused.

    `ModalityViews` computes views of the projected features `p_m = W_m f_m + b_m`, and `ViewFusion`
    fuses them to s. With the LightGCN embeddings h, the final embeddings are `h + s`.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        layers: propagation steps over the user-item graph.
        item_layers: propagation steps over each item graph.
        neighbours: number of content neighbours per item, including the item itself.
        l2: weight of the squared norm of the final embeddings in a batch.
        contrast: weight of the contrastive loss between h and s, for users and positive items.
    """

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        item_layers: int = 1,
        neighbours: int = 10,
        l2: float = 1e-4,
        contrast: float = 0.01,
    ) -> None:
        check_at_least(1, dim=dim, item_layers=item_layers, neighbours=neighbours)
        check_at_least(0, layers=layers, l2=l2, contrast=contrast)
        super().__init__(corpus)
        modalities = require_modalities(corpus, "mgcn")
        check_neighbours(modalities, neighbours, "model.neighbours", self_loops=True)
        self.l2, self.contrast = l2, contrast
        self.names = tuple(modalities)
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)
        size = corpus.n_users, corpus.n_items
        self.propagate = Propagation(normalized_adjacency(corpus.train, *size), layers)
        self.project = nn.ModuleList(
            ProjectedFeatures(modality, dim, trainable=True) for modality in modalities.values()
        )
        graphs = [directed_content_graph(m, neighbours) for m in modalities.values()]
        interactions = normalized_interactions(corpus.train, *size)
        self.views = ModalityViews(graphs, interactions, dim, layers=item_layers)
        self.fuse = ViewFusion(len(modalities), dim)
        self.complete = bool(self.views.present.any(1).all())

    def nodes(self) -> tuple[Tensor, FusedViews]:
        """Return the LightGCN embeddings [N, D] and the fused views of all nodes."""
        behaviour = self.propagate(torch.cat([self.user.weight, self.item.weight]))
        views = self.views(self.item.weight, [project() for project in self.project])  # [N, M, D]
        return behaviour, self.fuse(views, behaviour, self.views.present)

    def encode(self) -> Embeddings:
        """Return the sum of LightGCN embeddings and fused views."""
        behaviour, side = self.nodes()
        nodes = behaviour + side.vectors
        return Embeddings(*torch.split(nodes, [self.corpus.n_users, self.corpus.n_items]))

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return BPR, the L2 penalty, and the contrast of LightGCN embeddings with the views."""
        index = pairs_with_negatives(batch)
        rows = index.nodes(self.corpus.n_users)  # [B+B(1+K)]
        behaviour = self.propagate.rows(torch.cat([self.user.weight, self.item.weight]), rows)
        content = [project() for project in self.project]  # [I, D] each
        views = self.views.rows(self.item.weight, content, index.user, index.item)
        present = self.views.present[rows]
        side = self.fuse(views, behaviour, present).vectors
        final = index.parts(*index.sides(behaviour + side))  # [B, D] [B, D] [B, K, D]
        terms = {"bpr": bpr(*pair_scores(*final)), "l2": self.l2 * norm_penalty("squared", *final)}
        if self.contrast:
            viewed = None if self.complete else present.any(1)
            apart = contrast_views(index, side, behaviour, TEMPERATURE, viewed)
            terms["contrast"] = self.contrast * apart
        return terms

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Return the attention of each modality: [I] each."""
        _, side = self.nodes()
        return side.item_weights(self.names, self.corpus.n_users)

    @torch.no_grad()
    def item_measures(self) -> dict[str, Tensor]:
        """Return the mean gate of the specific part of each modality: [I] each."""
        _, side = self.nodes()
        return side.item_measures(self.names, self.corpus.n_users, self.views.present)
