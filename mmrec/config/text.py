"""Make text from files and users safe to show in a terminal, a table and a spreadsheet."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

LIMIT = 80  # maximum length of a value in a message
CELL = 300  # maximum length of a reason or of a table cell
WORD = 400  # maximum length of a word in a log line; paths are rarely longer

_LONG_WORD = re.compile(rf"\S{{{WORD + 1},}}")
# Spreadsheets evaluate cells that start with one of these, unless they are numbers.
_FORMULA = r"^[=+\-@\t\r\n]"
_NUMBER = r"[+\-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+\-]?\d+)?"
_HARMLESS = rf"^{_NUMBER}(?: ?%| to {_NUMBER})?$"


def printable(text: object, limit: int = LIMIT) -> str:
    """Return text that is safe to print: without control characters, and shortened.

    Control characters, line breaks and invisible formatting characters are escaped, so that text
    from a file cannot send commands to a terminal. The middle of long text is replaced by an
    ellipsis.

    Args:
        text: object, converted with `str`.
        limit: maximum number of characters before escaping.
    """
    return _escaped(shortened(str(text), limit))


def shortened(text: str, limit: int = LIMIT) -> str:
    """Replace the middle of a text that is longer than `limit` characters by an ellipsis."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail - 1]}…{text[-tail:]}"


def one_line(text: object, limit: int = CELL) -> str:
    """Return `printable` text with each sequence of white space replaced by a single space."""
    return printable(" ".join(str(text).split()), limit)


def log_text(text: str) -> str:
    """Return a log message with long words shortened and control characters escaped.

    Line breaks and tabs are kept.
    """
    short = _LONG_WORD.sub(lambda found: shortened(found[0], WORD), text)
    return _escaped(short, keep="\n\t")


def _escaped(text: str, keep: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def file_name(text: str, limit: int = 100) -> str:
    """Convert text to a part of a file name with lower-case letters, digits, `_` and `-`.

    Long text is truncated and gets a digest as suffix, so that different texts have different
    names.
    """
    slug = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")
    if len(slug) <= limit:
        return slug
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{slug[: limit - 9]}-{digest}"


def spreadsheet_cell(text: str) -> str:
    """Return a cell of a CSV file, with an apostrophe before text that could be a formula.

    This affects text that starts with `=`, `+`, `-`, `@`, a tab or a line break. Numbers,
    percentages and ranges of numbers are unchanged.
    """
    if re.match(_FORMULA, text) and not re.match(_HARMLESS, text):
        return f"'{text}"
    return text


def spreadsheet_frame(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Apply `spreadsheet_cell` to the text columns and the column names of a table for CSV."""
    import polars as pl

    def safe(name: str) -> pl.Expr:
        text = pl.col(name)
        unsafe = text.str.contains(_FORMULA) & ~text.str.contains(_HARMLESS)
        return pl.when(unsafe).then(pl.concat_str(pl.lit("'"), text)).otherwise(text).alias(name)

    texts = [name for name, kind in frame.collect_schema().items() if kind == pl.String]
    return frame.with_columns(map(safe, texts)).rename(spreadsheet_cell)


def first_line(error: object) -> str:
    """Return the first line of an error message, or its type if it has no message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
