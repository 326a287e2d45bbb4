"""Tables from files: delimited text, JSON lines and Parquet, and columns that know their lines.

Shape legend: N rows.
"""

from __future__ import annotations

import difflib
import gzip
import io
import json
import tokenize
import zlib
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from mmrec.config.errors import DataError, SettingError
from mmrec.config.text import first_line, printable
from mmrec.tables.delimited import BOM, parse_delimited
from mmrec.tables.separators import chosen_separator, header_advice
from mmrec.tables.shards import shards

GZIP = b"\x1f\x8b"
# How files begin that are no text, whatever their name says.
OTHER_KINDS = {
    b"PAR1": "a Parquet file; rename it to .parquet",
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save it as CSV",
    b"BZh": "compressed with bzip2; unpack it, or use gzip",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it, or use gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it, or use gzip",
    b"ARROW1": "an Arrow file; save it as Parquet",
}
READING_ERRORS = (
    *(OSError, EOFError, ValueError, zlib.error),
    *(SyntaxError, tokenize.TokenError),  # NumPy, of a damaged header
    *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
)
CONTROLS = r"[\p{Cc}\u{2028}-\u{202E}\u{2066}-\u{2069}]+"


def shown(path: Path) -> str:
    """The name of a file in messages: its folder and its own name."""
    parent = path.parent.name
    return f"{printable(parent)}/{printable(path.name)}" if parent else printable(path.name)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error while the block reads a file into a DataError that names the file."""
    try:
        yield
    except (DataError, SettingError):
        raise
    except READING_ERRORS as error:
        if path.is_dir():
            reason = "it is a folder"
        else:
            reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(
            file=shown(path),
            problem=f"cannot be read ({printable(reason, 200)})",
            hint="check that the file is complete, of the kind its name says, and readable",
        ) from error


@dataclass(frozen=True)
class Column:
    """One column of a table, with the lines or labels of its values.

    Attributes:
        path: of the file.
        name: in the file.
        values: [N] text, or numbers, booleans and dates from a typed file.
        rows: [N] the row of each value in the file, from 0; None: all rows in order.
        lines: the line of each row of the file, from 1; None if the file has no lines.
        labels: what each row is called in messages; None: by its number.
    """

    path: Path
    name: str
    values: pl.Series
    rows: pl.Series | None = None
    lines: Sequence[int] | pl.Series | None = None
    labels: Sequence[Hashable] | None = None

    @cached_property
    def integers(self) -> pl.Series:
        """[N] int64; null where the value is not written as an integer (017 and 17.0 are text)."""
        numbers = self.values.cast(pl.Int64, strict=False)
        if self.values.dtype.is_integer():
            return numbers
        written = numbers.cast(pl.String) == self.text
        return pl.select(pl.when(written).then(numbers)).to_series()

    @cached_property
    def text(self) -> pl.Series:
        """[N] the values as text, exactly as written."""
        return self.values.cast(pl.String)

    def take(self, rows: pl.Series) -> Column:
        """Select values by index [M]; errors still name their line in the file."""
        kept = rows if self.rows is None else self.rows.gather(rows)
        return replace(self, values=self.values.gather(rows), rows=kept)

    def place(self, index: int) -> tuple[int | None, int | str | None]:
        """The line of a value in its file, or its row (label, or number from 0) without lines."""
        row = index if self.rows is None else int(self.rows[index])
        if self.lines is not None:
            return int(self.lines[row]), None
        if self.labels is None:
            return None, row
        label = self.labels[row]
        return None, label if isinstance(label, int) else printable(label)

    def reject(self, bad: pl.Series, expected: str) -> None:
        """Raise a DataError about the first row where `bad` [N] is true or null, if there is one.

        Args:
            bad: the rows with invalid values.
            expected: the valid values; after a semicolon, what to do.
        """
        if not (bad := bad.fill_null(True)).any():
            return
        index = int(bad.arg_true()[0])
        line, row = self.place(index)
        valid, _, hint = expected.partition("; ")
        value = "empty" if self.values[index] is None else printable(self.text[index])
        raise DataError(
            file=shown(self.path),
            line=line,
            row=row,
            column=printable(self.name),
            found=value,
            expected=valid,
            hint=hint or None,
        )


@dataclass(frozen=True)
class FileTable:
    """A table from a file, or from a DataFrame, whose `path` is then no file but its name.

    Attributes:
        path: of the file.
        frame: its content; all columns of a text are text.
        lines: [N] the line of each row, from 1; None if the file has no lines.
        setting: sets the separator, for messages; None if no setting does.
        labels: [N] what each row is called in messages; None: by its number.
    """

    path: Path
    frame: pl.DataFrame
    lines: Sequence[int] | pl.Series | None = None
    setting: str | None = None
    labels: Sequence[Hashable] | None = None

    def column(self, name: str) -> Column:
        """The column of this name.

        Raises:
            DataError: its type is not text, numbers, booleans or dates.
        """
        values = self.frame[name]
        kind = values.dtype
        if isinstance(kind, pl.Categorical | pl.Enum | pl.Null):
            values = values.cast(pl.String)
        elif kind.is_float():
            values = values.fill_nan(None)
        elif not (kind.is_numeric() or kind in (pl.String, pl.Boolean, pl.Date, pl.Datetime)):
            raise DataError(
                file=shown(self.path),
                column=printable(name),
                found=f"of type {printable(kind)}",
                expected="text, integers, floats, booleans or dates",
                hint="convert the column",
            )
        return Column(self.path, name, values, lines=self.lines, labels=self.labels)

    def columns(
        self, names: Mapping[str, str], *, optional: Collection[str] = (), remedy: str
    ) -> dict[str, Column]:
        """The columns that play the given roles, by role.

        Args:
            names: a column for each role; a type as in `user_id:token` may be left out.
            optional: roles that the file may lack.
            remedy: what to do about a missing column; `{role}`, `{name}` and `{nearest}` stand for
                its role, its name, and the name in the file that is most like it.

        Raises:
            DataError: a column is missing, or of a type that has no values as text.
        """
        header = {name.split(":")[0]: name for name in self.frame.columns}
        found = {}
        for role, name in names.items():
            match = name if name in self.frame.columns else header.get(name.split(":")[0])
            if match is not None:
                found[role] = self.column(match)
            elif role not in optional:
                near = difflib.get_close_matches(name, header, n=3, cutoff=0.0)
                advice = self._advice() or remedy.format(role=role, name=name, nearest=near[0])
                raise DataError(
                    file=shown(self.path),
                    found=", ".join(map(printable, near)),
                    expected=f"a column {name}",
                    hint=printable(advice, 300),
                )
        return found

    def _advice(self) -> str | None:
        """What to do about a missing column where renaming one cannot help."""
        if self.lines is None:
            return None
        return header_advice(self.frame.columns, self.setting)


def without_controls(text: pl.Series) -> pl.Series:
    """Text in which a blank stands for control characters and invisible changes of direction.

    For names that are printed as they are, for example titles: without control characters they
    cannot send commands to a terminal.
    """
    return text.str.replace_all(CONTROLS, " ")


def read_table(
    path: Path, *, separator: str | None = None, setting: str | None = None
) -> FileTable:
    """Read delimited text or JSON lines, either also compressed with gzip, or Parquet.

    The name tells the kind: `.parquet`, `.jsonl` or `.ndjson`; anything else is delimited text with
    a header. A folder of Parquet files is one table, in the order of their names.

    Args:
        path: of the file.
        separator: of delimited text, a name such as `tab` or the characters themselves; None
            detects tab, comma, semicolon, pipe, `::` or space.
        setting: sets the separator, for messages.

    Raises:
        DataError: the file cannot be read; it has the line, if one is to blame.
        SettingError: a separator that is none, or that the kind of file does not have.
    """
    parts = shards(path)
    kind = ".parquet" if parts else Path(path.name.removesuffix(".gz")).suffix
    text = kind not in {".parquet", ".jsonl", ".ndjson"}
    chosen = None
    if separator is not None:
        chosen = chosen_separator(setting or "separator", separator)
        if not text:
            raise SettingError(
                setting=setting or "separator",
                value=separator,
                problem=f"{shown(path)} is a {kind} file",
                hint="leave the setting out",
            )
    with reading(path):
        if parts:
            return FileTable(path, _joined(parts))
        if kind == ".parquet":
            return FileTable(path, pl.read_parquet(path, glob=False))
        content = _content(path)
        if not text:
            frame, lines = _json_lines(shown(path), content.removeprefix(BOM))
            return FileTable(path, frame, lines, setting)
        parsed = parse_delimited(shown(path), content, chosen, setting or "separator")
    return FileTable(path, parsed.frame, parsed.lines, setting)


def _joined(paths: Sequence[Path]) -> pl.DataFrame:
    """The rows of Parquet files, which must have the same columns."""
    first: dict[str, pl.DataType] = {}
    for path in paths:
        with reading(path):
            schema = pl.read_parquet_schema(path)
        first = first or dict(schema)
        if dict(schema) != first:
            name = min(name for name, _ in {*first.items()} ^ {*schema.items()})
            raise DataError(
                file=shown(path),
                column=printable(name),
                found=f"of type {schema[name]}" if name in schema else "missing",
                expected=f"the columns and types of {paths[0].name}",
                hint="write all files with one schema",
            )
    return pl.scan_parquet(list(paths), glob=False).collect(engine="streaming")


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked if they are compressed with gzip."""
    content = path.read_bytes()
    for magic, what in OTHER_KINDS.items():
        if content.startswith(magic):
            raise DataError(file=shown(path), problem=f"the file is {what}")
    return gzip.decompress(content) if content.startswith(GZIP) else content


def _json_lines(name: str, content: bytes) -> tuple[pl.DataFrame, pl.Series]:
    """The objects of a text, one on each line, and the line of each."""
    if not content or content.isspace():
        raise DataError(
            file=name, problem="the file is empty", expected="a JSON object on each line"
        )
    try:
        frame = pl.read_ndjson(io.BytesIO(content), infer_schema_length=None)
    except pl.exceptions.PolarsError:
        for number, line in enumerate(content.split(b"\n"), start=1):
            try:
                valid = not line.strip() or isinstance(json.loads(line), dict)
            except (ValueError, RecursionError):
                valid = False
            if not valid:
                raise DataError(
                    file=name,
                    line=number,
                    found=printable(line.decode(errors="replace").strip()),
                    expected="a JSON object",
                    hint="correct the line",
                ) from None
        raise
    text = pl.read_lines(content)["line"]
    filled = (text.str.strip_chars() != "").arg_true()
    return frame, filled + 1
