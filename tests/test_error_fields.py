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
        ({"setting": "k", "value": None, "problem": "no such list"}, "k=null: no such list"),
        ({"setting": "data", "problem": "no folder", "hint": HINT}, "data: no folder; set it to 1"),
        (
            {"setting": "wait", "value": True, "problem": "it is late", "expected": "a time"},
            "wait=true: it is late, expected a time",
        ),
    ],
)
def test_the_wording_of_setting_errors(fields, message):
    error = SettingError(**fields)
    assert str(error) == message
    assert isinstance(error, ValueError)
    assert error.setting == fields["setting"]
    assert error.value is fields.get("value", MISSING)
    for name in ("problem", "expected", "hint"):
        assert getattr(error, name) == fields.get(name)


def test_a_setting_below_a_group():
    error = SettingError(setting="dim", value=-1, expected="1 or more", hint=HINT).below("model")
    assert str(error) == "model.dim=-1: expected 1 or more; set it to 1"
    assert (error.setting, error.value, error.hint) == ("model.dim", -1, HINT)
    assert str(SettingError("several disagree").below("model")) == "model: several disagree"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {
                "file": "a.csv",
                "line": 7,
                "column": "time",
                "found": "noon",
                "expected": "seconds",
                "hint": "convert it",
            },
            "a.csv, line 7: time is noon, expected seconds; convert it",
        ),
        ({"file": "a.csv", "problem": "no rows", "hint": "add some"}, "a.csv: no rows; add some"),
        ({"file": "a.csv", "expected": "a column user"}, "a.csv: expected a column user"),
        (
            {"file": "a.npy", "row": 3, "column": 0, "found": "inf", "expected": "a number"},
            "a.npy, row 3: column 0 is inf, expected a number",
        ),
        (
            {"file": "a.csv", "line": 2, "problem": "no key", "found": "[]", "expected": "{}"},
            "a.csv, line 2: no key, found [], expected {}",
        ),
    ],
)
def test_the_wording_of_data_errors(fields, message):
    error = DataError(**fields)
    assert str(error) == message
    assert isinstance(error, ValueError)
    for name in ("file", "line", "row", "column", "problem", "found", "expected", "hint"):
        assert getattr(error, name) == fields.get(name)


@pytest.mark.parametrize("kind", [SettingError, DataError])
def test_a_message_of_its_own_is_kept(kind):
    assert str(kind("several settings contradict each other")).startswith("several")
