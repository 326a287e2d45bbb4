"""What a trial's settings depend on."""

from __future__ import annotations

import optuna
import pytest

from mmrec.search.samplers import ByNumber
from mmrec.search.space import parse

SPACE = parse(None, ["a=interval(0,1)", "b=tag(log,interval(1e-4,1))"], None)


@pytest.fixture
def opened(tmp_path):
    """`opened()`: one more worker's hand on the same study."""
    url = f"sqlite:///{tmp_path}/study.db"

    def open_study(sampler="TPESampler"):
        study = optuna.create_study(storage=url, study_name="one", load_if_exists=True)
        config = {"_target_": f"optuna.samplers.{sampler}", "seed": 0}
        study.sampler = ByNumber(config, SPACE)
        return study

    return open_study


@pytest.mark.parametrize("sampler", ["TPESampler", "RandomSampler", "NSGAIISampler"])
def test_workers_that_ask_in_the_same_instant_draw_apart(sampler, opened, monkeypatch):
    # Both have seen the same trials, none; the second asks between the first one's question and
    # its answer.
    drawn = []
    first, second = opened(sampler), opened(sampler)
    before = ByNumber.before_trial

    def interleaved(self, study, trial):
        if study is first:
            drawn.append(second.ask(SPACE.distributions))
        before(self, study, trial)

    monkeypatch.setattr(ByNumber, "before_trial", interleaved)
    drawn.append(first.ask(SPACE.distributions))
    assert sorted(trial.number for trial in drawn) == [0, 1]
    assert drawn[0].params["a"] != drawn[1].params["a"]
    assert drawn[0].params["b"] != drawn[1].params["b"]


def test_the_draws_are_those_of_the_number_whatever_was_asked_before(opened):
    worker = opened("RandomSampler")
    drawn = [worker.ask(SPACE.distributions).params for _ in range(3)]
    again = optuna.create_study(sampler=opened("RandomSampler").sampler)
    again.enqueue_trial(drawn[0])
    again.enqueue_trial(drawn[1])
    assert [again.ask(SPACE.distributions).params for _ in range(3)] == drawn
