"""Parts of a split: repeated pairs, users without train interactions, and why a part is empty.

Shape legend: U users, N interactions.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from mmrec.data.corpus import DROPPED, TEST, TRAIN, VAL, DataError, Interactions

log = logging.getLogger(__name__)

COLD_REMEDY = (
    "check the cold items that are given (cold_items.csv, data.world.cold_items), or change "
    "data.cold_share where they are chosen"
)


def lexsort(*keys: Tensor) -> Tensor:
    """Sort rows by several keys, the first one first; the sort is stable."""
    return torch.from_numpy(np.lexsort([key.numpy() for key in reversed(keys)]))


def repeated_pairs(interactions: Interactions, *before: Tensor) -> Tensor:
    """Find all but one row of each user-item pair.

    Args:
        interactions: N rows.
        before: keys [N]; the row that is smallest in them counts, of equal ones the first.

    Returns:
        [N] bool.
    """
    order = lexsort(interactions.user, interactions.item, *before)
    user, item = interactions.user[order], interactions.item[order]
    repeated = torch.zeros(len(order), dtype=torch.bool)
    repeated[order[1:]] = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    return repeated


def merge_repeats(name: str, interactions: Interactions) -> Interactions:
    """Keep the earliest row of each user-item pair.

    Args:
        name: of the data set, for the log.
        interactions: N rows; without time, the first row of a pair is the earliest.

    Returns:
        The rows that are left, in their order; the same object if no pair is repeated.
    """
    time = interactions.time
    repeated = repeated_pairs(interactions, *([] if time is None else [time]))
    if not repeated.any():
        return interactions
    log.info(
        "%s: merged %d repeated user-item pairs before the split; the earliest interaction of a "
        "pair counts",
        name,
        repeated.sum(),
    )
    return interactions.select(~repeated)


def drop_invalid(
    name: str, interactions: Interactions, label: Tensor, n_users: int, rule: str
) -> Tensor:
    """Drop repeated pairs, and held-out interactions of users without a train interaction.

    Of a repeated pair the row in the earliest split is kept.

    Args:
        name: of the data set.
        interactions: N rows.
        label: [N] int8 split of each.
        n_users: U.
        rule: name of the split.

    Returns:
        [N] int8, with `DROPPED` for the rows that are dropped.

    Raises:
        DataError: no train, validation or test interaction is left; it says why.
    """
    repeated = repeated_pairs(interactions, label)
    kept = label.masked_fill(repeated, DROPPED)
    has_train = torch.zeros(n_users, dtype=torch.bool)
    has_train[interactions.user[kept == TRAIN]] = True
    orphaned = (kept > TRAIN) & ~has_train[interactions.user]
    kept = kept.masked_fill(orphaned, DROPPED)
    lost = int((torch.bincount(interactions.user[orphaned]) > 0).sum())
    for dropped, what in (
        (repeated, "repeated user-item pairs"),
        (orphaned, f"held-out interactions of {lost} users without a train interaction"),
    ):
        if dropped.any():
            log.info("%s: dropped %d %s", name, dropped.sum(), what)
    for part, split in ((TRAIN, "train"), (VAL, "val"), (TEST, "test")):
        if not (kept == part).any():
            whole = label == part
            counts = [int((whole & dropped).sum()) for dropped in (repeated, orphaned)]
            reason = _why_empty(interactions, rule, part, int(whole.sum()), *counts)
            raise DataError(f"{name}: no {split} interaction is left under split={rule}; {reason}")
    return kept


def _why_empty(
    interactions: Interactions, rule: str, part: int, given: int, repeated: int, orphaned: int
) -> str:
    """Say why a part is empty, and what to do."""
    kind = rule.partition("(")[0]
    if given:
        return (
            f"{given} had this label, {repeated} of them repeat a pair of an earlier split, and "
            f"{orphaned} are of users without a train interaction: choose another data.split"
        )
    if kind == "official":
        return (
            f"the split column has no line with {part} (0 train, 1 validation, 2 test): add some, "
            "or choose data.split=random_per_user"
        )
    if kind == "temporal":
        return "change data.temporal_cutoffs, or choose another data.split"
    if kind == "item_cold":
        return COLD_REMEDY
    most = int(torch.bincount(interactions.user).max()) if len(interactions) else 0
    return (
        f"it needs users with at least 3 different items, and the most active user has {most}: add "
        "interactions, or provide a split column with data.split=official"
    )
