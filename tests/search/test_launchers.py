"""Grids and searches with launchers that start processes of their own."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest
from omegaconf import OmegaConf

from mmrec.commands.run import main
from mmrec.config.schema import conf_dir
from mmrec.training.results import read_result

TINY = (
    *("data.world.users=60", "data.world.items=60", "model=bpr", "model.dim=8", "trainer=cpu"),
    *("trainer.max_epochs=2", "trainer.enable_progress_bar=false"),
)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_grid_runs_two_at_a_time_and_tells_of_failures(
    launcher, shell, in_process, tmp_path, capfd
):
    words = ("-m", "grid=runs", *TINY, f"hydra/launcher={launcher}", "grid.n_jobs=2")
    done = shell(*words, "model=lightgcn", "model.layers=1,-1", cwd=tmp_path, status=1)
    (whole,) = (
        folder
        for folder in (tmp_path / "multirun/runs/planted").iterdir()
        if (folder / "result.json").exists()
    )
    assert read_result(whole)["status"] == "completed"
    assert "1 of 2 cells failed: planted/lightgcn-seed0-" in done.stderr
    assert in_process(main, *words, "model=lightgcn", "model.layers=1") is None
    assert "runs: 1, to run: 0" in capfd.readouterr().out


@pytest.mark.slow
def test_a_search_runs_two_at_a_time(shell, tmp_path):
    words = (
        "-m",
        "sweep=bpr",
        *TINY,
        "sweep.n_trials=2",
        "sweep.n_jobs=2",
        "sweep.top=0",
        "hydra/launcher=joblib",
    )
    done = shell(*words, cwd=tmp_path)
    assert done.stdout.count(" of 2: val/recall@20") == 2
    assert at_once(tmp_path / "multirun/bpr-planted")


def at_once(folder):
    """Whether a run began before the one before it had ended."""
    ends = [path.stat().st_mtime for path in folder.rglob("result.json")]
    starts = [path.stat().st_mtime for path in folder.rglob("overrides.yaml")]
    assert len(ends) == len(starts) > 1
    return any(start < end for start, end in zip(sorted(starts)[1:], sorted(ends), strict=False))


@pytest.fixture
def _ray_cluster(monkeypatch):
    """A Ray cluster of this machine alone, which claims to have GPUs."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else a token lands in the home folder
    start = "ray start --head --port=0 --num-cpus=2 --num-gpus=2 --include-dashboard=false"
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # sockets' names must be
        words = [*start.split()[1:], "--disable-usage-stats", f"--temp-dir={short}"]
        subprocess.run([*ray, *words], check=True, capture_output=True, timeout=120)
        yield
        subprocess.run([*ray, "stop", "--force"], check=True, capture_output=True, timeout=120)


@pytest.mark.slow
@pytest.mark.usefixtures("_ray_cluster")
def test_a_grid_runs_on_a_ray_cluster(shell, tmp_path):
    words = ("-m", "grid=runs", *TINY, "seed=0,1", "grid.n_jobs=2")
    ray = ("hydra/launcher=ray_cluster", "hydra.launcher.ray.remote.num_cpus=1")
    shell(*words, *ray, cwd=tmp_path, RAY_AUTH_MODE="disabled")
    folders = (tmp_path / "multirun/runs/planted").iterdir()
    assert sorted(read_result(folder)["seed"] for folder in folders) == [0, 1]


def test_the_recipe_for_slurm_asks_for_what_submitit_knows(composed):
    recipe = OmegaConf.load(conf_dir() / "hydra/launcher/slurm.yaml")
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    asked = set(recipe) - {"defaults"}
    assert asked <= set(SlurmQueueConf.__dataclass_fields__)
    assert composed("hydra/launcher=slurm").model._target_
