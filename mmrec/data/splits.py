"""Which interactions are for learning, for selection and for the one look at the end.

Every rule is a pure function from interactions to a label per row; `split_corpus` applies one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal, get_args

import torch
from torch import Tensor

from mmrec.config.checks import check_choice
from mmrec.config.errors import SettingError
from mmrec.data.corpus import (
    DROPPED,
    TEST,
    TRAIN,
    VAL,
    WARM,
    Corpus,
    Interactions,
    Source,
    lexsort,
    together,
)
from mmrec.data.parts import (
    drop_invalid,
    merge_repeats,
    place_and_count,
    repeated_pairs,
    require_clock,
    require_cold,
    require_time,
)

logger = logging.getLogger(__name__)

Split = Literal["official", "random_per_user", "leave_one_out", "temporal", "item_cold"]
ColdItems = Literal["given", "random", "newest"]

CUTOFFS = (0.8, 0.9)
COLD_SHARE = 0.2
NEEDED: dict[str | None, tuple[str, ...]] = {
    None: ("label",),
    "official": ("label",),
    "leave_one_out": ("time", "position"),
    "temporal": ("time",),
}


def needed_roles(
    split: str | None, cold_items: str | None, *, ordered: bool = False
) -> tuple[str, ...]:
    """Optional columns of the interactions that are read: time, position or label.

    Args:
        split: name of the rule.
        cold_items: of `item_cold`.
        ordered: the model reads the order of interactions.
    """
    order = ("time", "position") if ordered else ()
    if split == "item_cold":
        return (*(("time",) if cold_items == "newest" else ()), *order)
    return (*NEEDED.get(split, ()), *order)


def official(label: Tensor | None) -> Tensor:
    """The split given with the data.

    Args:
        label: [N] int8, or None where the data has none.

    Returns:
        The same [N] int8.

    Raises:
        SettingError: there is none.
    """
    if label is None:
        raise SettingError(
            setting="data.split",
            value="official",
            problem="it needs a split column (x_label: 0 train, 1 validation, 2 test), found none",
            hint="add it to the file, or choose data.split=random_per_user",
        )
    return label


def random_per_user(interactions: Interactions, *, seed: int, floor: bool = False) -> Tensor:
    """A random tenth of each user for validation and a tenth for test.

    A user with n interactions keeps all of them in train if n < 3, gives one to validation and one
    to test if n < 10, and gives round(n / 5) beyond, halved; of an odd number test gets one more.
    The label of a pair depends on the seed and on the set of pairs, not on the order of rows.

    Args:
        interactions: N of them.
        seed: of the choice.
        floor: a user with 10 or more gives floor(n / 5), as in the published Amazon splits.

    Returns:
        [N] int8.
    """
    user, item = interactions.user, interactions.item
    generator = torch.Generator().manual_seed(seed)
    key = torch.empty_like(user)
    key[lexsort(user, item)] = torch.randperm(len(user), generator=generator)
    place, count = place_and_count(user, lexsort(user, key))
    fifth = count // 5 if floor else (2 * count + 5) // 10
    held = torch.where(count < 10, 2, fifth).masked_fill(count < 3, 0)  # [N]
    label = torch.full_like(user, TRAIN, dtype=torch.int8)
    label[place < held] = TEST
    label[place < held // 2] = VAL
    return label


def leave_one_out(interactions: Interactions) -> Tensor:
    """Each user's last interaction for test, the one before it for validation.

    Equal times keep the order of rows. A user with fewer than three interactions stays in train.

    Returns:
        [N] int8.

    Raises:
        SettingError: the interactions have no time.
    """
    time = require_time(
        interactions, "data.split", "leave_one_out", column="timestamp or a position"
    )
    place, count = place_and_count(interactions.user, lexsort(interactions.user, time))
    label = torch.full_like(place, TRAIN, dtype=torch.int8)
    label[(place == count - 2) & (count >= 3)] = VAL
    label[(place == count - 1) & (count >= 3)] = TEST
    return label


def temporal(interactions: Interactions, *, cutoffs: Sequence[float] = CUTOFFS) -> Tensor:
    """Train up to one moment, validation up to a second, test after it, the same for all users.

    Args:
        interactions: with time in seconds; positions within a user have no common clock.
        cutoffs: the two moments, as fractions of the span from first to last interaction. What
            happens at the moment itself comes before it.

    Returns:
        [N] int8.

    Raises:
        SettingError: the interactions have no time, or the cut-offs are not two rising fractions.
    """
    if len(cutoffs) != 2 or not 0 < cutoffs[0] < cutoffs[1] < 1:
        expected = f"two rising fractions of the time span, both between 0 and 1, as {[*CUTOFFS]}"
        raise SettingError(setting="data.temporal_cutoffs", value=[*cutoffs], expected=expected)
    time = require_time(interactions, "data.split", "temporal")
    elapsed = (time - time.min()).double()  # [N]
    moments = elapsed.max() * torch.tensor(cutoffs, dtype=torch.float64)  # [2]
    return torch.searchsorted(moments, elapsed).to(torch.int8)


def item_cold(
    interactions: Interactions,
    *,
    n_items: int,
    seed: int,
    share: float = COLD_SHARE,
    newest: bool = False,
    cold: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A share of the items leaves train whole: half for validation, half for test.

    The random choice depends on the seed and the number of items alone, so not on the order of
    rows. Of an odd number of cold items test gets one more.

    Args:
        interactions: N of them.
        n_items: I.
        seed: of the choice.
        share: of all items that are cold.
        newest: choose those whose first interaction is the latest, the very last for test.
        cold: [I] int8, an assignment that stands instead of a choice.

    Returns:
        The label [N] int8 of each interaction, and of each item [I] int8: 0 warm, 1 cold for
        validation, 2 cold for test.

    Raises:
        SettingError: the newest are asked for, and the interactions have no time; or the share is
            not between 0 and 1.
    """
    if cold is None:
        if not 0 < share < 1:
            expected = f"a fraction of the items between 0 and 1, as {COLD_SHARE}"
            raise SettingError(setting="data.cold_share", value=share, expected=expected)
        n_cold = round(share * n_items)
        if newest:
            time = require_time(
                interactions, "data.cold_items", "newest", instead="data.cold_items=random"
            )
            first = torch.full((n_items,), torch.iinfo(torch.int64).min)
            first = first.scatter_reduce(0, interactions.item, time, "amin", include_self=False)
            order = first.argsort(stable=True)[n_items - n_cold :]
        else:
            order = torch.randperm(n_items, generator=torch.Generator().manual_seed(seed))[:n_cold]
        cold = torch.full((n_items,), TRAIN, dtype=torch.int8)
        cold[order] = TEST
        cold[order[: n_cold // 2]] = VAL
    return cold[interactions.item], cold


def hold_out_warm(interactions: Interactions, label: Tensor, *, seed: int) -> Tensor:
    """What `random_per_user` would hold out for test of each user's train interactions.

    That is one of a user with 3 to 9, and a tenth beyond: 12 to 18 % of all on sparse data. An item
    that would have none left keeps its own: it would not be warm.

    Args:
        interactions: N of them.
        label: [N] int8, of `item_cold`.
        seed: of the choice.

    Returns:
        [N] int8, the label with `WARM` for what leaves train.
    """
    rows = (label == TRAIN).nonzero().squeeze(1)
    train = interactions.select(rows)
    held = random_per_user(train, seed=seed) == TEST
    left = torch.bincount(train.item[~held], minlength=int(interactions.item.max()) + 1)
    return label.index_fill(0, rows[held & (left[train.item] > 0)], WARM)


def split_corpus(
    source: Source,
    *,
    split: Split,
    seed: int = 0,
    temporal_cutoffs: Sequence[float] = CUTOFFS,
    cold_share: float = COLD_SHARE,
    cold_items: ColdItems | None = None,
    warm_test: bool = True,
    draw_repeats: bool = False,
    keep_repeats: bool = False,
) -> Corpus:
    """Split a source by a rule into the corpus that everything else reads.

    A repeated user-item pair counts once, unless `keep_repeats` is set. `random_per_user`,
    `leave_one_out` and the warm test of `item_cold` see only its earliest interaction. Elsewhere
    the row in the earliest split is kept (train, validation, test), and of several there the first.
    Held-out interactions of users without a train interaction are dropped. Each part is ordered by
    user, and within a user as in the source.

    Args:
        source: what was read.
        split: name of the rule.
        seed: of `random_per_user` and `item_cold`.
        temporal_cutoffs: of `temporal`; this and the next three are refused, unless they have
            their default, where they would have no effect.
        cold_share: of `item_cold` where cold items are not given.
        cold_items: of `item_cold`: `given` with the source, `random`, or the `newest`; None: given
            where there are any, else random.
        warm_test: whether `item_cold` holds out warm interactions too, for test.
        draw_repeats: random splits draw from all rows, also of a repeated pair. A user then loses
            the held-out rows of which train has a copy.
        keep_repeats: each row of a repeated pair counts, for models that read sequences.

    Raises:
        DataError: a part comes out empty.
        SettingError: no such rule, a parameter out of range, or the source lacks what the rule
            needs.
    """
    data, cold, rule = source.interactions, None, str(split)
    defaults: dict[str, tuple[object, object, Split]] = {
        "cold_share": (cold_share, COLD_SHARE, "item_cold"),
        "cold_items": (cold_items, None, "item_cold"),
        "warm_test": (warm_test, True, "item_cold"),
        "temporal_cutoffs": (tuple(temporal_cutoffs), CUTOFFS, "temporal"),
    }
    for name, (value, default, reader) in defaults.items():
        if value != default and split != reader:
            problem = f"it is for data.split={reader}, not {split}"
            raise SettingError(setting=f"data.{name}", value=value, problem=problem)
    drawn = split == "random_per_user" or (split == "item_cold" and warm_test)
    merged: list[str] = []
    if keep_repeats:
        if kept := int(repeated_pairs(data).sum()):
            logger.info("%s: kept %d repeated user-item pairs", source.name, kept)
            merged = ["repeats kept"]
    elif split == "leave_one_out" or (drawn and not draw_repeats):
        data = merge_repeats(source.name, data)
        # Runs from before repeats were merged are told apart by the name of their split.
        merged = ["repeats merged"] * (data is not source.interactions)
    match split:
        case "official":
            label = official(source.label)
            rule += "".join(f"({word})" for word in merged)
        case "random_per_user":
            label = random_per_user(data, seed=seed)
            rule = f"random_per_user({', '.join([f'seed={seed}', *merged])})"
        case "leave_one_out":
            label = leave_one_out(data)
            _log_short_users(source.name, data)
            rule += "".join(f"({word})" for word in merged)
        case "temporal":
            require_clock(source, "data.split", "temporal", "data.split=leave_one_out")
            label = temporal(data, cutoffs=temporal_cutoffs)
            rule = f"temporal({', '.join([*map(str, temporal_cutoffs), *merged])})"
        case "item_cold":
            chosen = cold_items or ("random" if source.cold is None else "given")
            check_choice(ColdItems, "data", cold_items=chosen)
            if chosen == "given":
                require_cold(source)
            if chosen == "given" and cold_share != COLD_SHARE:
                raise SettingError(
                    setting="data.cold_share",
                    value=cold_share,
                    problem=f"{source.name} comes with its cold items",
                    hint="leave it out, or have others chosen by data.cold_items=random or newest",
                )
            if chosen != "given" and source.cold is not None:
                logger.info(
                    "data.cold_items=%s leaves aside the cold items that %s comes with",
                    chosen,
                    source.name,
                )
            if chosen == "given" and seed:
                logger.info(
                    "%s comes with its cold items: data.split_seed=%d draws %s; "
                    "data.cold_items=random draws cold ones too",
                    source.name,
                    seed,
                    "what is held out of warm ones" if warm_test else "nothing",
                )
            if chosen == "newest":
                require_clock(source, "data.cold_items", "newest", "data.cold_items=random")
            label, cold = item_cold(
                data,
                n_items=source.n_items,
                seed=seed,
                share=cold_share,
                newest=chosen == "newest",
                cold=source.cold if chosen == "given" else None,
            )
            if warm_test:
                label = hold_out_warm(data, label, seed=seed)
            told: list[str] = [] if chosen == "random" else [chosen]
            if chosen == "random" or warm_test:
                told.append(f"seed={seed}")
            if chosen != "given":
                told.append(f"share={cold_share}")
            rule = f"item_cold({', '.join([*told, *['warm test'] * warm_test, *merged])})"
        case _:
            nearest = get_close_matches(split, get_args(Split), n=1, cutoff=0)[0]
            hint = f"did you mean {nearest}?"
            raise SettingError(
                setting="data.split", value=split, problem="no such split", hint=hint
            )

    label = drop_invalid(source.name, data, label, source.n_users, rule, keep_repeats=keep_repeats)
    order = data.user.argsort(stable=True)
    train, val, test, warm = (
        data.select(order[label[order] == part]) for part in (TRAIN, VAL, TEST, WARM)
    )
    return Corpus(
        name=source.name,
        n_users=source.n_users,
        n_items=source.n_items,
        train=train,
        val=val,
        test=test,
        split=rule,
        fingerprint=source.fingerprint,
        modalities=source.modalities,
        categories=source.categories,
        cold=cold,
        warm=None if cold is None else warm,
        user_ids=source.user_ids,
        item_ids=source.item_ids,
        item_titles=source.item_titles,
        removed=_in_no_part(source.removed, data.select(label == DROPPED)),
        filtered=source.removed is not None,
        clock=source.clock,
    )


def _in_no_part(removed: Interactions | None, dropped: Interactions) -> Interactions | None:
    """Pairs that filters removed and that the split dropped; None if there are none."""
    if not len(dropped):
        return removed
    return dropped if removed is None else together(removed, dropped)


def _log_short_users(name: str, interactions: Interactions) -> None:
    """Log how many users leave_one_out keeps whole in train."""
    count = torch.bincount(interactions.user)
    if short := int(((count > 0) & (count < 3)).sum()):
        logger.info(
            "%s: %d users with fewer than three interactions are kept in train; nothing of them "
            "is held out",
            name,
            short,
        )
