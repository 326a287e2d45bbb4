"""Tables, matrices and columns from memory, as polars.

pandas, polars and PyArrow are read through narwhals, which is imported when a function is called,
not with this module.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mmrec.config.errors import SettingError
from mmrec.data.corpus import DataError
from mmrec.data.tables import FileTable

if TYPE_CHECKING:
    import narwhals as nw


def table_of(frame: Any, name: str) -> FileTable:
    """Convert a DataFrame; keep the labels of its rows if they differ from 0..N-1.

    Args:
        frame: a pandas or polars DataFrame, a PyArrow table, or another eager frame.
        name: what messages call it.

    Raises:
        SettingError: it is none of these.
    """
    import narwhals as nw

    try:
        known = nw.from_native(frame, eager_only=True)
    except TypeError:
        raise SettingError(
            setting=name,
            problem=f"it is a {type(frame).__module__}.{type(frame).__qualname__}",
            expected="a pandas or polars DataFrame, or a PyArrow table",
            hint="collect a lazy frame first",
        ) from None
    index: Any = nw.maybe_get_index(known)
    labels: Sequence[Hashable] | None = None
    if index is not None and not np.array_equal(index, np.arange(len(known))):
        labels = index.tolist()
    columns = [_converted(str(column), known[column]) for column in known.columns]
    return FileTable(Path(name), pl.DataFrame(columns), labels=labels)


def table_of_matrix(
    matrix: Any, name: str, *, user: str, item: str, value: str | None
) -> FileTable:
    """Convert the entries of a SciPy sparse matrix [U, I], without those that are 0.

    Args:
        matrix: in any format.
        name: what messages call it.
        user: column for the row numbers.
        item: column for the column numbers.
        value: column for the entries; None: they are left out.

    Raises:
        DataError: it has another number of dimensions.
    """
    entries = matrix.tocoo()
    if entries.ndim != 2:
        shape = [*entries.shape]
        raise DataError(file=name, found=f"a matrix of shape {shape}", expected="[users, items]")
    kept = entries.data != 0
    columns = {user: entries.row[kept].astype(np.int64), item: entries.col[kept].astype(np.int64)}
    if value is not None:
        columns[value] = entries.data[kept]
    return FileTable(Path(name), pl.DataFrame(columns))


def series_of(values: Any, name: str) -> pl.Series:
    """Convert a column of a DataFrame, an array or a list."""
    import narwhals as nw

    try:
        column = nw.from_native(values, series_only=True)
    except TypeError:
        column = nw.from_native(pl.Series(np.asarray(values)), series_only=True)
    return _converted(name, column)


def _converted(name: str, column: nw.Series[Any]) -> pl.Series:
    """A column; whole floats, which pandas makes of integers beside gaps, become integers."""
    try:
        series = column.to_polars()
    except (ImportError, TypeError, ValueError):  # without PyArrow, or values of several types
        pairs = zip(column.to_list(), column.is_null().to_list(), strict=True)
        series = pl.Series([None if null else value for value, null in pairs], strict=False)
    if series.dtype.is_float():
        series = series.fill_nan(None)
        whole = series.cast(pl.Int64, strict=False)
        if whole.null_count() == series.null_count() and bool((series == whole).all()):
            series = whole
    return series.alias(name)
