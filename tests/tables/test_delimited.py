"""Delimited text: separators, quotes, and errors that name the line."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.config.errors import DataError, SettingError
from mmrec.tables.delimited import parse_delimited
from mmrec.tables.separators import SEPARATORS, chosen_separator, detect_separator

NAME = "toys/t.csv"
WITHOUT_QUOTING = ["\t", "::", " "]


def parse(text: str | bytes, separator: str | None = None) -> list[tuple[str | None, ...]]:
    content = text if isinstance(text, bytes) else text.encode()
    return parse_delimited(NAME, content, separator).frame.rows()


def lines(text: str) -> list[int]:
    return [*parse_delimited(NAME, text.encode()).lines]


def refused(text: str | bytes, line: int | None, separator: str | None = None) -> DataError:
    """The error about a text, which names the line and fits one line."""
    with pytest.raises(DataError) as error:
        parse(text, separator)
    assert (error.value.file, error.value.line) == (NAME, line)
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.parametrize("separator", [*SEPARATORS.values(), ", ", "; "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_separator_is_detected(separator, end, mark):
    rows = [["userID", "itemID"], ["a", "7"], ["b", "x:y"]]
    text = mark + end.join(separator.join(row) for row in rows) + end
    assert parse(text) == [("a", "7"), ("b", "x:y")]


@pytest.mark.parametrize(
    ("header", "sample", "separator"),
    [
        ("itemID\ttitle, long", ["1\ta, b, c", "2\td"], "\t"),
        ("user name;item name", ["a b c;d", "e;f"], ";"),
        ("user;item;price", ["1;2;3,5", "1;3;4,5"], ";"),
        ("first name,last name", ["Ann Mary Lee,X", "B,Y"], ","),
        ("itemID,categories", ["1,a|b", "2,a"], ","),
        ("itemID,title", ['1,"a, b"', "2,c"], ","),
        ("id::title::kinds", ["1::Batman: Begins::a|b", "2::x::a"], "::"),
        ("user_id:token\titem_id:token", ["1\t2"], "\t"),
        ("userID itemID", [], " "),
        ("user id", ["A", "B"], None),
        ("userID", ["A", "B"], None),
        ("a,b", ["1,2,3", "1,2"], ","),  # the parser names the line
    ],
)
def test_a_separator_must_fit_the_header_and_all_lines(header, sample, separator):
    assert detect_separator(header, sample) == separator


def test_a_chosen_separator_wins_over_the_detected_one():
    assert parse("a,b;c\n1,2;3\n", chosen_separator("x", "semicolon")) == [("1,2", "3")]
    assert parse("a##b\n1##2\n", chosen_separator("x", "##")) == [("1", "2")]
    assert parse("a§b\n1§2\n", chosen_separator("x", "§")) == [("1", "2")]
    assert chosen_separator("x", r"\t") == chosen_separator("x", "tab") == "\t"


@pytest.mark.parametrize("value", ["", 1, None, True, "\n", '"'])
def test_a_setting_that_is_no_separator_is_named(value):
    with pytest.raises(SettingError) as error:
        chosen_separator("data.separator", value)
    assert (error.value.setting, error.value.value) == ("data.separator", value)
    assert "\n" not in str(error.value)


def test_a_chosen_separator_that_the_header_lacks_is_named():
    with pytest.raises(DataError) as error:
        parse_delimited(NAME, b"a;b\n1;2,3\n", ",", "data.separator")
    assert (error.value.file, error.value.line) == (NAME, 1)
    assert error.value.problem.endswith("no comma, as data.separator demands")


@pytest.mark.parametrize("separator", WITHOUT_QUOTING)
@pytest.mark.parametrize("value", ['"Moon', 'River"', '12"', '"Moon"lamp', '"', '""', '"a"'])
def test_quotes_are_text_where_separators_are_not_quoted(separator, value):
    rows = [f"{n}{separator}{value if n % 3 else 'x'}" for n in range(9)]
    found = parse("\n".join([f"itemID{separator}title", *rows]))
    assert [separator.join(row) for row in found] == rows


def test_a_quoted_header_means_quoted_values_with_any_separator():
    assert parse('"a"\t"b"\n"1"\t"x\ty"\n') == [("1", "x\ty")]


@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_quotes_enclose_values(separator):
    text = 'id,title\n1,"a, ""b"""\n2,12" lamp\n3,""\n4,\n"5",x "y" z\n'
    found = parse(text.replace(",", separator))
    assert found == [
        ("1", f'a{separator} "b"'),
        ("2", '12" lamp'),
        ("3", None),
        ("4", None),
        ("5", 'x "y" z'),
    ]


def test_a_value_over_several_lines_keeps_the_line_numbers_of_the_rows_below():
    text = 'id,title,kind\n1,"two\n\nlines",a\n\n2,x,b\n3,"and, ""\ntwo""",c\n4,y,d\n'
    assert parse(text) == [
        ("1", "two\n\nlines", "a"),
        ("2", "x", "b"),
        ("3", 'and, "\ntwo"', "c"),
        ("4", "y", "d"),
    ]
    assert lines(text) == [2, 6, 7, 9]


@pytest.mark.parametrize(
    ("rows", "line", "found"),
    [
        (["1,a,h", '2,"Moon,h', "3,b,h", '4,River",h', "5,c,h"], 3, "closed on line 5"),
        (["1,a,h", '2,"Moon,h', "3,b,h"], 3, "a stray quote"),
        (['1,"Moon" lamp,h', "2,b,h"], 2, "a stray quote"),
        (['1,"Moon,h', "2,b,h", '3,12" lamp,h'], 2, "a stray quote"),
        (['1,"Moon,h', "2,b,h", '3,"x, y",h'], 2, "a stray quote"),
        (['1,"Moon,h', "2,b", '3,c"'], 2, "closed on line 4"),
        (['1,"Moon,h"', "2,b,h"], 2, "2 values separated by comma"),
        (['1,a"b,h', '2,"c,"",h', '3,b,h"'], 3, "closed on line 4"),
        (['1,"Moon,h', *["2,b,h"] * 40_000], 2, "a stray quote"),
    ],
)
def test_a_quote_that_swallows_rows_is_found(rows, line, found):
    assert found in refused("\n".join(["id,title,kind", *rows]) + "\n", line).found


@pytest.mark.parametrize("separator", SEPARATORS.values())
@pytest.mark.parametrize(
    ("row", "found"),
    [("9", "1 value"), ("9,8", "2 val"), ("9,8,7,6", "4 val"), ("9,8,7,", "4 val")],
)
def test_a_line_of_another_width_is_named(separator, row, found):
    text = "\n".join(["a,b,c", "1,2,3", "4,5,6", row, "1,2,3", ""])
    error = refused(text.replace(",", separator), 4, separator)
    assert error.found.startswith(found)
    assert error.expected == "3 as in the header"


def test_an_empty_last_value_is_no_missing_one():
    assert parse("a\tb\n1\t\n2\tx\n\t\n") == [("1", None), ("2", "x"), (None, None)]


@pytest.mark.parametrize("separator", ["\t", ",", "::"])
def test_blank_lines_are_skipped_and_counted(separator):
    text = f"\n\na{separator}b\n1{separator}2\n\n  \n3{separator}4\n\n"
    assert parse(text) == [("1", "2"), ("3", "4")]
    assert lines(text) == [4, 7]
    assert lines("a\n1\n\n2\n") == [2, 4]


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"", None, "the file is empty"),
        (b"\xef\xbb\xbf \n\n", None, "the file is empty"),
        (b"a\tb\n1\t2\n1\tx\0y\n", 3, "a NUL byte"),
        (b"a,b\n1,2\n1,caf\xe9\n", 3, "byte 0xe9 is not valid UTF-8"),
        (b'a,b\n1,"2"\n1,caf\xe9\n', 3, "byte 0xe9 is not valid UTF-8"),
        (b"caf\xe9::b\n1::2\n", 1, "byte 0xe9 is not valid UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), None, "encoded as UTF-16"),
        (b"a,b,a\n1,2,3\n", 1, "two columns are named a"),
        (b'"a,b\n1,2\n', 1, "a stray quote"),
    ],
)
def test_a_text_that_is_no_table_says_why(content, line, said):
    error = refused(content, line)
    assert said in (error.problem or error.found)


def test_lines_may_end_as_on_old_systems():
    assert parse("a,b\r1,2\r3,4\r") == [("1", "2"), ("3", "4")]


def test_a_header_alone_is_a_table_without_rows():
    for end in ("", "\n", "\r\n", "\n\n"):
        assert parse(f"a\tb{end}") == []
        assert parse(f'"a","b"{end}') == []


def test_columns_without_a_name_get_one():
    found = parse_delimited(NAME, b",userID,itemID\n0,a,b\n").frame
    assert found.columns == ["column_0", "userID", "itemID"]


VALUES = st.text(st.sampled_from('ab ",;|\n\t:'), max_size=6).map(str.strip)


@given(
    st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=8),
    st.sampled_from(",;|"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_whatever_a_csv_writer_writes_is_read_or_refused(rows, separator, quoting):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator="\n")
    writer.writerow(["x", "y", "z"])
    writer.writerows(rows)
    expected = [tuple(value or None for value in row) for row in rows]
    try:
        found = parse(file.getvalue(), separator)
    except DataError as error:
        assert "lines become one row" in str(error)  # noqa: PT017
        assert any("\n" in value for row in rows for value in row)
    else:
        assert found == expected


@given(st.lists(st.text(st.sampled_from('1a",\n'), max_size=8), min_size=1, max_size=6))
def test_no_line_is_lost_without_an_error(rows):
    text = "\n".join(["a,b", *rows]) + "\n"
    try:
        table = parse_delimited(NAME, text.encode(), ",")
    except DataError:
        return
    filled = [n for n, line in enumerate(text.split("\n")[1:], 2) if line.strip()]
    began = [*table.lines]
    assert len(began) == len(table.frame)
    for line in set(filled) - set(began):  # part of a value over several lines
        row = max(n for n, start in enumerate(began) if start < line)
        assert any("\n" in (value or "") for value in table.frame.row(row))
