"""Rows of a batch, out of whole tables."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding

from mmrec.data import Triplets


def lookup(batch: Triplets, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch's users, positives and negatives.

    Positives and negatives are one look-up, as the gradient of each is as large as the table.

    Args:
        batch: of B pairs and K negatives each.
        users: [U, D].
        items: [I, D].

    Returns:
        [B, D], [B, D] and [B, K, D].
    """
    both = embedding(torch.cat([batch.positive.unsqueeze(1), batch.negative], dim=1), items)
    return embedding(batch.user, users), both[:, 0], both[:, 1:]
