"""Errors have fields; each class makes its message in one way."""

from __future__ import annotations

import pickle

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
        ({"problem": "several disagree", "hint": HINT}, "several disagree; set it to 1"),
        (
            {"setting": "trainer", "value": {"devices": 0, "strategy": None}, "problem": "no"},
            "trainer={devices: 0, strategy: null}: no",
        ),
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
    assert error.setting == fields.get("setting")
    assert error.value is fields.get("value", MISSING)
    for name in ("problem", "expected", "hint"):
        assert getattr(error, name) == fields.get(name)


def test_a_setting_below_a_group():
    error = SettingError(setting="dim", value=-1, expected="1 or more", hint=HINT).below("model")
    assert str(error) == "model.dim=-1: expected 1 or more; set it to 1"
    assert (error.setting, error.value, error.hint) == ("model.dim", -1, HINT)
    assert str(SettingError("several disagree").below("model")) == "model: several disagree"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ((1, 2), "[1, 2]"),
        ("a\nb", r"a\nb"),
        (False, "false"),
        ("x" * 999, "x" * 224 + "…" + "x" * 75),
    ],
)
def test_a_value_is_shown_as_it_is_typed_on_one_line(value, shown):
    error = SettingError(setting="a", value=value, problem="no")
    assert str(error) == f"a={shown}: no"
    assert error.value is value


def test_an_error_of_data_in_another_file():
    error = DataError(file="a", row=3, column="x", found="1", expected="2", hint=HINT)
    assert str(error.in_file("b.ckpt")) == "b.ckpt, row 3: x is 1, expected 2; set it to 1"
    assert str(error.in_file("b", "or not")) == "b, row 3: x is 1, expected 2; or not"


@pytest.mark.parametrize(
    "error", [SettingError(setting="a", value=[1], expected="2"), DataError(file="a", line=2)]
)
def test_an_error_keeps_its_fields_from_one_process_to_another(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))


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


def test_an_error_of_text_keeps_it_when_a_file_is_named():
    assert str(DataError("a message").in_file("x.ckpt")) == "x.ckpt: a message"


def test_values_in_lists_and_mappings_are_shown_as_they_are_typed():
    error = SettingError(setting="a.b", value=[None, True, {"c": False}], expected="another")
    assert "[null, true, {c: false}]" in str(error)
