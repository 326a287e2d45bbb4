from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Le

from mmrec.config.errors import MISSING, SettingError
from mmrec.config.schema import check_call, check_monitor, conf_dir, nearest


class Part:
    def __init__(self, *, width: int = 1) -> None:
        self.width = width


def target(
    corpus: object,
    *,
    dim: int,
    rate: float = 0.1,
    kind: Literal["hard", "soft"] = "hard",
    cutoffs: Sequence[int] = (),
    shares: dict[str, float] | None = None,
    part: Part | None = None,
    parts: Sequence[Part] = (),
    share: Annotated[float, Ge(0), Le(1)] = 0.5,
    function: Callable[[], int] | None = None,
) -> None:
    """What the tests configure."""


def accepts_anything(**kwargs: int) -> None:
    """Like some of a library's functions."""


TARGET = f"{__name__}.target"


@pytest.mark.parametrize(
    "node",
    [
        {"dim": 8},
        {"dim": 8, "rate": 1, "kind": "soft", "cutoffs": [1, 2], "shares": {"a": 0.5}},
        {"dim": 8, "shares": None, "part": {"_target_": f"{__name__}.Part", "width": 2}},
        {"dim": 8, "_partial_": True, "_convert_": "all"},
    ],
)
def test_what_fits_the_signature_passes(node):
    check_call({"_target_": TARGET, "_partial_": True, **node}, "model")


@pytest.mark.parametrize(
    ("node", "setting", "value", "said"),
    [
        ({"dimm": 8}, "dimm", MISSING, "did you mean dim?"),
        ({"dim": "eight"}, "dim", "eight", "integer"),
        ({"dim": 8.5}, "dim", 8.5, "integer"),
        ({"rate": "fast"}, "rate", "fast", "number"),
        ({"kind": "sofd"}, "kind", "sofd", "'hard' or 'soft'"),
        ({"cutoffs": [1, "x"]}, "cutoffs", [1, "x"], "integer"),
        ({"dim": True}, "dim", True, "an integer, found true or false"),
        ({"dim": "8"}, "dim", "8", "an integer, found text"),
        ({"dim": 8.0}, "dim", 8.0, "an integer, found a number"),
        ({"dim": None}, "dim", None, "integer"),
        ({"rate": "0.5"}, "rate", "0.5", "a number, found text"),
        ({"rate": False}, "rate", False, "a number, found true or false"),
        ({"rate": float("nan")}, "rate", float("nan"), "finite"),
        ({"rate": float("inf")}, "rate", float("inf"), "finite"),
        ({"share": 1.5}, "share", 1.5, "less than or equal to 1"),
        ({"cutoffs": [1, True]}, "cutoffs", [1, True], "an integer"),
        ({"shares": {"a": 0.5, "b": "1"}}, "shares", {"a": 0.5, "b": "1"}, "a number, found text"),
        ({"part": {"width": 2}}, "part", {"width": 2}, "Part"),
        ({"function": {"x": 2}}, "function", MISSING, "it has no _target_"),
        ({"function": {"_target_": f"{__name__}.Part"}}, "function._partial_", MISSING, "true"),
        ({"_partial_": "yes"}, "_partial_", "yes", "true or false, found text"),
        ({"parts": [{"_target_": f"{__name__}.Part", "w": 1}]}, "parts.0.w", MISSING, "no such"),
        ({"cutoffs": 5}, "cutoffs", 5, "expected a list, for example [a,b]"),
        ({"cutoffs": "all"}, "cutoffs", "all", "expected a list, for example [a,b]"),
        ({"shares": {"a": "x"}}, "shares.a", "x", "number"),
        (
            {"part": {"_target_": f"{__name__}.Part", "widht": 2}},
            "part.widht",
            MISSING,
            "did you mean width?",
        ),
    ],
)
def test_what_does_not_fit_names_the_setting_as_it_is_typed(node, setting, value, said):
    with pytest.raises(SettingError) as error:
        check_call({"_target_": TARGET, "_partial_": True, **node}, "model")
    assert error.value.setting == f"model.{setting}"
    assert repr(error.value.value) == repr(value)  # NaN is not equal to itself
    assert said in (error.value.problem or error.value.expected)


@pytest.mark.parametrize(
    ("source", "name", "problem"),
    [
        ("class Mine: ...", "one.Mien", "one has no Mien; did you mean Mine?"),
        ("class Mine: ...", "own.Mine", "no module own was found; install it, or add it to PY"),
        ("class Mine: ...", "mmrec.modles.BPR", "mmrec has no modles; did you mean models"),
        ("class Mine: ...", "mmrec.models.bprr.BPR", "mmrec.models has no bprr; did you mean bpr"),
        ("class Mine: ...", "mmrec.models.bpr", "it is not callable"),
        ("class Mine: ...", "..", "ValueError: "),
        ("class Mine: ...", 5, "AttributeError: "),
        ("import nowhere", "one.Mine", "no module nowhere was found; install it"),
        ("def broken(:", "one.Mine", "SyntaxError: invalid syntax (one.py, line 1)"),
        ("x = y", "one.Mine", "NameError: name 'y' is not defined"),
    ],
)
def test_a_target_that_cannot_be_imported_says_why(source, name, problem, tmp_path, monkeypatch):
    (tmp_path / "one.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "one", None)  # to be forgotten afterwards
    del sys.modules["one"]
    with pytest.raises(SettingError) as error:
        check_call({"_target_": name}, "model")
    assert (error.value.setting, error.value.value) == ("model._target_", name)
    assert error.value.problem.startswith(problem)


def test_what_a_call_needs_is_asked_for():
    for node, missing in (({"_partial_": True}, "model.dim"), ({"dim": 8}, "model.corpus")):
        with pytest.raises(SettingError) as error:
            check_call({"_target_": TARGET, **node}, "model")
        assert (error.value.setting, error.value.value) == (missing, MISSING)


def test_a_setting_of_another_class_is_none_of_this_one():
    node = {"_target_": f"{__name__}.Part", "function": {"_target_": TARGET, "dim": 1}}
    with pytest.raises(SettingError) as error:
        check_call({**node, "function": {**node["function"], "_partial_": True}}, "data")
    assert error.value.setting == "data.function"


def test_a_target_that_takes_anything_is_asked_itself():
    check_call({"_target_": f"{__name__}.accepts_anything", "whatever": 1}, "logger")


def test_a_node_without_target_is_looked_through():
    node = {"early": {"_target_": TARGET, "dimm": 8}}
    with pytest.raises(SettingError) as error:
        check_call(node, "callbacks")
    assert error.value.setting == "callbacks.early.dimm"


def test_the_nearest_names_are_offered_or_all_where_none_is_near():
    assert nearest("lightgnc", ["lightgcn", "bpr"]) == "; did you mean lightgcn?"
    assert nearest("zzz", ["lightgcn", "bpr"]) == "; the choices are bpr, lightgcn"
    assert nearest("zzz", []) == ""


@pytest.mark.parametrize("monitor", ["val/recall@20", "val/ndcg@5"])
def test_a_validation_metric_at_a_cutoff_may_select(monitor):
    check_monitor(monitor, [5, 20], ["recall", "ndcg"])


@pytest.mark.parametrize(
    ("monitor", "offered"),
    [
        ("test/recall@20", "val/recall@20"),
        ("val/recal@20", "val/recall@20"),
        ("val/recall@10", "val/recall@20"),
        ("val/loss", "val/"),
        ("recall@20", "val/recall@20"),
    ],
)
def test_nothing_else_may_select(monitor, offered):
    with pytest.raises(SettingError) as error:
        check_monitor(monitor, [5, 20], ["recall", "ndcg"])
    assert (error.value.setting, error.value.value) == ("monitor", monitor)
    assert offered in error.value.expected


def test_the_configuration_of_a_checkout_is_beside_the_package():
    assert conf_dir() == Path(__file__).parents[2] / "conf"
    assert (conf_dir() / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sum_fusoin", "; did you mean sum_fusion?"),
        ("sum", "; did you mean sum_fusion?"),
        ("_f", "; the choices are sum_fusion, top_1, top_3"),
        ("gate", "; the choices are sum_fusion, top_1, top_3"),
    ],
)
def test_the_nearest_are_those_of_like_spelling_or_those_that_hold_the_word(word, said):
    assert nearest(word, ["top_3", "sum_fusion", "top_1"]) == said
