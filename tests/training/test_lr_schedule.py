"""The learning rate follows its schedule by epoch, also after a resume."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.models import Recommender
from mmrec.training.build import build, check_config
from mmrec.training.open_run import open_run
from mmrec.training.provenance import config_hash
from mmrec.training.results import read_config, read_result

EPOCHS, LR = 6, 0.02
TINY = (
    "model=bpr",
    "data.world.users=60",
    "data.world.items=60",
    "data.batch_size=64",
    "model.dim=8",
    f"optimizer.lr={LR}",
    "evaluation.cutoffs=[5,20]",
    "trainer=cpu",
    f"trainer.max_epochs={EPOCHS}",
    "trainer.enable_progress_bar=false",
)
FACTORS = {  # of the first learning rate, by epoch from 0
    "exponential": lambda epoch: 0.96 ** (epoch / 50),
    "cosine": lambda epoch: (1 + math.cos(math.pi * epoch / EPOCHS)) / 2,
    "warmup": lambda epoch: min(1.0, 0.1 + 0.9 * epoch / 10),
}


class Killed(BaseException):
    """Not an exception that a run handles."""


@pytest.fixture
def go(run_words):
    return lambda folder, *words: run_words(folder, *TINY, *words)


@pytest.fixture
def used(monkeypatch):
    """The learning rate of each step of an optimizer."""
    rates, step = [], torch.optim.Adam.step

    def recorded(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    return rates


@pytest.mark.parametrize("name", FACTORS)
def test_every_step_of_an_epoch_has_the_rate_that_is_logged(name, go, used, tmp_path):
    go(tmp_path, f"lr_schedule={name}")
    table = pl.read_csv(tmp_path / "metrics.csv")
    expected = [LR * FACTORS[name](epoch) for epoch in range(EPOCHS)]
    assert table["lr"].to_list() == pytest.approx(expected, rel=1e-6)
    steps = len(used) // EPOCHS
    assert steps > 1
    assert used == pytest.approx([rate for rate in expected for _ in range(steps)], rel=1e-6)


@pytest.mark.parametrize("name", FACTORS)
def test_a_killed_run_resumes_bit_by_bit(name, go, tmp_path, monkeypatch):
    words, calls = (f"lr_schedule={name}",), []
    go(tmp_path / "whole", *words)

    def dying(self, *args):
        calls.append(1)
        if len(calls) == 20:
            raise Killed
        return step(self, *args)

    step = Recommender.training_step
    with monkeypatch.context() as patch:
        patch.setattr(Recommender, "training_step", dying)
        with pytest.raises(Killed):
            go(tmp_path / "run", *words)
    go(tmp_path / "run", *words, "ckpt=last")
    for kept in ("metrics", "best_epoch", "epochs"):
        assert read_result(tmp_path / "run")[kept] == read_result(tmp_path / "whole")[kept]
    tables = [pl.read_csv(tmp_path / f / "metrics.csv") for f in ("run", "whole")]
    rows = [table.drop(pl.selectors.starts_with("time/")).to_dicts() for table in tables]
    assert rows[0] == rows[1]
    weights = [
        torch.load(tmp_path / f / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for f in ("run", "whole")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


@pytest.mark.parametrize("words", [[], ["lr_schedule=none"], ["~lr_schedule"]], ids=str)
def test_a_run_without_a_schedule_is_recorded_as_before_there_were_any(words, composed):
    plain = check_config(composed(*TINY, *words))
    assert "lr_schedule" not in plain
    assert config_hash(plain) == config_hash({**plain, "run_dir": "elsewhere"})
    assert config_hash(plain) != config_hash(check_config(composed(*TINY, "lr_schedule=warmup")))


def test_a_constant_rate_is_not_logged(go, tmp_path):
    go(tmp_path / "run", "trainer.max_epochs=1")
    assert "lr" not in pl.read_csv(tmp_path / "run" / "metrics.csv").columns
    assert "lr_schedule" not in read_config(tmp_path / "run")


def test_a_run_with_a_schedule_opens(go, tmp_path):
    result = go(tmp_path, "lr_schedule=cosine", "trainer.max_epochs=2")
    assert read_config(tmp_path)["lr_schedule"]["T_max"] == 2
    opened = open_run(tmp_path)
    assert opened.result["config_hash"] == result["config_hash"]


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ("lr_schedule=exponential lr_schedule.gamma=0", "lr_schedule.gamma"),
        ("lr_schedule=exponential lr_schedule.gamma=1.5", "lr_schedule.gamma"),
        ("lr_schedule=exponential lr_schedule.gama=.9", "lr_schedule.gama"),
        ("lr_schedule=exponential +lr_schedule.last_epoch=3", "lr_schedule.last_epoch"),
        ("lr_schedule=exponential ~lr_schedule.gamma", "lr_schedule.gamma"),
        ("lr_schedule=cosine trainer.max_epochs=-1", "lr_schedule.T_max"),
        ("lr_schedule=cosine lr_schedule.T_max=0", "lr_schedule.T_max"),
        ("lr_schedule=cosine lr_schedule.T_max=2.5", "lr_schedule.T_max"),
        ("lr_schedule=cosine lr_schedule.eta_min=0.1", "lr_schedule.eta_min"),
        ("lr_schedule=warmup lr_schedule.start_factor=-1", "lr_schedule.start_factor"),
        ("lr_schedule=warmup lr_schedule.total_iters=0", "lr_schedule.total_iters"),
        ("lr_schedule=warmup lr_schedule._partial_=false", "lr_schedule._partial_"),
        (
            "lr_schedule=warmup lr_schedule._target_=torch.optim.SGD ~lr_schedule.start_factor "
            "~lr_schedule.total_iters",
            "lr_schedule._target_",
        ),
        (
            "lr_schedule=warmup ~lr_schedule.start_factor ~lr_schedule.total_iters "
            "lr_schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
            "lr_schedule._target_",
        ),
    ],
)
def test_an_invalid_setting_is_named_as_it_is_typed(words, setting, composed):
    words = ["++" * ("gama" in word) + word for word in words.split()]
    with pytest.raises(SettingError) as error:
        check_config(composed(*TINY, *words))
    assert error.value.setting == setting


def test_a_schedule_that_pytorch_refuses_ends_before_the_run_folder_is_written(go, tmp_path):
    target = "{_target_: torch.optim.lr_scheduler.MultiStepLR, _partial_: true, milestones: 3}"
    with pytest.raises(SettingError) as error:
        go(tmp_path / "run", f"+lr_schedule={target}")
    assert error.value.setting == "lr_schedule"
    assert not (tmp_path / "run").exists()


def test_a_model_in_closed_form_has_no_learning_rate(composed):
    words = [word for word in TINY if not word.startswith("model")]
    with pytest.raises(SettingError) as error:
        build(check_config(composed(*words, "model=ease", "lr_schedule=cosine")))
    assert error.value.setting == "lr_schedule"
    assert error.value.problem.startswith("EASE has a closed-form solution")
