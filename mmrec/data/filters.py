"""Which interactions of a file are used: by the values of a column, by rating, and by k-core.

Shape legend: U users, I items, N interactions.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mmrec.config.errors import SettingError
from mmrec.data.corpus import Categories, DataError, Interactions, Modality, Source, content_hash
from mmrec.data.parts import repeated_pairs
from mmrec.data.tables import Column, FileTable, shown
from mmrec.tables.headers import unused_signals

log = logging.getLogger(__name__)

Scalar = str | int | float | bool | None
Where = Mapping[str, Scalar | list[Scalar]]


def select_rows(
    name: str,
    table: FileTable,
    columns: Mapping[str, Column],
    *,
    where: Where,
    min_rating: float | None,
    used: Sequence[str],
) -> tuple[dict[str, Column], dict[str, Column]]:
    """Apply the filters on single rows, and log what each removes.

    Args:
        name: of the data set.
        table: interactions as they were read.
        columns: columns of the table by role; `user` and `item`, and `rating` with `min_rating`.
        where: accepted values by column; a column of the file without its type.
        min_rating: smallest rating of an interaction that counts.
        used: names of all columns that are read.

    Returns:
        The columns with the rows that are left, and users and items of the rows that are removed.

    Raises:
        DataError: a rating is no number, or all are too small.
        SettingError: a column or value does not occur, or no row is left.
    """
    rows = pl.int_range(len(table.frame), eager=True)
    for column, accepted in where.items():
        kept = rows.filter(_accepts(table, column, accepted).gather(rows))
        if kept.is_empty():
            raise SettingError(
                setting=f"data.where.{column}",
                value=accepted,
                problem="it leaves no interaction",
                hint="correct the filter",
            )
        rows = _log_kept(f"{name}: data.where.{column}={_written(accepted)}", columns, rows, kept)
    if min_rating is not None:
        rating = columns["rating"].take(rows)
        number = rating.values.cast(pl.Float64, strict=False)
        rating.reject(~number.is_finite(), "a number; correct the line, or drop it")
        kept = rows.filter(number >= min_rating)
        if kept.is_empty():
            largest: float = number.to_numpy().max()
            raise DataError(
                file=shown(table.path),
                problem=f"the largest {rating.name} is {largest:g}, so that no interaction is left",
                hint=f"lower data.min_rating={min_rating:g}",
            )
        rows = _log_kept(f"{name}: data.min_rating={min_rating:g}", columns, rows, kept)
    _warn_of_unused(table, [*used, *(column.split(":")[0] for column in where)])
    if len(rows) == len(table.frame):
        return dict(columns), {}
    removed = pl.int_range(len(table.frame), eager=True)
    removed = removed.filter(~removed.is_in(rows.implode()))
    left = {role: column.take(rows) for role, column in columns.items()}
    return left, {role: columns[role].take(removed) for role in ("user", "item")}


def check_filters(k_core: int, min_rating: float | None) -> None:
    """Refuse settings of filters that are out of range.

    Raises:
        SettingError: names the setting.
    """
    if k_core < 0:
        raise SettingError(setting="data.k_core", value=k_core, expected="0 (keep all) or more")
    if min_rating is not None and not math.isfinite(min_rating):
        raise SettingError(setting="data.min_rating", value=min_rating, expected="a finite number")


def k_core(interactions: Interactions, k: int, n_users: int, n_items: int) -> Tensor:
    """Select the k-core: the largest set in which each user and item has k pairs or more.

    A repeated user-item pair counts once, and its rows are kept or removed together. Users and
    items with fewer are removed repeatedly, until none has fewer.

    Returns:
        [N] bool, the interactions that are left.
    """
    user, item = interactions.user.numpy(), interactions.item.numpy()
    keep = np.ones(len(user), dtype=np.bool_)
    first = ~repeated_pairs(interactions).numpy()  # [N]
    while True:
        counted = keep & first  # [N]
        users = np.bincount(user[counted], minlength=n_users)  # [U]
        items = np.bincount(item[counted], minlength=n_items)  # [I]
        stay = keep & (users[user] >= k) & (items[item] >= k)  # [N]
        if np.array_equal(stay, keep):
            return torch.from_numpy(keep)
        keep = stay


def restrict_to_core(source: Source, k: int) -> Source:
    """The k-core of a data set, with users and items renumbered.

    Raises:
        DataError: no interaction is left.
    """
    mask = k_core(source.interactions, k, source.n_users, source.n_items)
    kept = source.interactions.select(mask)
    if not len(kept):
        raise DataError(
            file=source.name,
            problem=f"no interaction is left in the {k}-core",
            hint="lower data.k_core",
        )
    users, user_row = _renumber(kept.user, source.n_users)
    items, item_row = _renumber(kept.item, source.n_items)
    log.info(
        "%s: data.k_core=%d removed %d of %d interactions, %d of %d users and %d of %d items",
        source.name,
        k,
        *(len(mask) - len(kept), len(mask)),
        *(source.n_users - len(users), source.n_users),
        *(source.n_items - len(items), source.n_items),
    )
    if len(users) == source.n_users and len(items) == source.n_items and len(kept) == len(mask):
        return source
    categories, titles = source.categories, source.item_titles
    if categories is not None:
        item = item_row[categories.item]
        there = item >= 0
        categories = Categories(item[there], categories.category[there], categories.names)
    return replace(
        source,
        n_users=len(users),
        n_items=len(items),
        interactions=Interactions(user_row[kept.user], item_row[kept.item], kept.time),
        label=None if source.label is None else source.label[mask],
        modalities=select_items(source.modalities, items),
        kept_items=items,
        categories=categories,
        cold=None if source.cold is None else source.cold[items],
        user_ids=_restrict_ids(source.user_ids, users),
        item_ids=_restrict_ids(source.item_ids, items),
        item_titles=titles if titles is None else titles.gather(items.numpy()),
        removed=None if source.removed is None else _renumbered(source.removed, user_row, item_row),
    )


def select_items(modalities: Mapping[str, Modality], items: Tensor) -> dict[str, Modality]:
    """The content of some items.

    Args:
        modalities: by name.
        items: [M] rows, in the order that they shall have.
    """
    return {
        kind: Modality(
            features=modality.features[items],
            present=modality.present[items],
            digest=content_hash([modality.digest, items]),
        )
        for kind, modality in modalities.items()
    }


def _accepts(table: FileTable, name: str, accepted: Scalar | list[Scalar]) -> pl.Series:
    """[N] bool: rows whose value, as text, is one of those accepted."""
    header = {column.split(":")[0]: column for column in table.frame.columns}
    match = name if name in table.frame.columns else header.get(name.split(":")[0])
    if match is None:
        near = difflib.get_close_matches(name, header, n=3, cutoff=0.0)
        raise SettingError(
            setting=f"data.where.{name}",
            problem=f"{shown(table.path)} has no such column",
            hint=f"the nearest are {', '.join(near)}",
        )
    text = table.column(match).text
    several = accepted if isinstance(accepted, list) else [accepted]
    if not several:
        raise SettingError(
            setting=f"data.where.{name}",
            value=several,
            problem="it accepts no row",
            hint="give a value, or several",
        )
    found = pl.repeat(False, len(text), eager=True)
    for value in several:
        if value is None:
            rows = text.is_null()
        elif isinstance(value, bool):  # a word that YAML reads as true or false
            rows = (text.str.to_lowercase() == str(value).lower()).fill_null(False)
        else:
            rows = (text == str(value)).fill_null(False)
        if not rows.any():
            values = text.drop_nulls().value_counts(sort=True)[:100, 0].to_list()
            near = difflib.get_close_matches(str(value), values, n=5, cutoff=0.0)
            raise SettingError(
                setting=f"data.where.{name}",
                value=value,
                problem=f"no line of {shown(table.path)} has this value",
                hint=f"the nearest are {', '.join(near)}",
            )
        found |= rows
    return found


def _log_kept(
    what: str, columns: Mapping[str, Column], before: pl.Series, after: pl.Series
) -> pl.Series:
    """Log what a filter removes; return the rows that are left."""

    def ids(role: str, rows: pl.Series) -> int:
        return columns[role].values.gather(rows).drop_nulls().n_unique()

    counts = [(len(before), len(after))]
    counts += [(ids(role, before), ids(role, after)) for role in ("user", "item")]
    log.info(
        "%s removed %d of %d interactions, %d of %d users and %d of %d items",
        what,
        *(number for old, new in counts for number in (old - new, old)),
    )
    return after


def _warn_of_unused(table: FileTable, used: Sequence[str]) -> None:
    """Name columns that say how much a user liked an item, and that no setting uses."""
    for name in unused_signals(table.frame.columns, [column.split(":")[0] for column in used]):
        try:
            column = table.column(name)
        except DataError:  # its type has no values to compare with
            continue
        if column.values.n_unique() < 2:  # all lines are alike
            continue
        plain, text = name.split(":")[0], column.text.drop_nulls()
        numbers = text.cast(pl.Float64, strict=False)
        if numbers.has_nulls():
            common = text.value_counts(sort=True)[0, 0]
            how = f"+data.where.{plain}={_written(common)}"
        else:
            how = f"data.columns.rating={plain} data.min_rating={np.median(numbers.to_numpy()):g}"
        log.warning(
            "%s: column %s is not used, and every line counts as a like; to keep some lines only, "
            "set for example %s",
            shown(table.path),
            plain,
            how,
        )


def _written(value: Scalar | list[Scalar]) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _renumbered(pairs: Interactions, user_row: Tensor, item_row: Tensor) -> Interactions:
    """Pairs with new numbers, without those of a user or an item that has none."""
    user, item = user_row[pairs.user], item_row[pairs.item]
    known = (user >= 0) & (item >= 0)
    return Interactions(user[known], item[known])


def _renumber(ids: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ids that occur, and [count] the new number of each id, -1 for those that don't."""
    kept = torch.from_numpy(np.bincount(ids.numpy(), minlength=count).nonzero()[0])
    row = torch.full((count,), -1)
    row[kept] = torch.arange(len(kept))
    return kept, row


def _restrict_ids(ids: pl.Series | None, rows: Tensor) -> pl.Series:
    """Row numbers stand for themselves where no original id is known."""
    kept = pl.Series(rows.numpy())
    return kept if ids is None else ids.gather(kept)
