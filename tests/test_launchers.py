"""Grids and searches with launchers that start processes of their own."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from mmrec.config import conf_dir
from mmrec.results import read_result

TINY = (
    *("data.world.users=60", "data.world.items=60", "model=bpr", "model.dim=8", "trainer=cpu"),
    *("trainer.max_epochs=2", "trainer.enable_progress_bar=false"),
)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_grid_runs_two_at_a_time_and_tells_of_failures(launcher, shell, tmp_path):
    words = ("-m", "grid=runs", *TINY, f"hydra/launcher={launcher}", "grid.n_jobs=2")
    done = shell(*words, "model=lightgcn", "model.layers=1,-1", cwd=tmp_path, status=1)
    (whole,) = (
        folder
        for folder in (tmp_path / "multirun/runs/planted").iterdir()
        if (folder / "result.json").exists()
    )
    assert read_result(whole)["status"] == "completed"
    assert "1 of 2 cells failed: planted/lightgcn-seed0-" in done.stderr
    again = shell(*words, "model=lightgcn", "model.layers=1", cwd=tmp_path)
    assert "1 cells in" in again.stdout
    assert ": 0 to run" in again.stdout


@pytest.mark.slow
def test_a_search_runs_two_at_a_time(shell, tmp_path):
    words = (
        "-m",
        "sweep=bpr",
        *TINY,
        "sweep.n_trials=4",
        "sweep.n_jobs=2",
        "hydra/launcher=joblib",
    )
    done = shell(*words, cwd=tmp_path)
    assert done.stdout.count(" of 4: val/recall@20") == 4


def test_the_recipe_for_a_cluster_asks_for_what_submitit_knows(composed):
    recipe = OmegaConf.load(conf_dir() / "hydra/launcher/slurm.yaml")
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    asked = set(recipe) - {"defaults"}
    assert asked <= set(SlurmQueueConf.__dataclass_fields__)
    assert composed("hydra/launcher=slurm").model._target_
