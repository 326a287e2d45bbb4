"""SMORE: Spectrum-based Modality Representation Fusion Graph Convolutional Network.

Ong and Khong, WSDM 2025. https://arxiv.org/abs/2412.14978

From the paper: all formulas. From its public code: features are trainable; item graphs are directed
and weighted by cosine, and each item is its own neighbour; the softmax of the preferences runs over
the embedding dimension; the contrastive loss has temperature 0.2. Ours: any number of modalities,
whose spectra and graphs are all fused; absent views have weight 0 in the mean of a node; nodes
without any view are excluded from the contrastive loss.

Shapes: U users, I items, N nodes (users, then items), M modalities, F_m width of modality m,
V = M + 1 views (one per modality, and their fusion), D embedding size, B batch, K negatives per
pair.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec.config.checks import check_at_least, check_share
from mmrec.config.errors import SettingError
from mmrec.data import Modality, TrainingView, Triplets, require_modalities
from mmrec.graphs import (
    check_neighbours,
    directed_content_graph,
    elementwise_maximum,
    normalized_adjacency,
    normalized_interactions,
)
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import (
    ModalityViews,
    ProjectedFeatures,
    Propagation,
    SpectralFusion,
    at_least_float32,
    contrast_views,
)
from mmrec.nn.lookup import pairs_with_negatives
from mmrec.nn.losses import bpr, norm_penalty, pair_scores

TEMPERATURE = 0.2
FUSION = "fusion"


class SMORE(Recommender):
    """LightGCN plus views of each modality and of their fusion, filtered in the frequency domain.

    `SpectralFusion` filters and fuses the projected features `p_m = W_m f_m + b_m`. `ModalityViews`
    computes the modality views x_m and the fusion view x. With LightGCN embeddings h:

    - attention over dimensions: `a_m = softmax(P_m tanh(Q_m x + c_m))`
    - gates: `g_v = dropout(sigmoid(G_v h + d_v))`
    - side embeddings: `s = (sum_m g_m * a_m * x_m + g * x) / (M + 1)`
    - final embeddings: `h + s`

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        layers: propagation steps over the user-item graph.
        item_layers: propagation steps over each item graph.
        neighbours: number of content neighbours per item, including the item itself; one number, or
            a number for each modality name. The fusion graph is the element-wise maximum of all.
        dropout: dropout rate of the gates, in [0, 1).
        l2: weight of the squared norm of the final embeddings in a batch.
        contrast: weight of the contrastive loss between h and s, for users and positive items.
    """

    present: Tensor | None

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 3,
        item_layers: int = 1,
        neighbours: int | Mapping[str, int] = 15,
        dropout: float = 0.1,
        l2: float = 1e-4,
        contrast: float = 0.01,
    ) -> None:
        check_at_least(1, dim=dim, item_layers=item_layers)
        check_at_least(0, layers=layers, l2=l2, contrast=contrast)
        check_share(dropout=dropout, whole=False)
        super().__init__(corpus)
        modalities = require_modalities(corpus, "smore")
        self.l2, self.contrast = l2, contrast
        self.names = (*modalities, FUSION)
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)
        size = corpus.n_users, corpus.n_items
        self.propagate = Propagation(normalized_adjacency(corpus.train, *size), layers)
        self.project = nn.ModuleList(
            ProjectedFeatures(modality, dim, trainable=True) for modality in modalities.values()
        )
        self.spectral = SpectralFusion(len(modalities), dim)
        present = torch.stack([modality.present for modality in modalities.values()], 1)  # [I, M]
        self.register_buffer("present", None if present.all() else present, persistent=False)
        graphs = item_graphs(modalities, neighbour_counts(modalities, neighbours))
        interactions = normalized_interactions(corpus.train, *size)
        self.views = ModalityViews(graphs, interactions, dim, layers=item_layers)
        self.complete = bool(self.views.present.any(1).all())
        self.attention = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim, bias=False))
            for _ in modalities
        )
        self.gate = nn.Linear(dim, len(self.names) * dim)
        self.dropout = nn.Dropout(dropout)

    def content(self) -> list[Tensor]:
        """Return the filtered modalities and their fusion: V tensors [I, D]."""
        projected = [project() for project in self.project]  # [I, D] each
        filtered: list[Tensor] = self.spectral(projected, self.present)
        return filtered

    def preferences(self, views: Tensor, behaviour: Tensor) -> Tensor:
        """Return the element-wise weights of views: [N, V, D] and [N, D] -> [N, V, D]."""
        gates: Tensor = self.dropout(torch.sigmoid(self.gate(behaviour)).view_as(views))
        fusion = views[:, -1]  # [N, D]
        logits = [at_least_float32(attention(fusion)) for attention in self.attention]
        weights = [logit.softmax(-1) for logit in logits]  # [N, D]
        return gates * torch.stack([*weights, torch.ones_like(weights[0])], 1)

    def side(self, views: Tensor, behaviour: Tensor, present: Tensor) -> Tensor:
        """Return the mean of the weighted views that are present: [N, D]."""
        count = present.sum(1, keepdim=True).clamp(min=1)
        return (self.preferences(views, behaviour) * views).sum(1) / count

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Return the LightGCN embeddings [N, D] and the views [N, V, D] of all nodes."""
        behaviour = self.propagate(torch.cat([self.user.weight, self.item.weight]))
        return behaviour, self.views(self.item.weight, self.content())

    def encode(self) -> Embeddings:
        """Return the sum of LightGCN embeddings and side embeddings."""
        behaviour, views = self.nodes()
        nodes = behaviour + self.side(views, behaviour, self.views.present)
        return Embeddings(*torch.split(nodes, [self.corpus.n_users, self.corpus.n_items]))

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return BPR, the L2 penalty, and the contrast of LightGCN embeddings with the views."""
        index = pairs_with_negatives(batch)
        rows = index.nodes(self.corpus.n_users)  # [B+B(1+K)]
        behaviour = self.propagate.rows(torch.cat([self.user.weight, self.item.weight]), rows)
        views = self.views.rows(self.item.weight, self.content(), index.user, index.item)
        present = self.views.present[rows]
        side = self.side(views, behaviour, present)
        final = index.parts(*index.sides(behaviour + side))  # [B, D] [B, D] [B, K, D]
        terms = {"bpr": bpr(*pair_scores(*final)), "l2": self.l2 * norm_penalty("squared", *final)}
        if self.contrast:
            viewed = None if self.complete else present.any(1)
            apart = contrast_views(index, side, behaviour, TEMPERATURE, viewed)
            terms["contrast"] = self.contrast * apart
        return terms

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Return the share of each view in the mean weights of an item: [I] each."""
        behaviour, views = self.nodes()
        users = self.corpus.n_users
        weights = self.preferences(views[users:], behaviour[users:]).mean(-1)  # [I, V]
        weights = weights * self.views.present[users:]
        shares = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
        return dict(zip(self.names, shares.unbind(1), strict=True))


def neighbour_counts(
    modalities: Mapping[str, Modality], neighbours: int | Mapping[str, int]
) -> dict[str, int]:
    """Return the number of neighbours in each modality.

    Raises:
        SettingError: the names are not those of the modalities, or a number is out of range.
    """
    if isinstance(neighbours, Mapping):
        if neighbours.keys() != modalities.keys():
            example = ",".join(f"{name}:15" for name in modalities)
            raise SettingError(
                setting="model.neighbours",
                value=dict(neighbours),
                expected=f"one number, or a number for each modality, for example {{{example}}}",
            )
        counts = {name: neighbours[name] for name in modalities}
        check_at_least(1, "model.neighbours", **counts)
    else:
        counts = dict.fromkeys(modalities, neighbours)
        check_at_least(1, neighbours=neighbours)
    for name, count in counts.items():
        check_neighbours({name: modalities[name]}, count, "model.neighbours", self_loops=True)
    return counts


def item_graphs(modalities: Mapping[str, Modality], counts: Mapping[str, int]) -> list[Tensor]:
    """Return the directed graph of each modality and their maximum: [I, I] sparse CSR each."""
    graphs = [directed_content_graph(m, counts[name]) for name, m in modalities.items()]
    return [*graphs, elementwise_maximum(graphs)]
