"""Rows of embedding tables for a training batch.

Shapes: U users, I items, B pairs of a batch, K negatives of a pair, M selected items, D embedding
size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from mmrec.data import Triplets


class BatchIndex(NamedTuple):
    """Indices of the users and items that a batch compares.

    Attributes:
        user: [B].
        item: [M]. Either the positive of each pair followed by its K negatives, M = B(1+K); or the
            distinct positives of the batch.
        own: [B] position of each pair's positive among the distinct positives; None with negatives.
    """

    user: Tensor
    item: Tensor
    own: Tensor | None

    def nodes(self, n_users: int) -> Tensor:
        """Return indices into one table of all users, then all items: [B+M]."""
        return torch.cat([self.user, n_users + self.item])

    def sides(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Split rows of `nodes` [B+M, D] into users [B, D] and items [M, D]."""
        users, items = torch.split(rows, [len(self.user), len(self.item)])
        return users, items

    def parts(self, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """Return the users, and the items as from `of_items`."""
        return users, *self.of_items(items)

    def of_items(self, items: Tensor) -> tuple[Tensor, ...]:
        """Split items [M, D] into positives [B, D] and negatives [B, K, D].

        Distinct positives are returned as they are: a tuple of one tensor.
        """
        if self.own is not None:
            return (items,)
        several = items.view(len(self.user), -1, items.shape[-1])
        # The gradient of a split is one tensor of the size of the input; two slices have two.
        positive, negative = torch.split(several, [1, several.shape[1] - 1], dim=1)
        return positive.squeeze(1), negative

    def rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """Look up the batch in tables [U, D] and [I, D]; returns the same as `parts`."""
        return self.parts(embedding(self.user, users), embedding(self.item, items))


def pairs_with_negatives(batch: Triplets) -> BatchIndex:
    """Index each positive followed by its negatives, so that one lookup finds all of them."""
    items = torch.cat([batch.positive.unsqueeze(1), batch.negative], dim=1)  # [B, 1+K]
    return BatchIndex(batch.user, items.flatten(), None)


def distinct_items(batch: Triplets) -> BatchIndex:
    """Index the distinct positives of a batch; its negatives are not used."""
    return BatchIndex(batch.user, *torch.unique(batch.positive, return_inverse=True))


def lookup(batch: Triplets, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
    """Look up the users, positives and negatives of a batch.

    Args:
        batch: B pairs with K negatives each.
        users: [U, D].
        items: [I, D].

    Returns:
        [B, D], [B, D] and [B, K, D].
    """
    return pairs_with_negatives(batch).rows(users, items)
