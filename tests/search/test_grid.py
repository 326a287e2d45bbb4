"""A grid runs every combination once: nothing twice, nothing lost, and a failure stops no other."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from filelock import FileLock
from lightning import Trainer

import mmrec.commands.run
from mmrec.models.base import Recommender
from mmrec.search import grid as grid_module
from mmrec.training.results import read_result

SMALL = ("data.world.users=60", "data.world.items=60", "trainer=cpu", "trainer.max_epochs=2")
RUNS = ("-m", "grid=runs", *SMALL, "trainer.enable_progress_bar=false")


@pytest.fixture
def grid(in_process, monkeypatch, capfd):
    """`grid(*words)` in an empty folder gives the folders of the runs that it made.

    `grid.error` is the one line of a grid that ended badly, `grid.out` the rest.
    """
    run = mmrec.commands.run.run

    def counted(config, overrides, watch):
        made.append(Path(config.run_dir))
        return run(config, overrides, watch)

    made = []

    def call(*words):
        made.clear()
        call.error = in_process(mmrec.commands.run.main, *words)
        call.out = capfd.readouterr().out
        return [*made]

    monkeypatch.setattr(mmrec.commands.run, "run", counted)
    return call


def names(folders):
    return [folder.name.rpartition("-")[0] for folder in folders]


def test_every_combination_is_run_once_and_never_again(grid, tmp_path):
    words = (*RUNS, "model=bpr,most_pop", "seed=0,1")
    made = grid(*words)
    assert grid.error is None
    assert names(made) == ["bpr-seed0", "bpr-seed1", "most_pop-seed0", "most_pop-seed1"]
    assert {folder.parent for folder in made} == {tmp_path / "multirun/runs/planted"}
    assert "runs: 4, to run: 4" in grid.out
    assert "4 of 4, planted/most_pop-seed1-" in grid.out
    assert grid(*words) == []
    assert "runs: 4, to run: 0" in grid.out
    assert names(grid(*words, "seed=0,2")) == ["bpr-seed2", "most_pop-seed2"]


def test_a_cell_is_what_a_run_would_be_alone(grid, run_words, tmp_path):
    (folder,) = grid(*RUNS, "model=bpr", "seed=3")
    cell = read_result(folder)
    alone = run_words(tmp_path / "alone", "model=bpr", "seed=3", *RUNS[2:])
    for key in ("config_hash", "code", "metrics"):
        assert cell[key] == alone[key]
    parts = cell["config_hash"], cell["data_card"]["fingerprint"], cell["code"]
    assert folder.name.endswith(grid_module._digest(*parts))


def test_an_ablation_needs_the_modalities_that_it_speaks_of(grid):
    words = ("-m", "grid=ablations", "model=gated_lightgcn", *SMALL, "grid.dry_run=true")
    assert grid(*words) == []
    for there in ("seed0", "sum-seed0", "layers_3-seed0", "only_visual-seed0", "noisy_visual_20"):
        assert f"planted/gated_lightgcn-{there}-" in grid.out
    assert "only_audio-seed" not in grid.out
    assert "left out: planted lacks the modalities for only_audio" in grid.out

    grid(*words, "data.world.modalities=[visual]")
    assert "only_visual-seed" not in grid.out  # that is the whole model
    assert "noisy_visual_20-seed" in grid.out


def test_an_ablation_of_wrong_categories_needs_categories(grid):
    words = ("-m", "grid=ablations", "model=cammsr", *SMALL, "grid.dry_run=true")
    asked = "grid.ablations=[noisy_labels_10,only_visual,only_text]"
    assert grid(*words, asked) == []
    assert "planted/cammsr-noisy_labels_10-seed0-" in grid.out
    assert "planted/cammsr-only_visual-seed0-" in grid.out
    assert "left out: planted lacks the modalities for only_text" in grid.out
    grid(*words, asked, "data.world.modalities=[visual]")
    assert "only_visual-seed" not in grid.out  # that is the whole model
    assert "cammsr-noisy_labels_10-seed" in grid.out


def test_an_ablation_that_the_command_line_undoes_is_left_out(grid):
    words = ("-m", "grid=ablations", "model=gated_lightgcn", *SMALL, "grid.dry_run=true")
    grid(*words, "grid.ablations=[layers_3,sum]", "model.layers=2", "seed=0,1")
    assert "layers_3-seed" not in grid.out
    assert "left out: layers_3 has no effect with the given overrides" in grid.out
    assert "sum-seed0-" in grid.out
    assert "sum-seed1-" in grid.out


def test_an_ablation_that_leaves_a_router_too_few_experts_is_left_out(grid):
    words = ("-m", "grid=ablations", "model=magnet", *SMALL, "data.world.modalities=[visual]")
    made = grid(*words, "grid.ablations=[no_behaviour]")
    assert grid.error is None
    assert "no_behaviour-seed0" in str(made[-1])
    assert "left out: router_schedule.top_k=3: the model has 1 expert in total (dom" in grid.out

    grid(*words, "grid.ablations=[no_behaviour]", "router_schedule.top_k=9")
    assert "1 of 2 cells failed: planted/magnet-seed0-" in grid.error  # the whole model


def test_some_ablations_can_be_chosen(grid):
    made = grid(*RUNS, "grid=ablations", "model=gated_lightgcn", "grid.ablations=[sum,scalar_gate]")
    assert names(made) == [
        "gated_lightgcn-seed0",
        "gated_lightgcn-sum-seed0",
        "gated_lightgcn-scalar_gate-seed0",
    ]


def test_a_cell_that_another_command_runs_is_left_to_it(grid, tmp_path):
    words = (*RUNS, "model=bpr")
    (folder,) = grid(*words)
    (folder / "result.json").unlink()
    (lock,) = (tmp_path / "multirun/runs/.locks").iterdir()
    with FileLock(lock):
        assert grid(*words) == []
        assert "cells that another command is running: 1" in grid.out
        grid(*words, "grid.dry_run=true")
        assert "running  planted/bpr-seed0-" in grid.out
    assert grid(*words) == [folder]


def test_a_cell_that_another_command_takes_first_is_left_to_it(grid, tmp_path, monkeypatch):
    words = (*RUNS, "model=bpr")
    (folder,) = grid(*words)
    (folder / "result.json").unlink()
    (lock,) = (tmp_path / "multirun/runs/.locks").iterdir()
    monkeypatch.setattr("mmrec.search.grid.Grid._is_held", lambda *_: False)
    with FileLock(lock):
        assert grid(*words) == []
    assert "running in another command" in grid.out
    assert folder.is_dir()


def test_what_a_failed_cell_held_is_free_for_the_next(grid, monkeypatch):
    class Model:
        pass

    def run(*_):
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))
        model = Model()
        made.append(weakref.ref(model))
        raise RuntimeError("out of memory")

    made, alive = [], []
    monkeypatch.setattr(mmrec.commands.run, "run", run)
    grid(*RUNS, "model=bpr", "seed=0,1,2")
    assert "3 of 3 cells failed" in grid.error
    assert alive == [0, 0, 0]


def test_a_dry_run_leaves_nothing(grid, tmp_path):
    assert grid(*RUNS, "model=bpr,most_pop", "grid.dry_run=true") == []
    assert "new      planted/bpr-seed0-" in grid.out
    assert not any(tmp_path.iterdir())


def test_a_failed_cell_stops_no_other_and_is_listed_and_run_again(grid):
    words = (*RUNS, "model=lightgcn", "model.layers=-1,1")
    made = grid(*words)
    assert len(made) == 2
    assert read_result(made[1])["status"] == "completed"
    assert "1 of 2 cells failed: planted/lightgcn-seed0-" in grid.error
    assert "model.layers=-1: expected a finite number" in grid.error
    assert len(grid(*words)) == 1


def test_data_that_cannot_be_read_fail_their_cells_only(grid):
    made = grid(*RUNS, "model=most_pop", "data.split=random_per_user,leave_two_out")
    assert len(made) == 1
    assert "1 of 2 cells failed: " in grid.error
    assert "leave_two_out" in grid.error


def test_a_stopped_cell_goes_on_and_reaches_the_same_numbers(grid, monkeypatch):
    words = (*RUNS, "model=bpr", "trainer.max_epochs=4")
    (whole,) = grid(*words, "grid.name=whole")

    def stop(self):
        if self.current_epoch == 2:
            raise KeyboardInterrupt
        usual(self)

    usual = Recommender.on_train_epoch_start
    with monkeypatch.context() as patch:
        patch.setattr(Recommender, "on_train_epoch_start", stop)
        (stopped,) = grid(*words)
        assert grid.error == 130
    epochs = []
    monkeypatch.setattr(
        Recommender,
        "on_train_epoch_start",
        lambda self: (epochs.append(self.current_epoch), usual(self)),
    )
    assert grid(*words) == [stopped]
    assert epochs == [2, 3]
    assert read_result(stopped)["metrics"] == read_result(whole)["metrics"]


def test_a_killed_cell_goes_on_without_a_result(grid, monkeypatch):
    words = (*RUNS, "model=bpr", "trainer.max_epochs=4")
    (folder,) = grid(*words)
    (folder / "result.json").unlink()
    fitted = []
    fit = Trainer.fit
    monkeypatch.setattr(
        Trainer, "fit", lambda self, *a, **k: (fitted.append(k["ckpt_path"]), fit(self, *a, **k))
    )
    assert grid(*words) == [folder]
    assert fitted == [folder / "checkpoints/last.ckpt"]


def test_debris_of_a_run_that_never_saved_is_cleared(grid):
    words = (*RUNS, "model=bpr")
    (folder,) = grid(*words)
    (folder / "result.json").unlink()
    (folder / "checkpoints/last.ckpt").unlink()
    assert grid(*words) == [folder]
    assert grid.error is None


def test_other_code_or_other_data_are_another_cell(grid, monkeypatch):
    words = (*RUNS, "model=most_pop")
    (first,) = grid(*words)
    (other_data,) = grid(*words, "data.world.users=61")
    monkeypatch.setattr(grid_module, "code_digest", lambda _: "changed")
    (other_code,) = grid(*words)
    assert len({first, other_data, other_code}) == 3
    assert read_result(first)["status"] == "completed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("grid.n_jobs=0",), "grid.n_jobs=0: Input should be greater than or equal to 1"),
        (("grid.colour=red",), "grid.colour: no such setting"),
        (("model.l2=interval(0,1)",), "model.l2: a grid needs values, not an interval"),
        (("model=bqr,bpr",), "model=bqr: there is no conf/model/bqr.yaml; did you mean bpr"),
        (("model=bpr", "model.dims=8"), "model.dims: no such setting; did you mean model.dim"),
        (
            ("grid.ablations=true", "ablation=gated_lightgcn/sum"),
            "ablation: cannot be combined with grid.ablations; to run some ablations only, give",
        ),
        (
            ("model=gated_lightgcn", "grid.ablations=[summ]"),
            "grid.ablations=summ: gated_lightgcn has no such ablation; did you mean sum",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(words, message, grid, tmp_path):
    assert grid(*RUNS, *words) == []
    assert message in grid.error
    assert not any(tmp_path.iterdir())


def test_a_grid_without_m_says_so(grid):
    grid("grid=runs", *SMALL)
    assert grid.error.startswith("error: grid: it requires a multirun; add -m")
