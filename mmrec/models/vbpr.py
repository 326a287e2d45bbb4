"""VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback.

He and McAuley, AAAI 2016. https://arxiv.org/abs/1510.01784

From the paper: Eq. 4 without the user and global offsets, which cancel in a comparison. Ours:
several modalities are one concatenated feature vector, scaled to unit mean square over the
catalogue; projected content starts at the scale of the item factors; and what is regularised is a
batch's projected content, not the projection.

D dim, F summed width of the modalities, B batch, K negatives a pair.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmrec.data import Corpus, Queries, Triplets, require_modalities
from mmrec.losses import Norm, bpr, norm_penalty, pair_scores
from mmrec.models.base import Recommender
from mmrec.nn import lookup, rms


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

    features: Tensor

    def __init__(
        self, corpus: Corpus, *, dim: int = 64, l2: float = 1e-2, norm: Norm = "squared"
    ) -> None:
        super().__init__(corpus)
        self.l2, self.norm = l2, norm
        modalities = require_modalities(corpus, "vbpr")
        features = torch.cat([m.features for m in modalities.values()], dim=1)  # [I, F]
        self.register_buffer("features", features, persistent=False)
        self.scale = 1 / float(rms(features))
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        self.user_content = nn.Embedding(corpus.n_users, dim)
        self.project = nn.Linear(features.shape[1], dim, bias=False)  # E
        self.bias = nn.Embedding(corpus.n_items, 1)
        self.content_bias = nn.Linear(features.shape[1], 1, bias=False)  # beta'
        for table in (self.user, self.item, self.user_content):
            nn.init.xavier_normal_(table.weight)
        xavier = (2 / (corpus.n_items + dim)) ** 0.5
        nn.init.normal_(self.project.weight, std=xavier / features.shape[1] ** 0.5)
        nn.init.zeros_(self.bias.weight)
        nn.init.zeros_(self.content_bias.weight)

    def encode(self) -> Encoded:
        """Eq. 4, once for all."""
        users = torch.cat([self.user.weight, self.user_content.weight], dim=1)
        items = torch.cat([self.item.weight, self.scale * self.project(self.features)], dim=1)
        bias = self.bias.weight + self.scale * self.content_bias(self.features)  # [I, 1]
        return Encoded(users, items, bias.squeeze(1))

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
