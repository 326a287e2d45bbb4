"""Rows of embedding tables for a training batch.

Shapes: U users, I items, B pairs of a batch, K negatives per pair, M selected items, D embedding
size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from mmrec.data import Triplets


class BatchIndex(NamedTuple):
    """Indices of the users and items compared in a batch.

    Attributes:
        user: users, [B].
        item: items, [M]: either the positive of each pair followed by its K negatives, with
            M = B(1+K), or the distinct positives of the batch.
        own: position of each positive among the distinct positives, [B]; None with negatives.
    """

    user: Tensor
    item: Tensor
    own: Tensor | None

    def nodes(self, n_users: int) -> Tensor:
        """Return row indices of a table of all users, then all items: [B+M]."""
        return torch.cat([self.user, n_users + self.item])

    def sides(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Split rows of `nodes` [B+M, D] into users [B, D] and items [M, D]."""
        users, items = torch.split(rows, [len(self.user), len(self.item)])
        return users, items

    def parts(self, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """Return the users, and the items split by `of_items`."""
        return users, *self.of_items(items)

    def of_items(self, items: Tensor) -> tuple[Tensor, ...]:
        """Split items [M, D] into positives [B, D] and negatives [B, K, D].

        Distinct positives are not split: the result is a tuple of one tensor.
        """
        if self.own is not None:
            return (items,)
        several = items.view(len(self.user), -1, items.shape[-1])
        # Unlike two slices, a split allocates only one gradient of the size of its input.
        positive, negative = torch.split(several, [1, several.shape[1] - 1], dim=1)
        return positive.squeeze(1), negative

    def rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """Look up the batch in tables [U, D] and [I, D], and split the result like `parts`."""
        return self.parts(embedding(self.user, users), embedding(self.item, items))


def pairs_with_negatives(batch: Triplets) -> BatchIndex:
    """Index each positive item followed by its negatives, for a single lookup."""
    items = torch.cat([batch.positive.unsqueeze(1), batch.negative], dim=1)  # [B, 1+K]
    return BatchIndex(batch.user, items.flatten(), None)


def distinct_items(batch: Triplets) -> BatchIndex:
    """Index the distinct positives of a batch, without negatives."""
    return BatchIndex(batch.user, *torch.unique(batch.positive, return_inverse=True))


def lookup(batch: Triplets, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
    """Look up the users, positives and negatives of a batch.

    Args:
        batch: B pairs with K negatives each.
        users: table of users, [U, D].
        items: table of items, [I, D].

    Returns:
        Users [B, D], positives [B, D] and negatives [B, K, D].
    """
    return pairs_with_negatives(batch).rows(users, items)
