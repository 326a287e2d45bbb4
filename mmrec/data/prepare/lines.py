"""Records of gzipped text, one on each line, in blocks; malformed lines are counted.

Shape legend: N records of a block.
"""

from __future__ import annotations

import ast
import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmrec.config.errors import DataError
from mmrec.config.text import first_line, printable
from mmrec.data.tables import shown

log = logging.getLogger(__name__)
BLOCK = 2**24  # bytes of text at a time
LONGEST = 2**22  # bytes of a line
SHOWN = 3  # malformed lines that are logged


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


def blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Read gzipped text in blocks of whole lines.

    Yields:
        The number of the first line of a block, from 1, and its bytes.

    Raises:
        DataError: the file is truncated or damaged.
    """
    number, rest = 1, b""
    try:
        with gzip.open(path) as file:
            while block := file.read(BLOCK):
                whole, newline, rest = (rest + block).rpartition(b"\n")
                if newline:
                    yield number, whole + newline
                    number += whole.count(b"\n") + 1
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            file=shown(path),
            line=number,
            problem=f"the file ends early or is damaged ({printable(first_line(error), 200)})",
            hint="delete it, and download it again",
        ) from error
    if rest:
        yield number, rest


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
