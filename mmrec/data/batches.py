"""Batches that models learn from, and queries that they rank the catalogue for.

Sequences of items are packed: the items of all sequences of a batch stand one after the other in
one flat tensor, beside the length of each sequence. There is no padding, so no mask.

Shape legend: B users or pairs of a batch, N items of all its sequences together, T targets,
K negatives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Triplets(NamedTuple):
    """Observed pairs, each with items that its user does not have in train."""

    user: Tensor  # [B] int64
    positive: Tensor  # [B] int64
    negative: Tensor  # [B, K] int64


class Pairs(NamedTuple):
    """Observed pairs."""

    user: Tensor  # [B] int64
    item: Tensor  # [B] int64


class History(NamedTuple):
    """Item sequences in order of time, packed.

    Attributes:
        item: [N] int64; the items of the first sequence, then those of the second, and so on.
        length: [B] int64, number of items of each sequence; 0 for a user without any.
        time: [N] int64, seconds (or positions within a user); None if the data have none.
    """

    item: Tensor
    length: Tensor
    time: Tensor | None = None

    def last(self) -> Tensor:
        """Return the place of each sequence's last item in `item`: [B]."""
        return self.length.cumsum(0) - 1


class Sequences(NamedTuple):
    """Sequences, and the items that follow at some of their positions.

    Attributes:
        user: [B] int64.
        history: the sequences.
        position: [T] int64, places in `history.item` after which a target follows.
        target: [T] int64, the items that follow.
        negative: [T, K] int64, items that the user does not have in train.
        chance: [T, K], probability of each negative to be the one that is drawn.
    """

    user: Tensor
    history: History
    position: Tensor
    target: Tensor
    negative: Tensor
    chance: Tensor


class Queries(NamedTuple):
    """Users for whom the whole catalogue is scored.

    Attributes:
        user: [B] int64.
        history: their sequences; None for a model that does not declare `needs_history`.
    """

    user: Tensor
    history: History | None = None

    def require_history(self) -> History:
        """Return the sequences.

        Raises:
            ValueError: there are none.
        """
        if self.history is None:
            raise ValueError("these queries have no histories, which the model needs")
        return self.history


def ranges(begin: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Enumerate `begin[b], ..., begin[b] + length[b] - 1` for each b.

    Args:
        begin: [B] int64.
        length: [B] int64, 0 or more.

    Returns:
        The b [N] and the value [N] of each element, in order of b.
    """
    row = torch.arange(len(begin), device=begin.device).repeat_interleave(length)  # [N]
    first = length.cumsum(0) - length  # [B]
    return row, torch.arange(len(row), device=begin.device) + (begin - first)[row]
