"""Checked user-item pairs for a metric without a corpus."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrec.data.corpus import Interactions
from mmrec.evaluation.protocol import Evaluation


def checked_pairs(
    held_out: Tensor, seen: Tensor | None, n_users: int, n_items: int, cutoffs: Sequence[int]
) -> tuple[tuple[Interactions, Interactions], tuple[int, ...]]:
    """Return held-out and seen pairs as interactions, and the cutoffs.

    Args:
        held_out: users and held-out items, [2, N] int64.
        seen: pairs to mask, [2, M] int64; None masks none.
        n_users: number of users U.
        n_items: number of items I.
        cutoffs: lengths of the lists, in ascending order.

    Raises:
        ValueError: a pair is out of range, there is no held-out pair, or a cutoff is invalid.
    """
    masked = torch.empty(2, 0, dtype=torch.int64) if seen is None else seen
    for name, given in (("held_out", held_out), ("seen", masked)):
        if given.ndim != 2 or len(given) != 2 or given.dtype != torch.int64:
            found = f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
            raise ValueError(f"{name} is {found}, expected int64 [2, N], users and items")
        for row, count, kind in ((given[0], n_users, "a user"), (given[1], n_items, "an item")):
            if len(row) and (row.min() < 0 or row.max() >= count):
                raise ValueError(f"{kind} of {name} lies outside 0..{count - 1}")
    if not held_out.numel():
        raise ValueError("held_out has no pair; at least one is required")
    lengths = Evaluation(cutoffs=tuple(cutoffs)).cutoffs
    if lengths[-1] > n_items:
        raise ValueError(f"the cutoff {lengths[-1]} exceeds the catalogue of {n_items} items")
    return (Interactions(*held_out.cpu()), Interactions(*masked.cpu())), lengths
