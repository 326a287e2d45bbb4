"""Gated LightGCN: gated fusion of modalities in a light graph recommender (RLMultimodalRec).

arXiv 2506.00107, 2025. https://arxiv.org/abs/2506.00107

A re-implementation from the public abstract; no code or formula is public. From the paper: a gated
fusion balances the modalities of each item; a two-layer LightGCN without non-linearities propagates
over the user-item graph. Ours: everything else, above all what the gate sees, where the fused
content enters (`item_init`, `late_add`), `content_l2` and `loss`. A free linear map of content is
one more embedding table: unless its output is regularised as ID embeddings are, it overfits within
epochs and the model falls below LightGCN.

U users, I items, M modalities, F_m width of modality m, D dim, B batch, K negatives a pair.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmrec.checks import check_at_least, check_choice
from mmrec.data import TrainingView, Triplets, require_modalities
from mmrec.graphs import normalized_adjacency
from mmrec.losses import norm_penalty
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import Fusion, FusionKind, Loss, Preference, Projection, Propagation

ItemInit = Literal["id+modal", "id", "modal"]


class GatedLightGCN(Recommender):
    """LightGCN over items that bear a gated mixture of their projected modalities.

    `p_m = W_m f_m + b_m`, `g = softmax_m(linear([p_1, ..., p_M]))`, `c_i = sum_m g_m * p_m`.

    Args:
        corpus: what the model learns from; it needs at least one modality.
        dim: embedding size D.
        layers: number of propagation steps.
        fusion: `vector` gates every dimension by itself, `scalar` a modality as a whole; `mean`,
            `sum` and `concat` have no gate.
        item_init: what an item brings to the graph: its ID embedding, its fused content, or both.
        late_add: add the fused content once more to the propagated item; without it and with
            `item_init` "id" no content is left, which is refused.
        l2: weight of the squared norm of a batch's ID embeddings.
        content_l2: weight of the squared norm of a batch's fused content, of a pair in the mean;
            in a softmax, of a distinct item.
        loss: `bpr`; or `softmax` over the items of a batch, by cosine, in ranking too.
        temperature: of the softmax.
    """

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
            raise ValueError(
                "model.item_init=id with model.late_add=false leaves content out; change one of "
                "them, or choose model=lightgcn"
            )
        self.l2, self.content_l2 = l2, content_l2
        self.item_init, self.late_add = item_init, late_add
        modalities = require_modalities(corpus, "gated_lightgcn")
        self.user = nn.Embedding(corpus.n_users, dim)
        nn.init.xavier_uniform_(self.user.weight)
        if item_init != "modal":
            self.item = nn.Embedding(corpus.n_items, dim)
            nn.init.xavier_uniform_(self.item.weight)
        self.preference = Preference(corpus, loss, temperature)
        self.reads_negatives = not self.preference.softmax
        self.project = Projection(modalities, dim)
        self.fuse = Fusion(len(modalities), dim, kind=fusion)
        adjacency = normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items)
        self.propagate = Propagation(adjacency, layers)

    def content(self) -> tuple[Tensor, Tensor | None]:
        """Fused content [I, D] and the gate's weights [I, M, D or 1], if there is a gate."""
        fused: tuple[Tensor, Tensor | None] = self.fuse(self.project(), self.project.present)
        return fused

    def propagated(self) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse, propagate, and add the content once more: [U, D], [I, D], and content [I, D]."""
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
        """As a score takes them."""
        users, items, _ = self.propagated()
        return Embeddings(self.preference.compared(users), self.preference.compared(items))

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Preference, and the norms of what is looked up and of what is projected."""
        users, items, content = self.propagated()
        picked = self.preference.pick(batch)
        fused = picked.of_items(embedding(picked.item, content))  # [B, D] [B, K, D], or distinct
        ids: tuple[Tensor, ...] = (self.user(batch.user),)
        if self.item_init != "modal":
            ids = picked.rows(self.user.weight, self.item.weight)
        return {
            **self.preference(picked, *picked.rows(users, items)),
            "l2": self.l2 * norm_penalty("squared", *ids),
            "content_l2": self.content_l2 * norm_penalty("squared", *fused),
        }

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Each modality's gate, the mean over dimensions: [I] each; empty without a gate."""
        _, weights = self.content()
        if weights is None:
            return {}
        return dict(zip(self.project.names, weights.mean(-1).unbind(1), strict=True))
