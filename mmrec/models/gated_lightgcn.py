"""Gated LightGCN: gated fusion of modalities in a light graph recommender (RLMultimodalRec).

arXiv 2506.00107, 2025. https://arxiv.org/abs/2506.00107

A re-implementation from the public abstract; no code or formula is public. From the paper: a gated
fusion balances the modalities of each item; a two-layer LightGCN without non-linearities propagates
over the user-item graph. Ours: everything else, in particular the input of the gate, the places
where fused content is added (`item_init`, `late_add`), `content_l2` and `loss`. A linear map of
content acts like another embedding table: without the same regularization as ID embeddings it
overfits within a few epochs, and the model ranks worse than LightGCN.

Shapes: U users, I items, M modalities, F_m width of modality m, D embedding size, B batch, K
negatives per pair.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmrec.config.checks import check_at_least, check_choice
from mmrec.config.errors import SettingError
from mmrec.data import TrainingView, Triplets, require_modalities
from mmrec.graphs import normalized_adjacency
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import (
    Features,
    Fusion,
    FusionKind,
    Loss,
    Propagation,
    RankingLoss,
    embedding_linear,
)
from mmrec.nn.losses import norm_penalty

ItemInit = Literal["id+modal", "id", "modal"]


class GatedLightGCN(Recommender):
    """LightGCN whose items include a gated mixture of their projected modalities.

    `p_m = W_m f_m + b_m`, `g = softmax_m(linear([p_1, ..., p_M]))`, `c_i = sum_m g_m * p_m`.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        layers: number of propagation steps.
        fusion: `vector` has a gate per modality and dimension, `scalar` one per modality; `mean`,
            `sum` and `concat` have no gate.
        item_init: input of an item to the graph: its ID embedding, its fused content, or both.
        late_add: add the fused content again after propagation; required with `item_init="id"`,
            which otherwise does not use content.
        l2: weight of the squared norm of the ID embeddings in a batch.
        content_l2: weight of the squared norm of the fused content in a batch, averaged over pairs;
            with `softmax`, over distinct items.
        loss: `bpr`, or `softmax` of cosines over the items of a batch, which ranks by cosine too.
        temperature: temperature of the softmax.

    Raises:
        SettingError: with `item_init="id"` and `late_add=False` the model would not use content.
    """

    present: Tensor

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        fusion: FusionKind = "vector",
        item_init: ItemInit = "id+modal",
        late_add: bool = True,
        l2: float = 1e-2,
        content_l2: float = 1e-2,
        loss: Loss = "bpr",
        temperature: float = 0.2,
    ) -> None:
        check_choice(FusionKind, fusion=fusion)
        check_choice(ItemInit, item_init=item_init)
        check_at_least(1, dim=dim)
        check_at_least(0, layers=layers, l2=l2, content_l2=content_l2)
        super().__init__(corpus)
        if item_init == "id" and not late_add:
            raise SettingError(
                setting="model.item_init",
                value=item_init,
                problem="with model.late_add=false, content is not used",
                hint="change one of the two settings, or use model=lightgcn",
            )
        self.l2, self.content_l2 = l2, content_l2
        self.item_init, self.late_add = item_init, late_add
        modalities = require_modalities(corpus, "gated_lightgcn")
        self.user = nn.Embedding(corpus.n_users, dim)
        nn.init.xavier_uniform_(self.user.weight)
        if item_init != "modal":
            self.item = nn.Embedding(corpus.n_items, dim)
            nn.init.xavier_uniform_(self.item.weight)
        self.ranking_loss = RankingLoss(corpus, loss, temperature)
        self.reads_negatives = not self.ranking_loss.softmax
        self.modalities = tuple(modalities)
        features = [Features(modality, standardize=True) for modality in modalities.values()]
        self.features = nn.ModuleList(features)
        self.project = nn.ModuleList(embedding_linear(each, dim) for each in features)
        present = torch.stack([each.present for each in features], dim=1)  # [I, M]
        self.register_buffer("present", present, persistent=False)
        self.fuse = Fusion(len(modalities), dim, kind=fusion)
        adjacency = normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items)
        self.propagate = Propagation(adjacency, layers)

    def content(self) -> tuple[Tensor, Tensor | None]:
        """Return the fused content [I, D] and the gates [I, M, D or 1]; None without gates."""
        parts = [project(x()) for x, project in zip(self.features, self.project, strict=True)]
        projected = torch.stack(parts, dim=1) * self.present.unsqueeze(-1)  # [I, M, D]
        fused: tuple[Tensor, Tensor | None] = self.fuse(projected, self.present)
        return fused

    def propagated(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return propagated users [U, D], propagated items [I, D] and fused content [I, D]."""
        content, _ = self.content()
        match self.item_init:
            case "id+modal":
                items = self.item.weight + content
            case "id":
                items = self.item.weight
            case "modal":
                items = content
        users, items = self.propagate(torch.cat([self.user.weight, items])).split(
            [self.corpus.n_users, self.corpus.n_items]
        )
        return users, items + content if self.late_add else items, content

    def encode(self) -> Embeddings:
        """Return the final embeddings, normalised if the loss uses cosines."""
        users, items, _ = self.propagated()
        return Embeddings(self.ranking_loss.normalized(users), self.ranking_loss.normalized(items))

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return the ranking loss and the penalties of ID embeddings and of fused content."""
        users, items, content = self.propagated()
        index = self.ranking_loss.index(batch)
        # [B, D] and [B, K, D]; with softmax, the distinct items
        fused = index.of_items(embedding(index.item, content))
        ids: tuple[Tensor, ...] = (self.user(batch.user),)
        if self.item_init != "modal":
            ids = index.rows(self.user.weight, self.item.weight)
        return {
            **self.ranking_loss(index, *index.rows(users, items)),
            "l2": self.l2 * norm_penalty("squared", *ids),
            "content_l2": self.content_l2 * norm_penalty("squared", *fused),
        }

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Return the gate of each modality, averaged over dimensions: [I] each; {} without gate."""
        _, weights = self.content()
        if weights is None:
            return {}
        return dict(zip(self.modalities, weights.mean(-1).unbind(1), strict=True))
