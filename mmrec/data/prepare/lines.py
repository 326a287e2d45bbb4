"""Records of text, one on each line, in blocks; malformed lines are counted.

A file may be compressed with gzip, or be a member of a zip archive. Nothing is extracted.

Shape legend: N records.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import logging
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from mmrec.config.errors import DataError
from mmrec.config.text import first_line, printable
from mmrec.data.tables import shown
from mmrec.tables.delimited import BOM

log = logging.getLogger(__name__)
BLOCK = 2**24  # bytes of text at a time
LONGEST = 2**22  # bytes of a line
SHOWN = 3  # malformed lines that are logged
DAMAGED = (
    *(EOFError, OSError, zlib.error, zipfile.BadZipFile),
    *(NotImplementedError, RuntimeError),  # zipfile, of an unknown compression, and of a password
)
Block = tuple[int, bytes]  # number of its first line, from 1, and whole lines


class Malformed:
    """Counts lines that are no records, and refuses too many.

    Args:
        path: of the file.
        limit: largest number that is accepted.
        expected: what a line should be.
    """

    def __init__(self, path: Path, limit: int, expected: str) -> None:
        self.path, self.limit, self.expected = path, limit, expected
        self.count = 0

    def add(self, line: int, text: bytes) -> None:
        """Count a line.

        Raises:
            DataError: there are more than the limit.
        """
        self.count += 1
        found = printable(text[:200].decode(errors="replace").strip())
        if self.count > self.limit:
            raise DataError(
                file=shown(self.path),
                line=line,
                found=found,
                expected=f"{self.expected}; {self.count} lines are malformed",
                hint="download the file again, or raise data.malformed_lines",
            )
        if self.count <= SHOWN:
            log.warning("%s, line %d is left out: %s", shown(self.path), line, found)


def blocks(path: Path, member: str | None = None) -> Iterator[Block]:
    """Read text in blocks of whole lines.

    Args:
        path: of plain text, of text compressed with gzip (`.gz`), or of a zip archive.
        member: name of the text in the archive. It is compared with the names in the archive and
            never becomes a path.

    Yields:
        The number of the first line of a block, from 1, and its bytes.

    Raises:
        DataError: the file is truncated or damaged, lacks the member, or has a line of more than
            4 MiB.
    """
    number, rest = 1, b""
    try:
        with _opened(path, member) as file:
            while block := file.read(BLOCK):
                whole, newline, rest = (rest + block).rpartition(b"\n")
                if newline:
                    yield number, whole + newline
                    number += whole.count(b"\n") + 1
                if len(rest) > LONGEST:
                    raise DataError(
                        file=shown(path),
                        line=number,
                        found=f"more than {LONGEST // 2**20} MiB without a line break",
                        expected="a record on each line",
                        hint="delete the file, and download it again",
                    )
    except KeyError as error:
        raise DataError(
            file=shown(path),
            problem=f"the archive has no {member}",
            hint="delete it, and download it again",
        ) from error
    except DAMAGED as error:
        raise DataError(
            file=shown(path),
            line=number,
            problem=f"the file ends early or is damaged ({printable(first_line(error), 200)})",
            hint="delete it, and download it again",
        ) from error
    if rest:
        yield number, rest


@contextmanager
def _opened(path: Path, member: str | None) -> Iterator[Any]:
    """A file or a member of an archive, opened for reading bytes."""
    if member is not None:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            yield file
    else:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file


def below_header(found: Iterator[Block], path: Path, header: Sequence[str]) -> Iterator[Block]:
    """Check the first line of a comma-separated text, and leave it out.

    Args:
        found: blocks of the text.
        path: of the file, for messages.
        header: names of the columns.

    Raises:
        DataError: the columns are others.
    """
    number, block = next(found, (1, b""))
    line, _, rest = block.partition(b"\n")
    names = line.removeprefix(BOM).decode(errors="replace").strip()
    if names.replace('"', "").split(",") != [*header]:
        raise DataError(
            file=shown(path),
            line=1,
            found=printable(names) or "an empty file",
            expected=",".join(header),
            hint="delete the file, and download it again",
        )
    if rest:
        yield number + 1, rest
    yield from found


def read_frame(
    found: Iterable[Block],
    read: Callable[[bytes], pl.DataFrame],
    parse: Callable[[bytes], dict[str, Any]],
    schema: Mapping[str, type[pl.DataType]],
    bad: Malformed,
) -> pl.DataFrame:
    """Return the records of a text as a table.

    Args:
        found: blocks of the text.
        read: reads a block in which every line is a record, and raises a PolarsError or returns
            nulls for another.
        parse: parses a line of such another block, and raises ValueError if it is malformed.
        schema: [N] columns that both return.
        bad: counts malformed lines.

    Raises:
        DataError: too many lines are malformed, or there is no record.
    """
    frames = [pl.DataFrame(schema=schema)]
    for number, block in found:
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        try:
            frame = read(block)
        except pl.exceptions.PolarsError:
            frame = frames[0]
        whole_block = frame.height == lines and not frame.null_count().sum_horizontal().item()
        if not (whole_block and all_finite(frame)):
            frame = pl.DataFrame([*records(number, block, parse, bad)], schema=schema)
        frames.append(frame)
    if not (whole := pl.concat(frames)).height:
        raise DataError(
            file=shown(bad.path),
            problem="no interaction in it",
            expected=bad.expected,
            hint="download it again",
        )
    return whole


def read_delimited(
    found: Iterable[Block],
    separator: str,
    schema: Mapping[str, type[pl.DataType]],
    bad: Malformed,
) -> pl.DataFrame:
    """Return a delimited text of ids and numbers, without header and quotes, as a table.

    Args:
        found: blocks of the text.
        separator: between columns; `::` too.
        schema: [N] columns in the order of the text: String, Int64 or Float64.
        bad: counts malformed lines.

    Raises:
        DataError: too many lines are malformed, or there is no record.
    """
    kinds: dict[Any, Callable[[str], Any]] = {pl.String: str, pl.Int64: int, pl.Float64: float}
    simple = separator if len(separator) == 1 else "\t"

    def read(block: bytes) -> pl.DataFrame:
        if simple != separator:
            if simple.encode() in block:
                return pl.DataFrame()
            block = block.replace(separator.encode(), simple.encode())
        return pl.read_csv(
            io.BytesIO(block), has_header=False, separator=simple, schema=schema, quote_char=None
        )

    def parse(line: bytes) -> dict[str, Any]:
        values = line.decode().strip().split(separator)
        if len(values) != len(schema) or not all(values):
            raise ValueError("another number of values")
        return {
            name: fitting(kinds[kind](value))
            for (name, kind), value in zip(schema.items(), values, strict=True)
        }

    return read_frame(found, read, parse, schema, bad)


def fitting(value: Any) -> Any:
    """Return a value that a column can hold.

    Raises:
        ValueError: an integer beyond 64 bits, or a number that is not finite.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("too large for 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def all_finite(frame: pl.DataFrame) -> bool:
    """Return whether every number of a table is finite."""
    return all(column.is_finite().all() for column in frame.select(cs.float()).iter_columns())


def csv_rows(
    found: Iterator[Block], path: Path, encoding: str = "utf-8"
) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of a comma-separated text, in which texts may be quoted.

    Args:
        found: blocks of the text.
        path: of the file, for messages.
        encoding: of the text; bytes that are invalid in it are replaced.

    Yields:
        The number of the last line of a row, and its values.

    Raises:
        DataError: a quoted text does not end.
    """
    start, first = next(found, (1, b""))
    lines = (
        line.decode(encoding, "replace")
        for block in chain([first], (block for _, block in found))
        for line in block.splitlines(keepends=True)
    )
    reader = csv.reader(lines, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num + start - 1, row
    except csv.Error as error:
        raise DataError(
            file=shown(path),
            line=reader.line_num + start - 1,
            problem=f"cannot be read ({first_line(error)})",
            hint="delete the file, and download it again",
        ) from error


def records(
    first: int, block: bytes, parse: Callable[[bytes], dict[str, Any] | None], bad: Malformed
) -> Iterator[dict[str, Any]]:
    """Parse the lines of a block one by one.

    Args:
        first: the number of its first line.
        block: whole lines.
        parse: returns a record, None for one that is not needed, and raises ValueError for a
            malformed line.
        bad: counts these.
    """
    for number, line in enumerate(block.split(b"\n"), start=first):
        if not line.strip():
            continue
        try:
            record = parse(line)
        except ValueError:
            bad.add(number, line)
            continue
        if record is not None:
            yield record


def json_record(line: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: the line is none.
    """
    try:
        found = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def literal_record(line: bytes) -> dict[str, Any]:
    """Parse a Python literal of a dictionary, or a JSON object; nothing is evaluated.

    Raises:
        ValueError: the line is neither, or longer than 4 MiB.
    """
    if len(line) > LONGEST:
        raise ValueError("too long")
    try:
        found = ast.literal_eval(line.decode().strip())
    except (SyntaxError, MemoryError, RecursionError, ValueError):
        return json_record(line)
    if not isinstance(found, dict):
        raise ValueError("not a dictionary")
    return found
