"""VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback.

He and McAuley, AAAI 2016. https://arxiv.org/abs/1510.01784

From the paper: Eq. 4 without the user and global offsets, which cancel in pairwise comparisons.
Ours: several modalities are summed, which equals their concatenation; features are standardized,
and projected content initially has the scale of the item factors; the L2 term penalises the
projected content of a batch instead of the projection. Centering and the bias of the projection
change a user's scores of all items with the modality by the same constant, which also cancels.

Shapes: U users, I items, M modalities, D embedding size, B batch, K negatives per pair.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmrec.config.checks import check_at_least, check_choice
from mmrec.data import Queries, TrainingView, Triplets, require_modalities
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import Features, embedding_linear, lookup
from mmrec.nn.losses import Norm, bpr, norm_penalty, pair_scores


class Encoded(NamedTuple):
    """Concatenated collaborative and content factors, and item biases.

    Scores are dot products plus biases. Biases are kept apart from the factors, so that they do
    not influence the similarity of items.
    """

    users: Tensor  # [U, 2D]
    items: Tensor  # [I, 2D]
    bias: Tensor  # [I]


class VBPR(Recommender):
    """Matrix factorization with content factors and biases, both linear in the features.

    Args:
        corpus: training interactions and at least one modality.
        dim: size D of the collaborative and of the content factors.
        l2: weight of the norm of the factors and biases in a batch.
        norm: `squared` as in the paper, or `frobenius`.
    """

    present: Tensor

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
        features = [Features(modality, standardize=True) for modality in modalities.values()]
        self.features = nn.ModuleList(features)
        # The last row of each map is beta', the others are E.
        self.project = nn.ModuleList(embedding_linear(each, dim + 1) for each in features)
        present = torch.stack([each.present for each in features], dim=1)  # [I, M]
        self.register_buffer("present", present, persistent=False)
        self.bias = nn.Embedding(corpus.n_items, 1)
        for table in (self.user, self.item, self.user_content):
            nn.init.xavier_normal_(table.weight)
        nn.init.zeros_(self.bias.weight)

    def encode(self) -> Encoded:
        """Return the factors and biases of Eq. 4."""
        users = torch.cat([self.user.weight, self.user_content.weight], dim=1)
        parts = [project(x()) for x, project in zip(self.features, self.project, strict=True)]
        projected = torch.stack(parts, dim=1) * self.present.unsqueeze(-1)  # [I, M, D+1]
        content, content_bias = torch.split(projected.sum(1), [self.dim, 1], dim=1)
        items = torch.cat([self.item.weight, content], dim=1)
        return Encoded(users, items, (self.bias.weight + content_bias).squeeze(1))

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return the BPR-Opt criterion of Eq. 4 and the L2 penalty."""
        users, items, bias = self.encode()
        rows = lookup(batch, users, items)  # [B, 2D] [B, 2D] [B, K, 2D]
        b_i, b_j = bias[batch.positive], bias[batch.negative]  # [B] [B, K]
        positive, negative = pair_scores(*rows)
        return {
            "bpr": bpr(positive + b_i, negative + b_j),
            "l2": self.l2 * norm_penalty(self.norm, *rows, b_i, b_j),
        }

    def dot_product(self, encoded: Encoded) -> Embeddings:
        """Append the biases to the item vectors, and a 1 to all user vectors."""
        ones = encoded.users.new_ones(len(encoded.users), 1)
        return Embeddings(
            torch.cat([encoded.users, ones], 1),
            torch.cat([encoded.items, encoded.bias[:, None]], 1),
        )

    def score(self, encoded: Encoded, queries: Queries) -> Tensor:
        """Add the item biases to the dot products: [B, I]."""
        return encoded.users[queries.user] @ encoded.items.T + encoded.bias
