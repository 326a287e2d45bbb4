from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.text import printable


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
