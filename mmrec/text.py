"""Make text from files safe to show in a spreadsheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

# Spreadsheets evaluate a cell that begins with one of these, unless it is a number.
_FORMULA = r"^[=+\-@\t\r\n]"
_HARMLESS = r"^[+\-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+\-]?\d+)?$"


def spreadsheet_frame(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Put an apostrophe before each text of a table that a spreadsheet would evaluate."""
    import polars as pl

    text = pl.col(pl.String)
    unsafe = text.str.contains(_FORMULA) & ~text.str.contains(_HARMLESS)
    return frame.with_columns(pl.when(unsafe).then(text.str.replace("^", "'")).otherwise(text))
