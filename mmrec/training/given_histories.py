"""Histories that were not in training: from a table of interactions, or as lists of items.

Q histories, N interactions.
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
NAMED = 5  # unknown items, or users without a list, that a message names


@dataclass(frozen=True, eq=False)
class GivenHistories:
    """Users or sessions of whom nothing but some items is known.

    Attributes:
        read: items that the model reads, of users 0..Q-1.
        seen: items that lists leave out on request, of the same users.
        ids: [Q] names of the users; None: they have numbers only.
        ties: [Q] int64, what orders equal scores: the number of the user of this name in the data,
            else 0, so that a list depends on nothing but its history.
    """

    read: Interactions
    seen: Interactions
    ids: pl.Series | None
    ties: Tensor

    def __len__(self) -> int:
        return len(self.ties)

    def queries(self, model: Recommender, users: Tensor, block: int) -> QueryLoader:
        """Return the queries of some users, in blocks.

        Args:
            model: its `max_length` cuts the histories.
            users: [B] int64, of 0..Q-1.
            block: users in a block.
        """
        histories = Histories(self.read.by_user(len(self)), model.max_length)
        return QueryLoader(users, block, histories)


def read_histories(run: OpenRun, path: Path) -> GivenHistories:
    """Read the histories of a table, which has a row for each interaction.

    A history is in the order of time, then of position, then of rows. Unknown items are left out,
    and so are users who have no other item; warnings count and name them.

    Args:
        run: whose model reads the histories.
        path: a table with columns of users, items, and time or position; see `recommend`.

    Raises:
        SettingError: the model does not read histories.
        DataError: the table is invalid, has no order, or names no known item.
    """
    check_reader(run.model, "history", path)
    table, of_users, of_items = read_table(path), user_names(run.data), item_names(run.data)
    user, item = _column(table, of_users), _column(table, of_items)
    order = _order(table, run)
    if user.values.is_empty():
        problem, hint = "no interaction below the header", "give a file that has some"
        raise DataError(file=shown(path), problem=problem, hint=hint)
    for column in (user, item):
        column.reject(column.values.is_null(), "an id; complete the line, or drop it")
    ids = user.values.unique(maintain_order=True)
    place = indices(user.text, ids.cast(pl.String))
    frame = pl.DataFrame({"user": place, "item": _known_items(item, of_items), **order})
    by = ["user", *(name for name in ("moment", "position") if name in order)]
    frame = frame.drop_nulls("item").sort(by, maintain_order=True)
    readable = _readable(run, frame["item"].to_torch())
    listed = frame.filter(readable.numpy())["user"].unique().sort()  # in the order of the table
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
    """Make histories of lists of items, see `OpenRun.recommend_sequences`.

    Raises:
        SettingError: the model does not read histories, a sequence is empty, an item is unknown, or
            times are missing or wrong.
    """
    check_reader(run.model, "run", run.folder)
    length = torch.tensor([len(each) for each in sequences], dtype=torch.int64)
    if not len(length):
        raise SettingError(setting="sequences", value=[], expected="at least one sequence")
    if not length.all():
        empty = int((length == 0).nonzero()[0])
        problem, hint = f"sequence {empty} has no item", "leave it out"
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
            problem=f"sequence {int(bare.nonzero()[0])} has only cold items, of which "
            f"{type(run.model).__name__} has learned nothing",
            hint="leave it out",
        )
    return GivenHistories(read, seen, None, torch.zeros_like(length))


def check_reader(model: Recommender, setting: str, value: object) -> None:
    """Refuse a model that does not read histories.

    Raises:
        SettingError: names the models that do.
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
        problem=f"{type(model).__name__} reads no histories and ranks for users of its data only",
        hint=f"give a run of a model that reads them ({', '.join(readers)})",
    )


def _report(run: OpenRun, file: str, unread: int, ids: pl.Series, listed: pl.Series) -> None:
    """Warn of items that are not read, and of users who get no list.

    Args:
        run: whose model reads the histories.
        file: the table.
        unread: known items that the model does not read.
        ids: of all users.
        listed: numbers of the users who get a list.

    Raises:
        DataError: nobody gets one.
    """
    model = type(run.model).__name__
    if not len(listed):
        problem = f"all items are cold, and {model} has learned nothing of them"
        raise DataError(file=file, problem=problem, hint="give a run of a model of content")
    if unread:
        what = "rows name cold items, of which the model has learned nothing; they are not read"
        log.warning("%s: %d %s", file, unread, what)
    numbers = pl.arange(len(ids), eager=True)
    bare = ids.gather(numbers.filter(~numbers.is_in(listed.implode())))
    if len(bare):
        log.warning(
            "%s: %d of %d users have no item that %s reads, and get no list: %s",
            file,
            len(bare),
            len(ids),
            model,
            _some(bare.cast(pl.String)),
        )


def _column(table: FileTable, names: Names) -> Column:
    """The column of users or items."""
    kind, role = names.kind, column_of(table, names)
    own = f", {names.column}" if names.column not in (None, kind, f"{kind}_id") else ""
    remedy = f"name the column of {kind}s {kind}{own} or {kind}_id; maybe it is {{nearest}}"
    return table.columns({role: role}, remedy=remedy)[role]


def _order(table: FileTable, run: OpenRun) -> dict[str, pl.Series]:
    """What orders the rows of a user: `time`, and `moment` or `position` or both; [N] each.

    Columns have the names that the data have for them, or the usual ones.

    Raises:
        DataError: there is neither, or not what the model reads.
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
        problem = "the histories have no order, and that of the rows is not taken for one"
        if run.model.reads_time:
            problem = f"{type(run.model).__name__} reads the {needed[0]} of each item"
        header = table.frame.columns
        likely = [printable(each) for role in needed for each in likely_columns(role, header, ())]
        raise DataError(
            file=shown(table.path),
            problem=problem,
            found=", ".join(map(printable, header)),
            expected=f"a column {' or '.join(names[role] for role in needed)}",
            hint=f"rename {likely[0]} to {names[needed[0]]} if that is it" if likely else "add it",
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
    """[N] rows of the data, null for unknown items, of which a warning is logged.

    A column `item_id` has original ids. Any other may have row numbers in all rows instead, as
    tables of the data may.

    Raises:
        DataError: no item is known, or ids are also numbers of other rows.
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
                problem=f"the column {plain} can be read as original ids and as row numbers, for "
                f"example {printable(column.text.filter(both)[0])}",
                hint="give original ids, and name it item_id",
            )
        if by_row.count() > found.count():
            log.info("%s: %s is read as row numbers", shown(column.path), plain)
            found = by_row
    unknown = column.text.filter(found.is_null())
    if len(unknown) == len(found):
        raise DataError(
            file=shown(column.path),
            column=plain,
            found=_some(unknown.unique(maintain_order=True)),
            expected=f"items of {names.source}, as {printable(str(names.text[0]))}"
            f"{names.nearest(unknown[0])}",
        )
    if len(unknown):
        log.warning(
            "%s: %d of %d rows name no item of %s and are skipped: %s%s",
            shown(column.path),
            len(unknown),
            len(found),
            names.source,
            _some(unknown.unique(maintain_order=True)),
            names.nearest(unknown[0]),
        )
    return found


def _listed_items(items: Sequence[int | str], names: Names) -> pl.Series:
    """[N] rows of the data, null for unknown items."""
    texts = [each if isinstance(each, str) else None for each in items]
    rows = [None if isinstance(each, str) else int(each) for each in items]
    number = pl.Series(rows, dtype=pl.Int64)
    number = number.set(~number.is_between(0, names.count - 1), None)
    by_id = indices(pl.Series(texts, dtype=pl.String), names.text)
    return pl.select(pl.coalesce(by_id, number)).to_series()


def _listed_times(
    run: OpenRun, sequences: Sequence[Sequence[object]], times: Sequence[Sequence[int]] | None
) -> Tensor | None:
    """[N] int64, or None."""
    if times is None:
        if not run.model.reads_time:
            return None
        what = "seconds since 1970" if run.corpus.clock else "positions, as in the data"
        raise SettingError(
            setting="times",
            value=None,
            problem=f"{type(run.model).__name__} reads the time of each item",
            expected=f"a list for each sequence, of {what}",
        )
    if [len(each) for each in times] != [len(each) for each in sequences]:
        expected = "a list for each sequence, with a time for each item"
        raise SettingError(setting="times", expected=expected)
    for number, each in enumerate(times):
        if sorted(each) != [*each]:
            problem, hint = f"sequence {number} is not in order of time", "sort its items"
            raise SettingError(setting="times", problem=problem, hint=hint)
    return torch.tensor([int(time) for each in times for time in each], dtype=torch.int64)


def _readable(run: OpenRun, items: Tensor) -> Tensor:
    """Whether the model reads items [N], as in histories of the data: without content, no cold."""
    if run.corpus.cold is None or run.model.reads_content:
        return torch.ones(len(items), dtype=torch.bool)
    return run.corpus.cold[items] == 0


def _interactions(frame: pl.DataFrame, listed: pl.Series) -> Interactions:
    """Rows of some users, who are numbered anew."""
    number = pl.DataFrame({"user": listed, "number": range(len(listed))})
    rows = frame.join(number, on="user", maintain_order="left")
    return Interactions(*(rows[name].to_torch() for name in ("number", "item", "time")))


def _some(names: Iterable[str]) -> str:
    """The first of some names."""
    first = [*islice(names, NAMED + 1)]
    return ", ".join([*map(printable, first[:NAMED]), *["..."] * (len(first) > NAMED)])
