"""VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback.

He and McAuley, AAAI 2016. https://arxiv.org/abs/1510.01784

From the paper: Eq. 4 without the user and global offsets, which cancel in a comparison. Ours:
several modalities add up, as if concatenated, each centred and brought to one scale; projected
content starts at the scale of the item factors; and what is regularised is a batch's projected
content, not the projection. Centring, and the projection's bias, add the same to a user's scores of
all items that have the modality: that cancels too.

D dim, B batch, K negatives a pair.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmrec.checks import check_at_least, check_choice
from mmrec.data import Queries, TrainingView, Triplets, require_modalities
from mmrec.losses import Norm, bpr, norm_penalty, pair_scores
from mmrec.models.base import Recommender
from mmrec.nn import Projection, lookup


class Encoded(NamedTuple):
    """Collaborative and content factors side by side."""

    users: Tensor  # [U, 2D]
    items: Tensor  # [I, 2D]
    bias: Tensor  # [I]


class VBPR(Recommender):
    """Matrix factorisation whose items also bear projected content, and a content bias.

    Args:
        corpus: what the model learns from; it needs at least one modality.
        dim: size D of the collaborative and of the content factors.
        l2: weight of the norm of a batch's factors and biases.
        norm: `squared` as in the paper, or `frobenius`.
    """

    def __init__(
        self, corpus: TrainingView, *, dim: int = 64, l2: float = 1e-2, norm: Norm = "squared"
    ) -> None:
        check_at_least(1, dim=dim)
        check_choice(Norm, norm=norm)
        check_at_least(0, l2=l2)
        super().__init__(corpus)
        self.dim, self.l2, self.norm = dim, l2, norm
        modalities = require_modalities(corpus, "vbpr")
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        self.user_content = nn.Embedding(corpus.n_users, dim)
        self.project = Projection(modalities, dim + 1)  # E, and beta' below it
        self.bias = nn.Embedding(corpus.n_items, 1)
        for table in (self.user, self.item, self.user_content):
            nn.init.xavier_normal_(table.weight)
        nn.init.zeros_(self.bias.weight)

    def encode(self) -> Encoded:
        """Eq. 4, once for all."""
        users = torch.cat([self.user.weight, self.user_content.weight], dim=1)
        content, content_bias = self.project().sum(1).split([self.dim, 1], dim=1)
        items = torch.cat([self.item.weight, content], dim=1)
        return Encoded(users, items, (self.bias.weight + content_bias).squeeze(1))

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """BPR-Opt over Eq. 4."""
        users, items, bias = self.encode()
        rows = lookup(batch, users, items)  # [B, 2D] [B, 2D] [B, K, 2D]
        b_i, b_j = bias[batch.positive], bias[batch.negative]  # [B] [B, K]
        positive, negative = pair_scores(*rows)
        return {
            "bpr": bpr(positive + b_i, negative + b_j),
            "l2": self.l2 * norm_penalty(self.norm, *rows, b_i, b_j),
        }

    def score(self, encoded: Encoded, queries: Queries) -> Tensor:
        """Dot products and biases."""
        return encoded.users[queries.user] @ encoded.items.T + encoded.bias  # [B, I]
