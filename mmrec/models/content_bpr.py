"""Content BPR: user embeddings, and items as the mean of their projected modalities.

Bayesian personalised ranking (Rendle et al., UAI 2009, https://arxiv.org/abs/1205.2618) on content.
Items have no ID embedding, so cold-start items are scored like all others. It is the simplest
baseline for cold-start items and for more complex fusion. Ours: the item encoder, which normalises
features to unit length and averages over the modalities that an item has.

Shapes: N items, M modalities, F_m width of modality m, D embedding size, B batch, K negatives per
pair.
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
    """`s = <u, mean_m (W_m f_m + b_m)>`, with the mean over the modalities of the item.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        l2: weight of the squared norm of the batch's user and item vectors.
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
        """Average the projections of the present modalities; zero without any: [N, D]."""
        made = [project(x) for project, x in zip(self.project, content.rows, strict=True)]
        there = content.present.to(made[0].dtype)  # [N, M]
        total = torch.einsum("mnd,nm->nd", torch.stack(made), there)
        return total / there.sum(1, keepdim=True).clamp(min=1)

    def encode(self) -> Embeddings:
        """Encode items from content, and items without content as the mean item."""
        content = self.item_features()
        items = self.from_content(content)
        known = mean_item(items, content.present)
        return Embeddings(self.user.weight, fill_missing(items, content.present, known))

    def fallback_item(self) -> Tensor:
        """Return the mean item of the catalogue: [D]."""
        content = self.item_features()
        return mean_item(self.from_content(content), content.present)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return BPR and the L2 penalty of the batch."""
        rows = lookup(batch, *self.encode())  # [B, D] [B, D] [B, K, D]
        return {
            "bpr": bpr(*pair_scores(*rows)),
            "l2": self.l2 * norm_penalty("squared", *rows),
        }
