"""Several processes: exact evaluation, the same learning, and no trace left in a multirun."""

from __future__ import annotations

import polars as pl
import pytest

from mmrec.training.results import read_result

TINY = (
    *("data.world.users=121", "data.world.items=60", "model.dim=8"),
    *("trainer.max_epochs=3", "trainer.enable_progress_bar=false"),
)
TWO = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")


@pytest.mark.slow
def test_a_grid_of_runs_of_two_processes_is_what_single_runs_are(shell, tmp_path):
    words = (*TINY, *TWO, "model=lightgcn")
    out = shell("-m", "grid=runs", *words, "seed=0,1", cwd=tmp_path).stdout
    folders = sorted((tmp_path / "multirun/runs/planted").iterdir())
    assert [folder.name.rpartition("-")[0] for folder in folders] == [
        "lightgcn-seed0",
        "lightgcn-seed1",
    ]
    assert out.count("run folder") == 2  # one process logs the card
    assert out.count("runs: 2, to run: 2") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["multirun"]
    shell(*words, "seed=1", "run_dir=alone", cwd=tmp_path)
    alone, cell = read_result(tmp_path / "alone"), read_result(folders[1])
    assert cell["metrics"] == alone["metrics"]
    assert cell["config_hash"] == alone["config_hash"]


@pytest.mark.slow
def test_a_search_prunes_runs_of_two_processes(shell, tmp_path):
    words = ("-m", "sweep=bpr", "model=bpr", "sweep.n_trials=2", "sweep.top=0")
    target = "sweep.pruner._target_=optuna.pruners.ThresholdPruner"  # of a metric below 2: all
    done = shell(*words, target, "+sweep.pruner.lower=2.0", *TINY, *TWO, cwd=tmp_path, status=1)
    study = tmp_path / "multirun/bpr-planted"
    for trial in range(2):
        result = read_result(study / f"{trial}")
        assert result["status"] == "pruned"
        assert result["epochs"] == 1
    assert done.stdout.count("pruned after epoch 0") == 2
    assert "no trial was completed within the constraints" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["multirun"]


@pytest.mark.slow
def test_two_processes_learn_as_one_with_the_same_batch_in_all(shell, run_words, tmp_path):
    words = (
        *("model=lightgcn", "data.world.users=400", "data.world.items=200", "model.dim=16"),
        *("trainer.enable_progress_bar=false", "trainer.max_epochs=12", "optimizer.lr=0.01"),
    )
    run_words(tmp_path / "one", *words, "trainer=cpu", "data.batch_size=512")
    shell(*words, *TWO, "data.batch_size=256", "run_dir=two", cwd=tmp_path)
    one, two = (
        pl.read_csv(tmp_path / name / "metrics.csv")["val/recall@20"].to_numpy()
        for name in ("one", "two")
    )
    assert one[-1] > one[0]  # it has learned
    assert two[-1] == pytest.approx(one[-1], rel=0.1)
    assert abs(two - one).max() < 0.25 * one.max()
