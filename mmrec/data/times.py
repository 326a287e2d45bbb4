"""Timestamps: numbers and ISO 8601 text as seconds since 1970.

Shape legend: N rows of a table.
"""

from __future__ import annotations

import logging

import polars as pl

from mmrec.config.errors import DataError
from mmrec.config.text import printable
from mmrec.data.tables import Column, shown

log = logging.getLogger(__name__)

# The largest value of a column decides its unit: 1e11 seconds are in the year 5138, and 1e11
# milliseconds in 1973.
UNITS = (
    ("milliseconds", 10**11, 10**3),
    ("microseconds", 10**14, 10**6),
    ("nanoseconds", 10**17, 10**9),
)
SECONDS = ("seconds", 0, 1)
PLAUSIBLE = (631_152_000, 4_102_444_800)  # seconds: the years 1990 to 2099
EXPECTED = (
    "a time since 1970 (seconds, milliseconds or microseconds) or ISO 8601, for example "
    "2024-05-01T12:30:00Z; correct the line, or drop it"
)
ISO = (
    r"^\s*(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?"
    r"\s*(?:[Zz]|UTC|([+-])(\d{2}):?(\d{2})?)?\s*$"
)


def moments(column: Column) -> tuple[pl.Series, pl.Series]:
    """Read a column of times.

    Numbers are seconds, or milliseconds, microseconds or nanoseconds where the largest is at least
    1e11, 1e14 or 1e17. If all are dates such as 20240501, they are dates. Text is ISO 8601 with a
    date, perhaps a time of day, and perhaps a zone; without zone it is UTC. Two units in one column
    are an error: the largest value, and another one in a smaller unit, are both between 1990 and
    2099. In the unit of the largest, the other would be in the first seven weeks of 1970.

    Returns:
        [N] int64 seconds, and [N] numbers that order also within a second.

    Raises:
        DataError: a value is none of these, is negative, not finite, or beyond int64; or values
            have two units.
    """
    values = column.values
    if values.dtype in (pl.Date, pl.Datetime):
        column.reject(values.is_null(), EXPECTED)
        return values.dt.epoch("s"), values.dt.epoch("us")
    numbers = column.integers
    if numbers.has_nulls():
        text = column.text
        if text.str.contains(ISO).any():
            return _iso(column)
        numbers = text.cast(pl.Float64, strict=False)
        column.reject(~numbers.is_finite(), EXPECTED)
    column.reject((numbers < 0) | (numbers >= 2.0**63), EXPECTED)
    if (days := _calendar_days(numbers)) is not None:
        log.info("%s: %s is taken as dates YYYYMMDD", shown(column.path), column.name)
        return days, numbers
    largest: float = numbers.to_numpy().max(initial=0)
    scale, least = 1, 0
    for unit, limit, factor in UNITS:
        if largest >= limit:
            scale, least, name = factor, limit, unit
    if scale > 1:
        log.info(
            "%s: %s is taken as %s, because its largest value is %s",
            shown(column.path),
            column.name,
            name,
            largest,
        )
        _check_one_unit(column, numbers, scale)
        if (mixed := (numbers > 10**8) & (numbers < least)).any():
            log.warning(
                "%s: %s mixes units: %s is too small for %s; convert the column to seconds",
                shown(column.path),
                column.name,
                numbers.filter(mixed)[0],
                name,
            )
    return (numbers // scale).cast(pl.Int64), numbers


def _check_one_unit(column: Column, numbers: pl.Series, scale: int) -> None:
    """Refuse dates in a smaller unit than that of the largest value, which is a date too."""
    place = numbers.arg_max()
    known = {factor: unit for unit, _, factor in (SECONDS, *UNITS)}
    low, high = PLAUSIBLE
    if place is None or not low * scale <= numbers[place] < high * scale:
        return
    for factor, unit in known.items():
        if factor == scale:
            return
        mixed = (numbers >= low * factor) & (numbers < high * factor)
        if mixed.any():
            index = int(mixed.arg_true()[0])
            line, row = column.place(index)
            raise DataError(
                file=shown(column.path),
                line=line,
                row=row,
                column=printable(column.name),
                problem=f"{unit} and {known[scale]} are mixed",
                found=f"{column.text[index]} here and {column.text[place]} elsewhere",
                expected="times in one unit",
                hint=f"multiply the {unit} by {scale // factor:,}, or write all times as ISO 8601",
            )


def _calendar_days(numbers: pl.Series) -> pl.Series | None:
    """[N] seconds, if every number is a date between the years 1900 and 2199 as YYYYMMDD."""
    if numbers.dtype != pl.Int64 or not numbers.is_between(19_000_101, 21_991_231).all():
        return None
    days = numbers.cast(pl.String).str.to_date("%Y%m%d", strict=False)
    return None if days.has_nulls() or not len(days) else days.dt.epoch("s")


def _iso(column: Column) -> tuple[pl.Series, pl.Series]:
    """As `moments`, of ISO 8601 text."""
    names = ("date", "clock", "second", "fraction", "sign", "hours", "minutes")
    parts = column.text.str.extract_groups(ISO).struct.rename_fields(list(names)).struct.unnest()
    whole = pl.concat_str(
        "date", pl.lit(" "), pl.col("clock").fill_null("00:00"), pl.lit(":"),
        pl.col("second").fill_null("00"),
    )  # fmt: skip
    hours, minutes = (pl.col(part).cast(pl.Int64).fill_null(0) for part in ("hours", "minutes"))
    sign = pl.when(pl.col("sign") == "-").then(-1).otherwise(1)
    found = parts.select(
        seconds=whole.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("s")
        - sign * (hours * 3600 + minutes * 60),
        fraction=pl.col("fraction").fill_null("0").str.pad_end(6, "0").str.head(6).cast(pl.Int64),
    )
    column.reject(found["seconds"].is_null(), EXPECTED)
    return found["seconds"], found["seconds"] * 10**6 + found["fraction"]
