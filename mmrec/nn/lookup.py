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
    both = embedding(item_index(batch), items)
    # Two slices would have two gradients as large as the whole; a split has one.
    positive, negative = torch.split(both, [1, batch.negative.shape[1]], dim=1)
    return embedding(batch.user, users), positive.squeeze(1), negative


def node_index(batch: Triplets, n_users: int) -> Tensor:
    """Where a batch's users, positives and negatives stand in one table, users first.

    Args:
        batch: of B pairs and K negatives each.
        n_users: U.

    Returns:
        [B, 2+K].
    """
    return torch.cat([batch.user.unsqueeze(1), n_users + item_index(batch)], dim=1)


def item_index(batch: Triplets) -> Tensor:
    """A batch's items, each pair's positive before its negatives: [B, 1+K]."""
    return torch.cat([batch.positive.unsqueeze(1), batch.negative], dim=1)
