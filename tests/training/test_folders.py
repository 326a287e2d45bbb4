"""Folders that are named in files of settings."""

from __future__ import annotations

import pytest

from mmrec.commands.run import main
from mmrec.training.results import read_config

pytestmark = pytest.mark.slow

WORDS = (
    *("model=most_pop", "data.world.users=60", "data.world.items=60", "trainer=cpu"),
    "trainer.enable_progress_bar=false",
)


@pytest.fixture
def start(in_process, tmp_path, monkeypatch):
    """`start(settings, *words)`: a run with an experiment of one's own; `~` is `me`."""
    (tmp_path / "me").mkdir()
    (tmp_path / "mine/experiment").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))

    def call(settings, *words):
        text = f"# @package _global_\n{settings}\n"
        (tmp_path / "mine/experiment/own.yaml").write_text(text)
        assert in_process(main, "--config-dir", "mine", "experiment=own", *WORDS, *words) is None
        assert not [path for path in tmp_path.iterdir() if "~" in path.name]
        return tmp_path / "me"

    return call


@pytest.mark.parametrize("settings", ["run_dir: ~/x [1]", "hydra: {run: {dir: '~/x [1]'}}"])
def test_home_is_expanded_in_the_folder_of_a_run(start, settings):
    home = start(settings)
    assert read_config(home / "x [1]")["run_dir"] == str(home / "x [1]")


def test_the_rest_of_a_folder_may_refer_to_settings(start):
    home = start("run_dir: ~/seed${seed}")
    assert (home / "seed0/result.json").is_file()


def test_the_command_line_comes_before_a_file(start, tmp_path):
    home = start("run_dir: ~/x", "run_dir=here")
    assert (tmp_path / "here/result.json").is_file()
    assert not (home / "x").exists()


def test_home_is_expanded_in_the_folder_of_a_multirun(start):
    home = start("hydra: {sweep: {dir: ~/many}}", "-m", "seed=0,1")
    found = sorted((home / "many").rglob("result.json"))
    assert [path.parent.name for path in found] == ["0", "1"]


def test_home_is_expanded_in_the_paths_of_a_logger(start):
    home = start("logger: {csv: {path: ~/table.csv}}", "model=bpr", "trainer.max_epochs=1")
    assert (home / "table.csv").is_file()
