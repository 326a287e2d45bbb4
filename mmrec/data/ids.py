"""What the ids of a data set mean: row numbers, or names of rows.

Shape legend: N values of a column.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl

from mmrec.data.corpus import DataError, Modality
from mmrec.data.files import FEATURES
from mmrec.data.tables import Column, read_table, shown

log = logging.getLogger(__name__)

Ids = Literal["rows", "names"]

RENAME = "rename {nearest} to {name} if that is it"
NOT_NEGATIVE = "0 or more; number the ids from 0"
CHOOSE = "set data.ids=rows or data.ids=names"
USERS, ITEMS = "u_id_mapping.csv", "i_id_mapping.csv"
SPARSE, MANY = 10, 10_000  # row numbers of a mapping are below 10 per row, or 10,000


@dataclass(frozen=True)
class Index:
    """How the ids of users or items become rows.

    Attributes:
        count: number of rows.
        ids: [count] original ids; None where only row numbers are known.
        named: whether the interactions hold original ids rather than row numbers.
        source: file that lists the original ids by row; None where no file does.
        choice: configured meaning of ids that can be read in both ways.
    """

    count: int
    ids: pl.Series | None
    named: bool
    source: str | None = None
    choice: Ids | None = None

    def rows(self, column: Column) -> pl.Series:
        """[N] int64 rows of a column of ids.

        Raises:
            DataError: an id is unknown, or can be read in two ways.
        """
        numbers = column.integers
        numbers = numbers.set(~numbers.is_between(0, self.count - 1), None)
        if self.ids is None:
            known = f"a row number of 0..{self.count - 1}; correct it, or drop the line"
            column.reject(numbers.is_null(), known)
            return numbers
        names = rows_of(column, self.ids)
        if self.source is None or reads_names(column, numbers, names, self.source, self.choice):
            column.reject(names.is_null(), "an id that is known; add it, or drop the line")
            return names
        known = f"a row number of 0..{self.count - 1}, or an id listed in {self.source}"
        column.reject(numbers.is_null(), f"{known}; correct it, or drop the line")
        return numbers

    def two_readings(self, column: Column) -> bool:
        """Whether every id is both a row number and a listed original id, and the two differ."""
        if self.source is None or self.ids is None:
            return False
        numbers, names = column.integers, rows_of(column, self.ids)
        fit = not names.has_nulls() and numbers.is_between(0, self.count - 1).fill_null(False).all()
        return fit and bool((numbers != names).any())

    def known_rows(self, column: Column) -> pl.Series:
        """[N] int64 rows of a column of ids; null where an id is unknown."""
        if self.ids is not None and self.named:
            return rows_of(column, self.ids)
        numbers = column.integers
        return numbers.set(~numbers.is_between(0, self.count - 1), None)


def rows_of(column: Column, ids: pl.Series) -> pl.Series:
    """[N] row of each value among unique ids; null where it is none of them."""
    values = column.integers if ids.dtype.is_integer() else column.text
    table = pl.DataFrame({"id": ids, "row": range(len(ids))}, schema_overrides={"row": pl.Int64})
    found = values.to_frame("id").join(table, on="id", how="left", maintain_order="left")
    return found["row"]


def reads_names(
    column: Column, numbers: pl.Series, names: pl.Series, source: str, choice: Ids | None
) -> bool:
    """Decide whether a column holds names rather than row numbers.

    Args:
        column: ids.
        numbers: [N] the row if a value is a row number, else null.
        names: [N] the row if a value is an original id, else null.
        source: file that lists the original ids.
        choice: configured meaning; it decides where both readings are possible.

    Raises:
        DataError: every value fits both readings, they differ, and no meaning is configured.
    """
    if choice == "rows" and not column.integers.has_nulls():
        return False
    if choice == "names":
        return bool(names.is_not_null().any())
    if numbers.has_nulls() or names.has_nulls():
        return bool(names.filter(numbers.is_null()).is_not_null().any())
    if not (differ := numbers != names).any():
        return False
    first = int(differ.arg_true()[0])
    raise DataError(
        file=shown(column.path),
        problem=f"every {column.name} is both a row number and an original id in {source}"
        f", for example {numbers[first]} (as an original id, it is row "
        f"{names[first]})",
        hint=CHOOSE,
    )


def originals(path: Path, key: str) -> pl.Series | None:
    """Read a file of row numbers and original ids, if it exists.

    Args:
        path: of the file.
        key: name of the column of row numbers.

    Returns:
        [rows] original ids; a row without one has its number.

    Raises:
        DataError: a row number or an original id occurs twice, or a row number is far too large.
    """
    if not path.exists():
        return None
    table = read_table(path)
    row = table.columns({"row": key}, remedy=RENAME)["row"]
    others = [name for name in table.frame.columns if name != row.name]
    others.sort(key=lambda name: name != "original_id")
    if not others:
        raise DataError(
            file=shown(path), expected=f"a column of original ids beside {key}", hint="add it"
        )
    original = table.column(others[0])
    original = replace(original, values=original.text)
    number = row.integers
    once = "a row number of 0 or more, once; correct the line, or drop it"
    row.reject((number < 0) | number.is_duplicated(), once)
    # A row number far beyond the number of rows would allocate mostly empty rows.
    limit = max(SPARSE * len(number), MANY)
    expected = f"a row number below {limit}, as the file has {len(number)} rows"
    row.reject(number >= limit, f"{expected}; number the rows from 0")
    values = original.values
    which = "" if len(others) == 1 else ", or name the column of ids original_id"
    repeated = values.is_not_null() & values.is_duplicated()
    original.reject(repeated, f"each id once; correct the line{which}")
    ids = pl.int_range(int(number.to_numpy().max(initial=-1)) + 1, eager=True).cast(pl.String)
    ids = ids.alias(key).scatter(number.filter(values.is_not_null()), values.drop_nulls())
    _check_unique(ids, path)
    return ids


def user_index(user: Column, choice: Ids | None = None, listed: pl.Series | None = None) -> Index:
    """Rows of users, listed in `u_id_mapping.csv` if it exists.

    Args:
        user: ids of the interactions; none is null.
        choice: configured meaning of ids that can be read in two ways.
        listed: the content of that file, as `originals` returns it.

    Raises:
        DataError: an id is unknown, or can be read in two ways.
    """
    if listed is not None:
        return _listed(user, listed, USERS, 0, pl.Series(dtype=pl.Int64), choice)
    return _unlisted(user, pl.Series(dtype=pl.Int64), choice)


def item_index(
    item: Column,
    detail: Column | None,
    content: Mapping[str, Modality],
    choice: Ids | None = None,
    listed: pl.Series | None = None,
    *,
    strict: bool = True,
) -> Index:
    """Rows of items: those of the features, and of `i_id_mapping.csv` or `items.csv`.

    Args:
        item: ids of the interactions; none is null.
        detail: ids of `items.csv`, if it exists.
        content: features by name.
        choice: configured meaning of ids that can be read in two ways.
        listed: the content of `i_id_mapping.csv`, as `originals` returns it, if it exists.
        strict: refuse a meaning that no id can have; else it may be for the users alone.

    Raises:
        DataError: an id is unknown or can be read in two ways, or the features have another number
            of rows.
    """
    heights = {f"{kind}{FEATURES}": len(each.features) for kind, each in content.items()}
    height = max(heights.values(), default=0)
    source = ITEMS
    numbers = pl.Series(dtype=pl.Int64)
    if detail is not None and not detail.integers.has_nulls():
        numbers = detail.integers
        # Row numbers, unless it is said that ids are names: then the file has the rows in order.
        if choice == "names" and listed is None and len(numbers) == height:
            listed, source = detail.text, detail.path.name
    elif detail is not None and listed is None:
        detail.reject(detail.text.is_duplicated(), "each item once; drop the line")
        listed, source = detail.text, detail.path.name
        if not height:  # nothing depends on the order of items: the file may list some of them
            listed = _extended(item, listed, choice)
    if strict and choice == "rows" and (listed is not None or not heights):
        expected = "a row number, because of data.ids=rows; correct the line, or set data.ids=names"
        item.reject(item.integers.is_null(), expected)
    if strict and choice == "names" and listed is not None:
        known = rows_of(item, listed)
        expected = f"an id listed in {source}, because of data.ids=names; list it"
        item.reject(known.is_null(), f"{expected}, or set data.ids=rows")
    if listed is not None:
        index = _listed(item, listed, source, height, numbers, choice)
    elif heights:
        index = in_order_of_features(item, heights, choice, numbers, strict=strict)
    else:
        index = _unlisted(item, numbers, choice)
    for file, rows in heights.items():
        if not index.named:
            item.reject(item.integers >= rows, _too_large(rows, file))
        if rows != index.count:
            raise DataError(
                file=shown(item.path.with_name(file)),
                found=f"{rows} rows",
                expected=f"{index.count}, one an item",
                hint="add what is missing (NaN if unknown), or drop what is too much",
            )
    return index


def _listed(
    column: Column,
    listed: pl.Series,
    source: str,
    height: int,
    numbers: pl.Series,
    choice: Ids | None,
) -> Index:
    """Ids that a file lists in the order of rows.

    Args:
        column: ids of the interactions.
        listed: original ids by row.
        source: file that lists them.
        height: number of rows of the features; 0 if there are none.
        numbers: more ids, of a file that has integers only.
        choice: configured meaning.
    """
    ids, names = column.integers, rows_of(column, listed)
    known = max(height, len(listed))
    in_range = ids.set(~ids.is_between(0, known - 1), None)
    if reads_names(column, in_range, names, source, choice):
        expected = f"an id that is known; list it in {source}, or drop the line"
        column.reject(names.is_null(), expected)
        return Index(len(listed), listed, named=True, source=source, choice=choice)
    column.reject(ids.is_null(), f"a row number, or an id listed in {source}; correct or list it")
    column.reject(ids < 0, NOT_NEGATIVE)
    if choice == "rows":
        known_row = f"a row number of 0..{known - 1}, because of data.ids=rows"
        column.reject(ids >= known, f"{known_row}; correct the line, or list it in {source}")
    more = numbers.filter(~numbers.cast(pl.String).is_in(listed.implode()))
    count = max(known, int(pl.concat([ids, more]).to_numpy().max(initial=-1)) + 1)
    _check_count(column, count, known + column.values.n_unique())
    extra = pl.int_range(len(listed), count, eager=True).cast(pl.String)
    listed = pl.concat([listed, extra.alias(listed.name)])
    _check_unique(listed, column.path.with_name(source))
    return Index(count, listed, named=False, source=source, choice=choice)


def _extended(column: Column, listed: pl.Series, choice: Ids | None) -> pl.Series:
    """Listed names, and names that only the interactions have, in sorted order."""
    in_list = column.text.is_in(listed.implode())
    in_rows = column.integers.is_between(0, len(listed) - 1).fill_null(False)
    has_names = in_list.any() or column.integers.has_nulls()
    if choice == "rows" or (choice is None and (in_rows.all() or not has_names)):
        return listed
    more = column.text.filter(~in_list).unique().sort()
    return pl.concat([listed, more.alias(listed.name)])


def in_order_of_features(
    column: Column,
    heights: Mapping[str, int],
    choice: Ids | None,
    more: pl.Series,
    *,
    strict: bool,
) -> Index:
    """Ids that no file lists, beside features: row numbers, or integers that count from 1.

    Args:
        column: ids of the interactions.
        heights: number of rows of each file of features.
        choice: configured meaning.
        more: ids of `items.csv`, where they are integers.
        strict: see `item_index`.
    """
    file, height = max(heights.items(), key=lambda each: each[1])
    ids = column.integers
    column.reject(
        ids.is_null(),
        f"a row number of {file}, or an id listed in i_id_mapping.csv; {_list_them(height)}, or "
        "list the items in items.csv, in the order of the rows",
    )
    column.reject(ids < 0, NOT_NEGATIVE)
    numbers = ids.to_numpy()
    low, high = int(numbers.min()), int(numbers.max())
    from_one = low > 0 and high <= height
    if choice == "names" and (strict or from_one):
        expected = f"1 to {height}, the rows of {file} counted from 1 because of data.ids=names"
        column.reject((ids < 1) | (ids > height), f"{expected}; {_list_them(height)}")
        names = pl.int_range(1, height + 1, eager=True)
        log.info("%s: %s 1 is row 0 of %s", shown(column.path), column.name, file)
        return Index(height, names, named=True, choice=choice)
    # Items without interactions tell too: those beyond the features fit neither reading.
    all_ids = pl.concat([ids, more.filter(more.is_between(0, height))]).to_numpy()
    first, last = int(all_ids.min()), int(all_ids.max())
    from_one = first > 0 and high <= height
    if choice is None and from_one and (first == 1 or last == height):
        files = shown(column.path) + (" with items.csv" if (first, last) != (low, high) else "")
        raise DataError(
            file=files,
            problem=f"{column.name} is {first} to {last} and {file} has {height} rows, so "
            "that ids can be row numbers (0 is the first row), or count from 1 (1 is "
            "the first row)",
            hint=CHOOSE,
        )
    if choice is None and from_one:
        log.warning(
            "%s: no %s is 0, and %d rows of %s are taken to be numbered from 0; set data.ids=rows "
            "to confirm, or data.ids=names if ids count from 1",
            shown(column.path),
            column.name,
            height,
            file,
        )
    return Index(height, None, named=False, choice=choice)


def _unlisted(column: Column, numbers: pl.Series, choice: Ids | None) -> Index:
    """Ids that nothing is ordered by: row numbers if they fill 0..n-1, else sorted and numbered."""
    ids = column.integers
    if ids.has_nulls():
        names = column.text.unique().sort()
        return Index(len(names), names, named=True, choice=choice)
    column.reject(ids < 0, NOT_NEGATIVE)
    known = pl.concat([ids, numbers]).unique().sort()
    count = int(known[-1]) + 1
    if choice == "names" or (choice is None and len(known) != count):
        return Index(len(known), known, named=True, choice=choice)
    _check_count(column, count, len(known))
    return Index(count, None, named=False, choice=choice)


def _check_count(column: Column, count: int, known: int) -> None:
    """Reject row numbers for which almost all rows would be empty."""
    if count > max(SPARSE, 10 * known):
        problem = f"the largest {column.name} is {count - 1}, and there are {known} ids"
        hint = "number the rows from 0, or set data.ids=names"
        raise DataError(file=shown(column.path), problem=problem, hint=hint)


def _too_large(height: int, file: str) -> str:
    return f"below {height}, the number of rows in {file}; {_list_them(height)}"


def _list_them(height: int) -> str:
    return (
        f"list the ids in i_id_mapping.csv, with the columns itemID (row number, 0 to {height - 1})"
        " and original_id"
    )


def _check_unique(ids: pl.Series, path: Path) -> None:
    """A row without an original id is called by its number, which must not be another row's id."""
    if (twice := ids.is_duplicated()).any():
        number = ids.filter(twice)[0]
        raise DataError(
            file=shown(path),
            problem=f"row {number} has no original id, and {number} is the original id of "
            "another row",
            hint="list all rows",
        )
