"""The split that comes with a file: a column of numbers or names of parts.

Shape legend: N interactions.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress

import polars as pl

from mmrec.data.corpus import DataError
from mmrec.data.tables import Column, FileTable, shown
from mmrec.tables.headers import likely_columns

log = logging.getLogger(__name__)
PARTS = {"0": 0, "1": 1, "2": 2, "train": 0, "valid": 1, "validation": 1, "val": 1, "test": 2}


def labels(column: Column) -> pl.Series:
    """[N] int8 parts of a split: 0 train, 1 validation, 2 test.

    Raises:
        DataError: a value is neither such a number nor a name of a part.
    """
    label = _parts(column.text)
    expected = "0, 1 or 2 (or train, validation, test); correct the line, or drop it"
    column.reject(label.is_null(), expected)
    return label


def _parts(text: pl.Series) -> pl.Series:
    """[N] int8 parts of a split by number or name; null for anything else."""
    return text.str.to_lowercase().replace_strict(PARTS, default=None, return_dtype=pl.Int8)


def warn_of_split(table: FileTable, used: Collection[str]) -> None:
    """Name the column that looks like a split, where none is read."""
    for column in likely_columns("label", table.frame.columns, used):
        with suppress(DataError):  # of a type without values
            if {*_parts(table.column(column).text)} == {*PARTS.values()}:
                log.warning(
                    "%s: column %s looks like a split and is not read; to use it, set "
                    "data.columns.label=%s",
                    shown(table.path),
                    column.split(":")[0],
                    column.split(":")[0],
                )
                return
