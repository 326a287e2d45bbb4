"""Errors have fields; each class makes its message in one way."""

from __future__ import annotations

import pytest

from mmrec.config.errors import MISSING, DataError, SettingError

HINT = "set it to 1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"setting": "model.dim", "value": -1, "expected": "1 or more", "hint": HINT},
            "model.dim=-1: expected 1 or more; set it to 1",
        ),
        ({"setting": "k", "value": None, "problem": "no such list"}, "k=None: no such list"),
        ({"setting": "data", "problem": "no folder", "hint": HINT}, "data: no folder; set it to 1"),
    ],
)
def test_the_wording_of_setting_errors(fields, message):
    error = SettingError(**fields)
    assert str(error) == message
    assert isinstance(error, ValueError)
    assert error.setting == fields["setting"]
    assert error.value is fields.get("value", MISSING)
    assert (error.expected, error.hint) == (fields.get("expected"), fields.get("hint"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {
                "file": "a.csv",
                "place": "line 7",
                "column": "time",
                "found": "noon",
                "expected": "seconds",
                "hint": "convert it",
            },
            "a.csv, line 7: time is noon, expected seconds; convert it",
        ),
        ({"file": "a.csv", "problem": "no rows", "hint": "add some"}, "a.csv: no rows; add some"),
        ({"file": "a.csv", "expected": "a column user"}, "a.csv: expected a column user"),
    ],
)
def test_the_wording_of_data_errors(fields, message):
    error = DataError(**fields)
    assert str(error) == message
    assert isinstance(error, ValueError)
    for name in ("file", "place", "column", "found", "expected", "hint"):
        assert getattr(error, name) == fields.get(name)


@pytest.mark.parametrize("kind", [SettingError, DataError])
def test_a_message_of_its_own_is_kept(kind):
    assert str(kind("several settings contradict each other")).startswith("several")
