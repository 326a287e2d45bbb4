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


def lookup_nodes(
    batch: Triplets, nodes: Tensor, n_users: int, *, sparse: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The same out of one table, in one look-up.

    Args:
        batch: of B pairs and K negatives each.
        nodes: [U+I, D], users first.
        n_users: U.
        sparse: give the table a sparse gradient, for a table that gets a dense one elsewhere: the
            sum is dense, and costs no second table of zeros.

    Returns:
        [B, D], [B, D] and [B, K, D].
    """
    items = n_users + torch.cat([batch.positive.unsqueeze(1), batch.negative], dim=1)
    index = torch.cat([batch.user.unsqueeze(1), items], dim=1)  # [B, 2+K]
    rows = embedding(index, nodes, sparse=sparse)
    return rows[:, 0], rows[:, 1], rows[:, 2:]
