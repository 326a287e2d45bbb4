"""Selection of users and items by name, from the command line or from a table.

Shapes: U users, I items, N names.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmrec.config.errors import SettingError
from mmrec.config.paths import expand
from mmrec.config.text import printable

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from mmrec.data import InteractionData
    from mmrec.data.tables import Column, FileTable

log = logging.getLogger(__name__)
MANY = 100_000  # with more names, searching for similar ones is too slow
TABLES = (".csv", ".tsv", ".txt", ".parquet", ".jsonl", ".ndjson", ".gz")
Asked = str | Path | int | Sequence[str | int]


@dataclass(frozen=True)
class Names:
    """Names of users or items.

    Attributes:
        kind: `user` or `item`.
        source: name of the data set, or folder.
        count: number of users U or items I.
        ids: original ids, [count]; None if they are 0..count-1.
        filtered: whether filters of the data may have removed ids.
        column: column of the ids in the tables of the data set; None without tables.
    """

    kind: Literal["user", "item"]
    source: str
    count: int
    ids: pl.Series | None
    filtered: bool = False
    column: str | None = None

    @property
    def numbers(self) -> pl.Series:
        """The numbers 0..count-1 as text, [count]."""
        import polars as pl

        return pl.arange(self.count, eager=True).cast(pl.String)

    @property
    def text(self) -> pl.Series:
        """Original ids, or else numbers, as text, [count]."""
        import polars as pl

        return self.numbers if self.ids is None else self.ids.cast(pl.String)

    def nearest(self, name: str) -> str:
        """Return the end of an error about an unknown name: similar names, or the valid range."""
        if self.ids is None:
            return f"; expected 0 to {self.count - 1}"
        near = difflib.get_close_matches(name, self.text) if self.count <= MANY else []
        meant = f"; did you mean {' or '.join(map(printable, near))}?" if near else ""
        if self.filtered:
            known = f"a filter such as data.min_rating may have removed this {self.kind}"
            return f"; {known}{meant}"
        return meant


def user_names(data: InteractionData) -> Names:
    """Return the names of the users of a data set."""
    corpus = data.corpus
    column = _column(data, "user")
    return Names("user", corpus.name, corpus.n_users, corpus.user_ids, corpus.filtered, column)


def item_names(data: InteractionData) -> Names:
    """Return the names of the items of a data set."""
    corpus = data.corpus
    column = _column(data, "item")
    return Names("item", corpus.name, corpus.n_items, corpus.item_ids, corpus.filtered, column)


def _column(data: InteractionData, kind: Literal["user", "item"]) -> str | None:
    """Return the column of ids in the files of a data set, without its type; None without files."""
    columns = getattr(data, "columns", None)
    return None if columns is None else str(getattr(columns, kind)).partition(":")[0]


def select(setting: str, asked: Asked, names: Names, *, skip: bool = False) -> Tensor:
    """Return the indices of the users or items selected by a setting, unique and in order.

    Args:
        setting: name of the setting, for error messages.
        asked: one or several names, or the path of a table with a column `user_id` or `item_id`
            (original ids), `user` or `item` (0..count-1), or the column of the data set (either).
        names: names of all users or items.
        skip: skip unknown names of a table with a warning, instead of an error.

    Returns:
        Indices, [N] int64.

    Raises:
        SettingError: no name is given, a name is unknown, or a name is also a file.
        DataError: the table lacks the column, is empty, is ambiguous, or has an unknown name.
    """
    import polars as pl

    if isinstance(asked, Path):
        return _of_table(setting, asked, names, skip=skip)
    alone = isinstance(asked, str | int)
    several = [asked] if isinstance(asked, str | int) else asked
    listed = pl.Series("name", [str(name) for name in several])
    if listed.is_empty():
        raise SettingError(
            setting=setting,
            value=[],
            expected=f"at least one {names.kind}",
            hint="omit the setting for all",
        )
    found = indices(listed, names.text)
    path = expand(str(asked)) if alone else None
    if path is not None and path.is_file():
        if not found.has_nulls():
            raise SettingError(
                setting=setting,
                value=asked,
                problem=f"it is ambiguous: a file and the id of a {names.kind}",
                hint=f"use {setting}=[{asked}] for the id, or {setting}=./{asked} for the file",
            )
        return _of_table(setting, path, names, skip=skip)
    if alone and str(asked).startswith("["):
        raise SettingError(
            setting=setting,
            value=asked,
            problem="a bracket is not closed",
            expected=f"{setting}=[a,b]",
        )
    if path is not None and path.is_dir():
        raise SettingError(
            setting=setting,
            value=asked,
            problem="it is a folder",
            hint="use a table, or an id in brackets",
        )
    if found.has_nulls():
        name = listed.filter(found.is_null())[0]
        what = f"{'file or ' if alone else ''}{names.kind}"
        raise SettingError(
            setting=setting,
            value=name,
            problem=f"no such {what} in {names.source}{names.nearest(name)}",
        )
    return found.unique(maintain_order=True).to_torch()


def allowed_items(exclude: Asked | None, only: Asked | None, names: Names) -> Tensor | None:
    """Return the mask of items that can be recommended, [N] bool; None for all items.

    Raises:
        SettingError: an item is unknown, or no item remains.
        DataError: a table is invalid.
    """
    import torch

    if exclude is None and only is None:
        return None
    allowed = torch.full((names.count,), only is None)
    if only is not None:
        allowed[select("only", only, names)] = True
    if exclude is not None:
        allowed[select("exclude", exclude, names, skip=True)] = False
    if not allowed.any():
        raise SettingError(
            setting="exclude",
            problem="no item remains",
            hint="exclude fewer items, or add items to only",
        )
    return allowed


def check_files(**settings: Asked | None) -> None:
    """Check that tables exist, before anything is loaded.

    Args:
        settings: values for `select` by name of the setting; text with the suffix of a table is a
            path.

    Raises:
        SettingError: a table does not exist.
    """
    for setting, asked in settings.items():
        if not isinstance(asked, str | Path):
            continue
        named = isinstance(asked, Path) or Path(asked).suffix in TABLES
        if named and not expand(asked).is_file():
            raise SettingError(
                setting=setting,
                value=asked,
                problem="there is no such file",
                hint=f"if it is an id, use brackets: {setting}=[{asked}]",
            )


def _of_table(setting: str, path: Path, names: Names, *, skip: bool) -> Tensor:
    """Return the indices of the names in a table; `skip` skips unknown names with a warning."""
    from mmrec.data import DataError
    from mmrec.data.tables import read_table

    kind, table = names.kind, read_table(path)
    role = column_of(table, names)
    others = f" or {names.column}" if names.column not in (None, kind, f"{kind}_id") else ""
    remedy = f"use the column {kind}_id (original ids) or {kind} (0 to {names.count - 1}){others}"
    column = table.columns({role: role}, remedy=remedy)[role]
    if not len(column.text):
        raise DataError(
            file=path, problem="the table has no rows", hint=f"add a {kind}, or omit {setting}="
        )
    known, found = _reading(column, role, names)
    unknown = column.text.filter(found.is_null()).drop_nulls()
    hint = known.nearest(unknown[0]) if len(unknown) else ""
    if skip and 0 < found.null_count() < len(found):
        log.warning(
            "%s: %d of %d rows have an unknown %s of %s and are skipped, for example %s",
            path,
            found.null_count(),
            len(found),
            kind,
            names.source,
            printable(column.text.filter(found.is_null())[0] or "empty"),
        )
        found = found.drop_nulls()
    else:
        article = "an" if kind == "item" else "a"
        column.reject(found.is_null(), f"{article} {role} of {names.source}{hint}")
    return found.unique(maintain_order=True).to_torch()


def column_of(table: FileTable, names: Names) -> str:
    """Return the name of the column of users or items.

    Raises:
        DataError: several columns are possible.
    """
    from mmrec.data import DataError

    kind, ids = names.kind, f"{names.kind}_id"
    header = {name.partition(":")[0] for name in table.frame.columns}
    ours = [name for name in (ids, kind) if name in header]  # `recommend` writes both
    if names.column is None or names.column in ours or names.column not in header:
        return ours[0] if ours else ids
    if ours:
        raise DataError(
            file=table.path,
            problem=f"both columns {names.column} and {ours[0]} contain {kind}s",
            hint="remove or rename one of them",
        )
    return names.column


def _reading(column: Column, role: str, names: Names) -> tuple[Names, pl.Series]:
    """Return the kind of names in a column, and their indices, null where unknown.

    The column of the data set contains original ids or row numbers, like the files of the data set.

    Raises:
        DataError: both are possible and differ.
    """
    from mmrec.data import DataError

    kind = names.kind
    rows = Names(kind, names.source, names.count, None)
    if names.ids is None or (role == kind and role != names.column):
        return rows, indices(column.text, rows.text)
    by_id = indices(column.text, names.text)
    if role != names.column or role == f"{kind}_id":
        return names, by_id
    by_row = indices(column.text, rows.text)
    of_id, of_row = (len(found) - found.null_count() for found in (by_id, by_row))
    if of_id == of_row and of_id and not by_id.equals(by_row):
        raise DataError(
            file=column.path,
            problem=f"the column {role} is ambiguous: its values are original ids and also row "
            f"numbers of other {kind}s",
            hint=f"rename it to {kind}_id (original ids) or {kind} (row numbers)",
        )
    return (rows, by_row) if of_row > of_id else (names, by_id)


def indices(asked: pl.Series, known: pl.Series) -> pl.Series:
    """Return the positions of names in `known`, [N], null for unknown names."""
    import polars as pl

    index = pl.DataFrame({"name": known}).with_row_index("index")
    found = pl.DataFrame({"name": asked}).join(index, on="name", how="left", maintain_order="left")
    return found["index"].cast(pl.Int64)
