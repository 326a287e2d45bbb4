"""The words of a search are read as they are meant, or refused in one line."""

from __future__ import annotations

import pytest
from hydra.errors import HydraException
from optuna.distributions import CategoricalDistribution as Choice
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from mmrec.config.errors import SettingError
from mmrec.search.space import contains, parse


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=choice(1,2)", Choice([1, 2])),
        ("a=1,2", Choice([1, 2])),
        ("a=choice(x,1e-4,true,'two words')", Choice(["x", 1e-4, True, r"two\ words"])),
        ("a=choice([1,2],{b:3})", Choice(["[1,2]", "{b:3}"])),
        ("a=choice(1,1,2)", Choice([1, 2])),
        ("a=range(1,5)", Int(1, 4)),  # as Python, and Hydra's own multirun
        ("a=range(3)", Int(0, 2)),
        ("a=range(1,8,3)", Int(1, 7, step=3)),
        ("a=range(1,7,3)", Int(1, 4, step=3)),
        ("a=range(5,1,-2)", Int(3, 5, step=2)),
        ("a=range(0,1,0.25)", Float(0, 0.75, step=0.25)),
        ("a=range(0.1,0.5,0.1)", Float(0.1, 0.4, step=0.1)),
        ("a=interval(1,5)", Float(1, 5)),
        ("a=int(interval(1,5))", Int(1, 5)),
        ("a=tag(log,interval(1e-4,1e-1))", Float(1e-4, 1e-1, log=True)),
        ("a=tag(log,int(interval(1,64)))", Int(1, 64, log=True)),
        ("+a.b=choice(1)", Choice([1])),
    ],
)
def test_a_word_becomes_what_is_drawn_from(word, expected):
    space = parse(None, [word], None)
    [(name, found)] = space.distributions.items()
    assert (name, found) == (word.split("=")[0], expected)
    assert space.fixed == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=interval(5,1)", "a=interval(5,1): the interval is reversed; give interval(low, high)"),
        ("a=interval(2,2)", "a=interval(2,2): the interval is empty"),
        ("a=tag(log,interval(0,1))", "the lower end of a log interval must be above 0"),
        ("a=tag(lgo,interval(1,2))", "unknown tag; use log"),
        ("a=range(5,1)", "the range is empty"),
        ("a=range(1,5,0)", "the range is empty"),
        ("a=choice()", "empty choice"),
        ("a=choice(true,1.0)", "a=choice(true,1.0): true equals 1"),
        ("a=interval(x,y)", "mismatch type"),
        ("a=interval(1)", "missing a required argument: 'end'"),
        ("a=choise(1,2)", "Unknown function 'choise'"),
    ],
)
def test_a_space_that_cannot_be_is_refused(word, expected):
    with pytest.raises((SettingError, HydraException)) as raised:
        parse(None, [word], None)
    assert expected in str(raised.value)


def test_the_command_line_comes_after_the_file_and_keeps_the_search_out():
    params = {"model": "bpr", "a": "choice(1, 2)", "b": "interval(0, 1)", "c": [1, 2], "d": None}
    words = ["b=0.5", "e=range(2)", "sweep=bpr", "sweep.n_trials=3", "sweep/sampler=grid", "a=3,4"]
    space = parse(params, words, None)
    assert space.distributions == {"a": Choice([3, 4]), "e": Int(0, 1)}
    assert space.fixed == ["model=bpr", "c=[1,2]", "d=null", "b=0.5"]
    assert space.words({"a": 3, "e": 0}) == [*space.fixed, "e=0", "a=3"]


def test_choices_in_a_file_may_include_null_and_words():
    space = parse({"a": "choice(null, true, x, 2.0)", "b": "null, 2"}, [], None)
    assert space.distributions == {"a": Choice(["null", True, "x", 2.0]), "b": Choice(["null", 2])}
    assert space.words({"a": "null", "b": 2}) == ["a=null", "b=2"]


def test_a_grid_has_every_value():
    space = parse(None, ["a=x,y", "b=range(1,6,2)", "c=range(0.1,0.4,0.1)"], None)
    assert space.grid() == {"a": ["x", "y"], "b": [1, 3, 5], "c": [0.1, 0.2, 0.3]}
    with pytest.raises(SettingError) as error:
        parse(None, ["d=interval(0,1)"], None).grid()
    assert error.value.setting == "d"
    assert error.value.hint.startswith("give d=choice(")


@pytest.mark.parametrize(
    ("found", "inside", "outside"),
    [
        (Choice([1, "x"]), [1, "x"], [2, "y"]),
        (Int(1, 7, step=3), [1, 4, 7], [0, 2, 10, True, "1"]),
        (Float(0.1, 0.4, step=0.1), [0.1, 0.3], [0.35, 0.5, None]),
        (Float(1e-4, 1e-1, log=True), [1e-3], [1.0]),
    ],
)
def test_a_value_lies_in_a_space_or_not(found, inside, outside):
    assert all(contains(found, value) for value in inside)
    assert not any(contains(found, value) for value in outside)
