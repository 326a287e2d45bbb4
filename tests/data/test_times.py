"""Times: every way to write a moment gives the same second, and the same order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.data.corpus import DataError
from mmrec.data.tables import Column
from mmrec.data.times import moments

moment = st.datetimes(
    datetime(1973, 4, 1),
    datetime(2200, 1, 1),
    timezones=st.just(UTC),
)
zone = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def read(values):
    return moments(
        Column(Path("toys/toys.csv"), "date", pl.Series(values), lines=range(2, 2 + len(values)))
    )


def seconds(values):
    return read(values)[0].to_list()


def exact(value, scale):
    whole = value - datetime(1970, 1, 1, tzinfo=UTC)
    return whole // timedelta(microseconds=10**6 // scale)


@given(st.lists(moment, min_size=1, max_size=5), st.sampled_from([1, 10**3, 10**6]), st.booleans())
def test_the_unit_of_numbers_follows_from_their_size(values, scale, as_text):
    numbers = [exact(value, scale) for value in values]
    found, order = read([str(number) for number in numbers] if as_text else numbers)
    assert found.to_list() == [exact(value, 1) for value in values]
    assert order.to_list() == numbers


@given(st.lists(st.tuples(moment, zone), min_size=1, max_size=5), st.sampled_from("T "))
def test_iso_with_a_zone_is_what_the_standard_library_reads(values, between):
    texts = [value.astimezone(there).isoformat(between) for value, there in values]
    found, order = read(texts)
    assert found.to_list() == [exact(value, 1) for value, _ in values]
    assert order.to_list() == [exact(value, 10**6) for value, _ in values]


@pytest.mark.parametrize(
    "text",
    [
        "2014-07-01T12:00:00Z",
        "2014-07-01T12:00:00.000+00:00",
        "2014-07-01 12:00:00 UTC",
        "2014-07-01 12:00",
        " 2014-07-01T14:00:00+0200 ",
        "2014-07-01T09:30:00-02:30",
    ],
)
def test_writings_of_one_moment(text):
    assert seconds([text, "2014-07-01", "1969-12-31"]) == [1404216000, 1404172800, -86400]


def test_the_unit_is_logged_once(caplog):
    caplog.set_level("INFO")
    read([1_500_000_000_000, 1_500_000_000_001])
    (message,) = caplog.messages
    assert "toys/toys.csv: date is taken as milliseconds" in message
    caplog.clear()
    read([1_500_000_000])
    assert not caplog.messages


def test_dates_written_as_numbers_are_dates(caplog):
    caplog.set_level("INFO")
    assert seconds([20140701, 19691231]) == [1404172800, -86400]
    assert "date is taken as dates YYYYMMDD" in caplog.text
    assert seconds(["20140701"]) == [1404172800]
    assert seconds([20140701, 20141301]) == [20140701, 20141301]  # no thirteenth month: seconds
    assert seconds([20140701, 5]) == [20140701, 5]


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("units", "factor"),
    [(("seconds", "milliseconds"), 1), (("milliseconds", "microseconds"), 1000)],
)
def test_two_units_in_one_column_are_an_error(units, factor, as_text):
    values = [1_600_000_000_000 * factor, 1_500_000_000 * factor, 700_000_000_000 * factor]
    with pytest.raises(DataError) as error:
        read([str(value) for value in values] if as_text else values)
    assert (error.value.column, error.value.line) == ("date", 3)
    assert error.value.problem == f"{units[0]} and {units[1]} are mixed"
    assert error.value.found == f"{values[1]} here and {values[0]} elsewhere"
    assert error.value.hint.startswith(f"multiply the {units[0]} by 1,000")


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, 1_500_000_000_000],  # unknown times are often 0
        [103_000_000_000, 1_500_000_000_000, 7_000_000_000_000],  # 1973 to 2191
        [-1 + 2**32, 631_152_000, 0],
    ],
)
def test_many_years_in_one_unit_are_no_mixture(values):
    scale = 1000 if max(values) > 10**11 else 1
    assert seconds(values) == [value // scale for value in values]


def test_values_that_may_be_of_a_smaller_unit_are_told(caplog):
    read([200_000_000, 1_500_000_000_001])  # 1976, or 3 January 1970
    assert "mixes units: 200000000 is too small for milliseconds" in caplog.text


@pytest.mark.parametrize(
    "bad",
    [
        *("1e300", "nan", "inf", "-inf", "-4", "-0.5", "noon", "9223372036854775808", ""),
        *("2014-13-01", "2014-07-01T25:00", "07/01/2014", "2014-07-01T12:00+1", None),
    ],
)
@pytest.mark.parametrize("others", [["5"], ["5.5"], ["2014-07-01"]])
def test_what_is_no_moment_is_named_by_line(bad, others):
    with pytest.raises(DataError) as error:
        read([*others, bad])
    assert (error.value.file, error.value.column) == ("toys/toys.csv", "date")
    assert error.value.line in (2, 3)
    assert "1970" in error.value.expected
    assert "ISO 8601" in error.value.expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 1e300])
def test_numbers_of_a_parquet_file_are_checked_too(bad):
    with pytest.raises(DataError) as error:
        read([5.0, bad])
    assert (error.value.line, error.value.column) == (3, "date")
