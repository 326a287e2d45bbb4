"""Rows of a batch, out of whole tables."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from mmrec.data import Triplets


class Picked(NamedTuple):
    """The rows that a batch of B pairs is compared by.

    Attributes:
        user: [B].
        item: [M]; each pair's positive before its K negatives, or the distinct positives.
        own: [B] where among the distinct positives a user's stands; None where they are not.
    """

    user: Tensor
    item: Tensor
    own: Tensor | None

    def nodes(self, n_users: int) -> Tensor:
        """Where they stand in one table, users first: [B+M]."""
        return torch.cat([self.user, n_users + self.item])

    def sides(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of `nodes` as those of users and of items: [B+M, D] -> [B, D] and [M, D]."""
        users, items = torch.split(rows, [len(self.user), len(self.item)])
        return users, items

    def parts(self, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """[B, D] and [M, D] -> users, positives [B, D], negatives [B, K, D]; or as they are."""
        return users, *self.of_items(items)

    def of_items(self, items: Tensor) -> tuple[Tensor, ...]:
        """[M, D] -> positives [B, D] and negatives [B, K, D]; or as they are."""
        if self.own is not None:
            return (items,)
        several = items.view(len(self.user), -1, items.shape[-1])
        # Two slices would have two gradients as large as the whole; a split has one.
        positive, negative = torch.split(several, [1, several.shape[1] - 1], dim=1)
        return positive.squeeze(1), negative

    def rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """The parts, out of whole tables [U, D] and [I, D]."""
        return self.parts(embedding(self.user, users), embedding(self.item, items))


def pairs_with_negatives(batch: Triplets) -> Picked:
    """Each pair's positive before its negatives: one look-up, as its gradient is a whole table."""
    items = torch.cat([batch.positive.unsqueeze(1), batch.negative], dim=1)  # [B, 1+K]
    return Picked(batch.user, items.flatten(), None)


def distinct_items(batch: Triplets) -> Picked:
    """The items that a batch's users have, each once."""
    return Picked(batch.user, *torch.unique(batch.positive, return_inverse=True))


def lookup(batch: Triplets, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
    """A batch's users, positives and negatives, out of whole tables.

    Args:
        batch: of B pairs and K negatives each.
        users: [U, D].
        items: [I, D].

    Returns:
        [B, D], [B, D] and [B, K, D].
    """
    return pairs_with_negatives(batch).rows(users, items)
