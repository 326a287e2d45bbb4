"""Content BPR: free users, items that are the mean of their projected modalities.

Bayesian personalised ranking (Rendle et al., UAI 2009, https://arxiv.org/abs/1205.2618) over items
that have no embedding of their own, so that one without interactions is scored like any other: the
first thing to try for cold items, and the yardstick of what cleverer fusion is worth. Ours: rows of
length one, and the mean over the modalities that an item has.

N items, M modalities, F_m width of modality m, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrec.config.checks import check_at_least
from mmrec.data import TrainingView, Triplets, require_modalities
from mmrec.models.base import Embeddings
from mmrec.models.content import ContentRecommender
from mmrec.nn import Content, ItemFeatures, fill_missing, lookup, mean_item
from mmrec.nn.losses import bpr, norm_penalty, pair_scores


class ContentBPR(ContentRecommender):
    """`s = <u, mean_m (W_m f_m + b_m)>`, the mean over what the item has.

    Args:
        corpus: what the model learns from; it needs at least one modality.
        dim: D.
        l2: weight of the squared norm of a batch's users and items.
    """

    def __init__(self, corpus: TrainingView, *, dim: int = 128, l2: float = 1e-4) -> None:
        check_at_least(1, dim=dim)
        check_at_least(0, l2=l2)
        super().__init__(corpus)
        self.l2 = l2
        self.item_features = ItemFeatures(require_modalities(corpus, "content_bpr"))
        self.user = nn.Embedding(corpus.n_users, dim)
        nn.init.normal_(self.user.weight, std=0.1)
        self.project = nn.ModuleList(nn.Linear(width, dim) for width in self.item_features.widths)

    def from_content(self, content: Content) -> Tensor:
        """Over the modalities that an item has; zero without any: [N, D]."""
        made = [project(x) for project, x in zip(self.project, content.rows, strict=True)]
        there = content.present.to(made[0].dtype)  # [N, M]
        total = torch.einsum("mnd,nm->nd", torch.stack(made), there)
        return total / there.sum(1, keepdim=True).clamp(min=1)

    def encode(self) -> Embeddings:
        """Users as they are, items from their content; those without any are the mean item."""
        content = self.item_features()
        items = self.from_content(content)
        known = mean_item(items, content.present)
        return Embeddings(self.user.weight, fill_missing(items, content.present, known))

    def fallback_item(self) -> Tensor:
        """The mean item of the catalogue."""
        content = self.item_features()
        return mean_item(self.from_content(content), content.present)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """BPR, and the norms of what is looked up."""
        rows = lookup(batch, *self.encode())  # [B, D] [B, D] [B, K, D]
        return {
            "bpr": bpr(*pair_scores(*rows)),
            "l2": self.l2 * norm_penalty("squared", *rows),
        }
