"""Parts of a split: repeated pairs, users without train interactions, and why a part is empty.

Shape legend: U users, N interactions.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from mmrec.config.errors import SettingError
from mmrec.data.corpus import (
    COLD_REMEDY,
    DROPPED,
    TEST,
    TRAIN,
    VAL,
    Interactions,
    Source,
    empty_part,
    lexsort,
)

log = logging.getLogger(__name__)


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
    name: str,
    interactions: Interactions,
    label: Tensor,
    n_users: int,
    rule: str,
    *,
    keep_repeats: bool = False,
) -> Tensor:
    """Drop repeated pairs, and held-out interactions of users without a train interaction.

    Of a repeated pair the row in the earliest split is kept, or all rows with `keep_repeats`.

    Args:
        name: of the data set.
        interactions: N rows.
        label: [N] int8 split of each.
        n_users: U.
        rule: name of the split.
        keep_repeats: repeated pairs are not dropped.

    Returns:
        [N] int8, with `DROPPED` for the rows that are dropped.

    Raises:
        DataError: no train, validation or test interaction is left; it says why.
    """
    repeated = torch.zeros_like(label, dtype=torch.bool)
    if not keep_repeats:
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
            raise empty_part(name, split, rule, reason)
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


def require_time(
    interactions: Interactions,
    setting: str,
    value: str,
    instead: str = "data.split=random_per_user",
    column: str = "timestamp",
) -> Tensor:
    """Return the time of interactions: [N].

    Args:
        interactions: N rows.
        setting: what needs time, for the error.
        value: of the setting.
        instead: another setting, for the error.
        column: what to add, for the error.

    Raises:
        SettingError: there is none.
    """
    if interactions.time is None:
        raise SettingError(
            setting=setting,
            value=value,
            problem="it needs time, found none",
            hint=f"add a {column} column to the file, name yours under data.columns, or choose "
            f"{instead}",
        )
    return interactions.time


def require_clock(source: Source, setting: str, value: str, instead: str) -> None:
    """Refuse positions within users where a common clock is needed.

    Raises:
        SettingError: names the setting and what to do.
    """
    if source.interactions.time is not None and not source.clock:
        raise SettingError(
            setting=setting,
            value=value,
            problem=f"it needs one clock for all users, and {source.name} has positions within "
            "each user",
            hint=f"add a timestamp column to the file, or choose {instead}",
        )


def place_and_count(user: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's place within its user under an order by user, and the user's count.

    Args:
        user: [N] int64.
        order: [N] int64, a permutation that sorts the rows by user.

    Returns:
        Two [N] int64.
    """
    count = torch.bincount(user)  # [U]
    first = count.cumsum(0) - count  # [U]
    place = torch.empty_like(user)
    place[order] = torch.arange(len(user)) - first[user[order]]
    return place, count[user]


def require_cold(source: Source) -> None:
    """Refuse data without cold items of their own where these are to be held out.

    Raises:
        SettingError: says what to do.
    """
    if source.cold is None:
        raise SettingError(
            setting="data.cold_items",
            value="given",
            problem=f"{source.name} has no cold items of its own",
            hint="add cold_items.csv (itemID, cold_label; data.world.cold_items where they are "
            "planted), or choose data.cold_items=random",
        )
