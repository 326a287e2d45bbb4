"""Text from files cannot act on a terminal, a spreadsheet or a file system."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.config.text import (
    file_name,
    log_text,
    one_line,
    printable,
    spreadsheet_cell,
    spreadsheet_frame,
)

FORMULAS = (
    *("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"),
    *("-", "=1", "+a", "-1|x"),
)
PLAIN = ("a", "1", "-0.5", "+1.5", "-1e-3", "+1.3 %", "-0.01 to +0.02", "a=b", "", "–", "'x")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text(text):
    assert spreadsheet_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", PLAIN)
def test_numbers_and_other_text_stay(text):
    assert spreadsheet_cell(text) == text


def test_a_table_is_treated_as_its_cells_are():
    texts = [*FORMULAS, *PLAIN]
    rows = len(texts) + 1
    columns = {"=id": [*texts, None], "name": ["a"] * (rows - 1) + ["=1"], "score": [-0.5] * rows}
    frame = pl.DataFrame(columns)
    found = spreadsheet_frame(frame.lazy()).collect()
    assert found["'=id"].to_list() == [*map(spreadsheet_cell, texts), None]
    assert found["name"].to_list() == ["a"] * (rows - 1) + ["'=1"]
    assert found["score"].equals(frame["score"])


def test_control_characters_are_shown_and_not_sent():
    assert printable("\x1b[31mred\r\n") == "\\x1b[31mred\\r\\n"
    assert one_line(" a\n\tb\x07 ") == "a b\\x07"
    assert log_text("a\n\tb\x9b1m\u202e") == "a\n\tb\\x9b1m\\u202e"
    assert log_text("é 日本 – “x”") == "é 日本 – “x”"


def test_long_names_are_shortened():
    name = "x" * 5000
    assert len(printable(name)) == 80
    assert len(one_line(name, 50)) == 50
    assert len(log_text(f"read {name} and /tmp/a")) < 450
    assert log_text(f"read {name} and /tmp/a").endswith(" and /tmp/a")


def test_file_names_are_short_and_tell_long_names_apart():
    assert file_name("../../Etc/Passwd, é") == "etc-passwd"
    one, other = file_name("x" * 5000 + "a"), file_name("x" * 5000 + "b")
    assert one != other
    assert len(one) == len(other) == 100


@pytest.mark.parametrize("text", ["", "plain text", "Zoë", "日本語", "a\\b", "🎧"])
def test_ordinary_text_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202eabc", "\\u202eabc"),
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),
        (17, "17"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert printable(text) == shown


@given(st.text(), st.integers(10, 100))
def test_nothing_long_or_unprintable_is_left(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= 10 * limit
    if text.isprintable():
        assert len(shown) <= limit
        assert shown[:5] == text[:5]
