"""Delimited text: detection of the separator, quoting, and errors that name the line.

Quotes are plain text in tables that are separated by tabs, spaces or `::`. Where a comma, a
semicolon or a pipe separates, a value may be quoted as in RFC 4180: `"` around it, `""` inside.

Shape legend: N rows, L lines.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from mmrec.config.errors import DataError
from mmrec.config.text import first_line, printable
from mmrec.tables.separators import ALLOWED, QUOTED_FIELD, QUOTING, detect_separator, separator_name

SAMPLE = 100  # lines that must agree with the header about a separator
SAMPLED = 2**20  # bytes of these
BOM = b"\xef\xbb\xbf"
# Stand in for separators of several bytes: polars splits at a single byte.
UNUSED = tuple("\x1f\x1e\x1d\x1c\x01\x02\x03\x04")


@dataclass(frozen=True)
class Delimited:
    """The rows of a text.

    Attributes:
        frame: [N] all columns as text; empty values are null.
        lines: [N] the line on which each row begins, from 1.
    """

    frame: pl.DataFrame
    lines: Sequence[int] | pl.Series


def parse_delimited(
    name: str, content: bytes, separator: str | None = None, setting: str = "separator"
) -> Delimited:
    """Parse delimited text with a header.

    Blank lines are skipped. Blanks around values are removed where the header has blanks after
    separators, as in `userID, itemID`.

    Args:
        name: of the file, for messages.
        content: UTF-8.
        separator: as returned by `chosen_separator`; None detects it.
        setting: sets the separator, for messages.

    Raises:
        DataError: the text is not a table; the message names the line.
    """
    content = _checked(name, content)
    try:
        return _parse(name, content, separator, setting)
    except (UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        _reject_encoding(name, content)
        reason = printable(first_line(error))
        raise DataError(
            file=name, problem=f"invalid table ({reason})", hint="correct it"
        ) from error


def _checked(name: str, content: bytes) -> bytes:
    """The text without a byte-order mark, its lines separated by newlines."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(file=name, problem="encoded as UTF-16", hint="save it as UTF-8")
    if content.startswith(BOM):
        content = content[len(BOM) :]
    if not content or content.isspace():
        raise DataError(file=name, problem="the file is empty", expected="a header and rows")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise DataError(
            file=name,
            line=line,
            found="a NUL byte",
            hint="the file is damaged or not UTF-8 text, save it again",
        )
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    return content


def _reject_encoding(name: str, content: bytes) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            file=name,
            line=line,
            problem=f"byte 0x{content[error.start]:02x} is not valid UTF-8",
            hint="convert the file, for example with `iconv -f LATIN1 -t UTF-8`",
        ) from error


def _parse(name: str, content: bytes, chosen: str | None, setting: str) -> Delimited:
    first, start, end = _header_line(content)
    header = content[start:end].decode()
    separator = chosen or detect_separator(header, _sample(content, end + 1))
    label = "" if separator is None else separator_name(separator)
    if chosen and chosen not in header:
        raise DataError(
            file=name,
            line=first,
            problem=f"the header {printable(header)} has no {label}, as {setting} demands",
            hint=f"set it to {ALLOWED}, or to the characters themselves",
        )
    if separator is None or len(separator.encode()) > 1:
        mark = next((each for each in UNUSED if each.encode() not in content), None)
        if mark is None:
            raise DataError(
                file=name, problem="too many control characters", hint="the file is damaged"
            )
        if separator is not None:
            content = content.replace(separator.encode(), mark.encode())
            header = header.replace(separator, mark)
        quoting = separator is None
        separator = mark
    else:
        # Programs that quote the names in the header quote values too, with any separator.
        quoting = separator in QUOTING or header.startswith('"')
    text = _Text(name, separator, label, quoting and b'"' in content)
    names, spaced = text.names(header, first)
    table = text.rows(content, names, skip=first, spaced=spaced)
    if spaced:
        frame = table.frame.with_columns(pl.all().str.strip_chars(" ").replace("", None))
        return Delimited(frame, table.lines)
    return table


def _header_line(content: bytes) -> tuple[int, int, int]:
    """The first line that is not blank: its number from 1, where it begins, and where it ends."""
    number, start = 1, 0
    while True:
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        if content[start:end].strip():
            return number, start, end - content[start:end].endswith(b"\r")
        number, start = number + 1, end + 1


def _sample(content: bytes, start: int) -> list[str]:
    """Some lines from a place in the text."""
    block = content[start : start + SAMPLED]
    lines = block.split(b"\n", SAMPLE)
    if len(lines) > SAMPLE or len(block) == SAMPLED:
        del lines[-1]  # all the rest, or a part of a line
    return [line.decode(errors="replace") for line in lines]


@dataclass(frozen=True)
class _Text:
    """How a text is to be read.

    Attributes:
        name: of the file, for messages.
        separator: one byte.
        label: what messages call the separator; empty: a single column.
        quoting: whether quotes enclose values.
    """

    name: str
    separator: str
    label: str
    quoting: bool

    def names(self, header: str, line: int) -> tuple[list[str], bool]:
        """The column names, and whether blanks follow the separators."""
        found = header.split(self.separator)
        spaced = self.separator != " " and any(each.startswith(" ") for each in found[1:])
        if self.quoting:
            found, _ = self._record([header], 0, line, spaced)
        names = [each.strip() or f"column_{index}" for index, each in enumerate(found)]
        for index, each in enumerate(names):
            if each in names[:index]:
                raise DataError(
                    file=self.name,
                    line=line,
                    problem=f"two columns are named {printable(each)}",
                    hint="the header must give each column a name of its own",
                )
        return names, spaced

    def rows(self, content: bytes, names: list[str], *, skip: int, spaced: bool) -> Delimited:
        """The rows below the first `skip` lines of the text."""
        lines: Sequence[int] | pl.Series | None = None
        records: pl.Series | None = None
        if self.quoting:
            records, lines = self._records(_lines(content)[skip:], skip + 1, len(names), spaced)
            if lines is not None:
                content, skip = ("\n".join(records) + "\n").encode(), 0
        try:
            frame = pl.read_csv(
                content,
                has_header=False,
                schema=dict.fromkeys(names, pl.String),
                separator=self.separator,
                quote_char='"' if self.quoting else None,
                skip_lines=skip,
                raise_if_empty=False,
                missing_columns="insert",  # the first row may be incomplete
            )
        except pl.exceptions.PolarsError:  # too many values, or bytes that are not UTF-8
            records = _lines(content)[skip:] if records is None else records
            lines = range(skip + 1, skip + 1 + len(records)) if lines is None else lines
            self._check_widths(records, lines, len(names))
            raise
        if lines is None:
            lines = range(skip + 1, skip + 1 + len(frame))
        if len(frame) != len(lines) or (records is not None and len(frame) != len(records)):
            raise DataError(
                file=self.name,
                problem=f"{len(frame)} rows were read from {len(lines)} lines",
                hint="check the quotes in the file",
            )
        if self.quoting:
            frame = frame.with_columns(pl.all().replace("", None))
        # The rows of blank and of incomplete lines end in a null.
        if not frame[names[-1]].null_count():
            return Delimited(frame, lines)
        records = _lines(content)[skip:] if records is None else records
        blank = self._check_widths(records, lines, len(names), among=frame[names[-1]].is_null())
        if not blank.any():
            return Delimited(frame, lines)
        kept = (~blank).arg_true()
        return Delimited(frame[kept], pl.Series(lines)[kept])

    def _check_widths(
        self,
        records: pl.Series,
        lines: Sequence[int] | pl.Series,
        width: int,
        among: pl.Series | None = None,
    ) -> pl.Series:
        """Raises a DataError about the first record that has not `width` values.

        Args:
            records: [N] the text of each row.
            lines: [N] where each begins.
            width: values in each.
            among: [N] the records to look at; None: all.

        Returns:
            [N] whether a record is blank.
        """
        chosen = pl.Series(range(len(records))) if among is None else among.arg_true()
        texts = records[chosen]
        blank = texts.str.strip_chars(" ") == ""
        if self.quoting:
            texts = texts.str.replace_all(QUOTED_FIELD, "")
        found = texts.str.count_matches(self.separator, literal=True) + 1
        wrong = ((found != width) & ~blank).arg_true()
        if len(wrong):
            self._reject_width(int(lines[chosen[wrong[0]]]), int(found[wrong[0]]), width)
        result = np.zeros(len(records), dtype=np.bool_)
        result[chosen.filter(blank).to_numpy()] = True
        return pl.Series(result)

    def _reject_width(self, line: int, found: int, width: int) -> None:
        by = f" separated by {self.label}" if self.label else ""
        quote = ", or quote values that contain the separator" if self.separator in QUOTING else ""
        raise DataError(
            file=self.name,
            line=line,
            found=f"{found} value{'s' * (found != 1)}{by}",
            expected=f"{width} as in the header",
            hint=f"correct the line{quote}",
        )

    def _records(
        self, lines: pl.Series, first: int, width: int, spaced: bool
    ) -> tuple[pl.Series, pl.Series | None]:
        """The text of each row, in a form that leaves no doubt about its quotes.

        Args:
            lines: [L] below the header.
            first: the number of the first of these lines.
            width: values in each row.
            spaced: whether blanks follow the separators.

        Returns:
            [N] text, and [N] the line on which it begins; None if each line is a row as it is.
        """
        plain = rf'(?:{QUOTED_FIELD}|[^"{re.escape(self.separator)}]*)'
        whole = rf"^{plain}(?:{re.escape(self.separator)}{plain})*$"
        odd = (lines.str.contains('"', literal=True) & ~lines.str.contains(whole)).arg_true()
        if not len(odd):
            return lines, None
        starts = np.ones(len(lines), dtype=np.bool_)
        rewritten: dict[int, str] = {}
        end = 0
        for start in odd:
            if start < end:
                continue
            values, raw = self._record(lines, start, first + start, spaced)
            end = start + len(raw)
            self._check_span(raw, first + start, len(values), width)
            starts[start + 1 : end] = False
            rewritten[start] = self.separator.join(_quoted(value) for value in values)
        lines = lines.scatter(list(rewritten), list(rewritten.values()))
        kept = pl.Series(starts.nonzero()[0])
        return lines[kept], kept + first

    def _record(
        self, lines: Sequence[str] | pl.Series, start: int, number: int, spaced: bool
    ) -> tuple[list[str], list[str]]:
        """The values of the row that begins on a line, and the lines it takes."""
        raw: list[str] = []

        def rest() -> Iterator[str]:
            for index in range(start, len(lines)):
                raw.append(lines[index])
                yield raw[-1] + "\n"

        reader = csv.reader(rest(), delimiter=self.separator, strict=True, skipinitialspace=spaced)
        try:
            return next(reader), raw
        except csv.Error as error:
            raise DataError(
                file=self.name,
                line=number,
                found=f"a stray quote ({error})",
                hint='remove it, or quote the whole value and write "" for a quote inside it',
            ) from error

    def _check_span(self, raw: Sequence[str], number: int, found: int, width: int) -> None:
        """Refuse a quote that swallows rows, and a row of a wrong number of values."""
        # Lines that are rows as they are, if quotes are taken as text.
        rows = all(line.count(self.separator) + 1 == width for line in raw if line.strip(" "))
        if len(raw) > 1 and (found != width or rows):
            raise DataError(
                file=self.name,
                line=number,
                found=f"a quote that is only closed on line {number + len(raw) - 1}, so that "
                f"{len(raw)} lines become one row",
                hint="remove the quote, or the line breaks inside it",
            )
        if found != width:
            self._reject_width(number, found, width)


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if value else ""


def _lines(content: bytes) -> pl.Series:
    """[L] without line breaks."""
    return pl.read_lines(content)["line"]
