"""Histories of new users, from a table of interactions or from lists of items.

Shapes: Q histories, N interactions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import torch
from torch import Tensor

import mmrec.models
from mmrec.config.errors import DataError, SettingError
from mmrec.config.text import printable
from mmrec.data import Interactions
from mmrec.data.loaders import Histories, QueryLoader
from mmrec.data.tables import Column, FileTable, read_table, shown
from mmrec.data.times import moments
from mmrec.models import Recommender, SequentialRecommender
from mmrec.tables.headers import DEFAULTS, likely_columns
from mmrec.training.names import Names, column_of, indices, item_names, user_names

if TYPE_CHECKING:
    from mmrec.training.open_run import OpenRun

log = logging.getLogger(__name__)
NAMED = 5  # maximum number of names in a message


@dataclass(frozen=True, eq=False)
class GivenHistories:
    """Histories of users or sessions that were not in training.

    Attributes:
        read: interactions used by the model, of users 0..Q-1.
        seen: interactions that can be masked in recommendation lists, of the same users.
        ids: names of the users, [Q]; None if they have no names.
        ties: seeds of the order of equal scores, [Q] int64: the index of the user with this name in
            the data, or else 0, so that lists depend only on the history.
    """

    read: Interactions
    seen: Interactions
    ids: pl.Series | None
    ties: Tensor

    def __len__(self) -> int:
        return len(self.ties)

    def queries(self, model: Recommender, users: Tensor, block: int) -> QueryLoader:
        """Return the queries of selected users, in blocks.

        Args:
            model: model with the maximum length of histories, `max_length`.
            users: selected users, [B] int64 from 0..Q-1.
            block: number of users per block.
        """
        histories = Histories(self.read.by_user(len(self)), model.max_length)
        return QueryLoader(users, block, histories)


def read_histories(run: OpenRun, path: Path) -> GivenHistories:
    """Read histories from a table with one row per interaction.

    Histories are sorted by time, then position, then row. Unknown items, and users without any
    known item, are skipped with a warning.

    Args:
        run: run whose model uses the histories.
        path: table with columns for users, items, and time or position; see `recommend`.

    Raises:
        SettingError: the model does not use histories.
        DataError: the table is invalid, has no order, or contains no known item.
    """
    check_reader(run.model, "history", path)
    table, of_users, of_items = read_table(path), user_names(run.data), item_names(run.data)
    user, item = _column(table, of_users), _column(table, of_items)
    order = _order(table, run)
    if user.values.is_empty():
        problem, hint = "the table has no rows", "use a table with at least one interaction"
        raise DataError(file=shown(path), problem=problem, hint=hint)
    for column in (user, item):
        column.reject(column.values.is_null(), "an id; complete the row, or remove it")
    ids = user.values.unique(maintain_order=True)
    place = indices(user.text, ids.cast(pl.String))
    frame = pl.DataFrame({"user": place, "item": _known_items(item, of_items), **order})
    by = ["user", *(name for name in ("moment", "position") if name in order)]
    frame = frame.drop_nulls("item").sort(by, maintain_order=True)
    readable = _readable(run, frame["item"].to_torch())
    listed = frame.filter(readable.numpy())["user"].unique().sort()  # in table order
    _report(run, shown(path), int((~readable).sum()), ids, listed)
    ids = ids.gather(listed)
    ties = indices(ids.cast(pl.String), of_users.text).fill_null(0).to_torch()
    return GivenHistories(
        read=_interactions(frame.filter(readable.numpy()), listed),
        seen=_interactions(frame, listed),
        ids=ids,
        ties=ties,
    )


def list_histories(
    run: OpenRun,
    sequences: Sequence[Sequence[int | str]],
    times: Sequence[Sequence[int]] | None,
) -> GivenHistories:
    """Create histories from lists of items; see `OpenRun.recommend_sequences`.

    Raises:
        SettingError: the model does not use histories, a sequence is empty, an item is unknown, or
            times are missing or invalid.
    """
    check_reader(run.model, "run", run.folder)
    length = torch.tensor([len(each) for each in sequences], dtype=torch.int64)
    if not len(length):
        raise SettingError(setting="sequences", value=[], expected="at least one sequence")
    if not length.all():
        empty = int((length == 0).nonzero()[0])
        problem, hint = f"sequence {empty} is empty", "remove it"
        raise SettingError(setting="sequences", problem=problem, hint=hint)
    names, flat = item_names(run.data), [item for each in sequences for item in each]
    found = _listed_items(flat, names)
    if found.has_nulls():
        unknown = [str(flat[place]) for place in found.is_null().arg_true()]
        problem = f"no such items in {names.source}: {_some(unknown)}{names.nearest(unknown[0])}"
        raise SettingError(setting="sequences", problem=problem)
    user = torch.arange(len(length)).repeat_interleave(length)
    seen = Interactions(user, found.to_torch(), _listed_times(run, sequences, times))
    read = seen.select(_readable(run, seen.item))
    bare = torch.bincount(read.user, minlength=len(length)) == 0
    if bare.any():
        raise SettingError(
            setting="sequences",
            problem=f"sequence {int(bare.nonzero()[0])} has only cold-start items, which "
            f"{type(run.model).__name__} cannot use without content",
            hint="remove it",
        )
    return GivenHistories(read, seen, None, torch.zeros_like(length))


def check_reader(model: Recommender, setting: str, value: object) -> None:
    """Check that a model uses histories.

    Raises:
        SettingError: the model does not use histories; the hint lists the models that do.
    """
    if model.needs_history:
        return
    kinds = (getattr(mmrec.models, name) for name in mmrec.models.__all__)
    readers = sorted(
        kind.__module__.rpartition(".")[2]
        for kind in kinds
        if issubclass(kind, Recommender) and kind.needs_history and kind != SequentialRecommender
    )
    raise SettingError(
        setting=setting,
        value=value,
        problem=f"{type(model).__name__} does not use histories and only ranks for training users",
        hint=f"use a run of a sequential model ({', '.join(readers)})",
    )


def _report(run: OpenRun, file: str, unread: int, ids: pl.Series, listed: pl.Series) -> None:
    """Warn about unused items and about users without recommendations.

    Args:
        run: run whose model uses the histories.
        file: name of the table.
        unread: number of rows with known items that the model cannot use.
        ids: names of all users.
        listed: indices of the users with recommendations.

    Raises:
        DataError: there are no such users.
    """
    model = type(run.model).__name__
    if not len(listed):
        problem = f"all items are cold-start items, which {model} cannot use without content"
        raise DataError(file=file, problem=problem, hint="use a run of a content-based model")
    if unread:
        what = "rows have cold-start items, which the model cannot use; they are skipped"
        log.warning("%s: %d %s", file, unread, what)
    numbers = pl.arange(len(ids), eager=True)
    bare = ids.gather(numbers.filter(~numbers.is_in(listed.implode())))
    if len(bare):
        log.warning(
            "%s: %d of %d users have no item that %s can use, and get no recommendations: %s",
            file,
            len(bare),
            len(ids),
            model,
            _some(bare.cast(pl.String)),
        )


def _column(table: FileTable, names: Names) -> Column:
    """Return the column of users or items."""
    kind, role = names.kind, column_of(table, names)
    own = f", {names.column}" if names.column not in (None, kind, f"{kind}_id") else ""
    remedy = f"rename the column of {kind}s to {kind}{own} or {kind}_id; is it {{nearest}}?"
    return table.columns({role: role}, remedy=remedy)[role]


def _order(table: FileTable, run: OpenRun) -> dict[str, pl.Series]:
    """Return the columns that order the rows of a user: `time`, and `moment` or `position`: [N].

    Columns have the names used by the data set, or the default ones.

    Raises:
        DataError: the table has no order, or not the one required by the model.
    """
    own = getattr(run.data, "columns", None)
    found: dict[str, Column] = {}
    names = {role: getattr(own, role, DEFAULTS[role]) for role in ("time", "position")}
    for role, name in names.items():
        for each in (DEFAULTS[role], name):
            found |= table.columns({role: each}, optional=(role,), remedy="")
    needed = [*names]
    if run.model.reads_time:
        needed = ["time"] if run.corpus.clock else ["position"]
        if not run.corpus.clock:
            found.pop("time", None)
    if not found.keys() & {*needed}:
        problem = "the histories have no order; the order of rows is not used"
        if run.model.reads_time:
            problem = f"{type(run.model).__name__} requires the {needed[0]} of each item"
        header = table.frame.columns
        likely = [printable(each) for role in needed for each in likely_columns(role, header, ())]
        raise DataError(
            file=shown(table.path),
            problem=problem,
            found=", ".join(map(printable, header)),
            expected=f"a column {' or '.join(names[role] for role in needed)}",
            hint=f"if it is {likely[0]}, rename it to {names[needed[0]]}" if likely else "add it",
        )
    order: dict[str, pl.Series] = {}
    if "time" in found:
        order["time"], order["moment"] = moments(found["time"])
    if "position" in found:
        column = found["position"]
        column.reject(column.integers.is_null(), "an integer; number the rows of each user")
        order["position"] = column.integers
        order.setdefault("time", column.integers)
    return order


def _known_items(column: Column, names: Names) -> pl.Series:
    """Return the index of each item, [N], null for unknown items, with a warning about them.

    A column `item_id` has original ids. Other columns have original ids or row numbers, like tables
    of the data.

    Raises:
        DataError: no item is known, or ids and row numbers are ambiguous.
    """
    found = indices(column.text, names.text)
    plain = column.name.partition(":")[0]
    rows_fit = plain != "item_id" and not column.integers.has_nulls()
    if names.ids is not None and rows_fit and found.has_nulls():
        by_row = indices(column.text, names.numbers)
        both = (found != by_row).fill_null(value=False)
        if both.any():
            raise DataError(
                file=shown(column.path),
                problem=f"the column {plain} is ambiguous: its values are original ids and also "
                f"row numbers, for example {printable(column.text.filter(both)[0])}",
                hint="use original ids, and rename the column to item_id",
            )
        if by_row.count() > found.count():
            log.info("%s: the column %s contains row numbers", shown(column.path), plain)
            found = by_row
    unknown = column.text.filter(found.is_null())
    if len(unknown) == len(found):
        raise DataError(
            file=shown(column.path),
            column=plain,
            found=_some(unknown.unique(maintain_order=True)),
            expected=f"items of {names.source}, for example {printable(str(names.text[0]))}"
            f"{names.nearest(unknown[0])}",
        )
    if len(unknown):
        log.warning(
            "%s: %d of %d rows have unknown items of %s and are skipped: %s%s",
            shown(column.path),
            len(unknown),
            len(found),
            names.source,
            _some(unknown.unique(maintain_order=True)),
            names.nearest(unknown[0]),
        )
    return found


def _listed_items(items: Sequence[int | str], names: Names) -> pl.Series:
    """Return the index of each item, [N], null for unknown items."""
    texts = [each if isinstance(each, str) else None for each in items]
    rows = [None if isinstance(each, str) else int(each) for each in items]
    number = pl.Series(rows, dtype=pl.Int64)
    number = number.set(~number.is_between(0, names.count - 1), None)
    by_id = indices(pl.Series(texts, dtype=pl.String), names.text)
    return pl.select(pl.coalesce(by_id, number)).to_series()


def _listed_times(
    run: OpenRun, sequences: Sequence[Sequence[object]], times: Sequence[Sequence[int]] | None
) -> Tensor | None:
    """Check times and concatenate them, [N] int64; None if the model does not need them."""
    if times is None:
        if not run.model.reads_time:
            return None
        what = "seconds since 1970" if run.corpus.clock else "positions like those of the data"
        raise SettingError(
            setting="times",
            value=None,
            problem=f"{type(run.model).__name__} requires the time of each item",
            expected=f"one list of {what} for each sequence",
        )
    if [len(each) for each in times] != [len(each) for each in sequences]:
        expected = "one list for each sequence, with a time for each item"
        raise SettingError(setting="times", expected=expected)
    for number, each in enumerate(times):
        if sorted(each) != [*each]:
            problem, hint = f"sequence {number} is not sorted by time", "sort its items"
            raise SettingError(setting="times", problem=problem, hint=hint)
    return torch.tensor([int(time) for each in times for time in each], dtype=torch.int64)


def _readable(run: OpenRun, items: Tensor) -> Tensor:
    """Return the mask of items [N] that the model can use: cold-start items require content."""
    if run.corpus.cold is None or run.model.reads_content:
        return torch.ones(len(items), dtype=torch.bool)
    return run.corpus.cold[items] == 0


def _interactions(frame: pl.DataFrame, listed: pl.Series) -> Interactions:
    """Return the rows of listed users, renumbered from 0."""
    number = pl.DataFrame({"user": listed, "number": range(len(listed))})
    rows = frame.join(number, on="user", maintain_order="left")
    return Interactions(*(rows[name].to_torch() for name in ("number", "item", "time")))


def _some(names: Iterable[str]) -> str:
    """Format the first names of a list."""
    first = [*islice(names, NAMED + 1)]
    return ", ".join([*map(printable, first[:NAMED]), *["..."] * (len(first) > NAMED)])
