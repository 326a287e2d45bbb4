"""What watches a run, each by itself."""

from __future__ import annotations

import csv
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from mmrec.models import BPR
from mmrec.training.callbacks import AtomicCheckpointIO, Checkpoints, EpochSeed, EpochTable, Timing
from mmrec.training.results import ResultError


def draws(seed, epoch, rank=0):
    """What every generator gives in an epoch."""
    trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    EpochSeed(seed).on_train_epoch_start(trainer, None)
    return (*torch.rand(2).tolist(), *np.random.rand(2).tolist())  # noqa: NPY002


def test_an_epoch_draws_the_same_whatever_was_drawn_before():
    first = draws(seed=3, epoch=5)
    torch.rand(100)
    assert draws(seed=3, epoch=5) == first


def test_epochs_seeds_and_processes_draw_differently():
    kinds = [(s, e, r) for s in range(4) for e in range(4) for r in range(2)]
    assert len({draws(*kind) for kind in kinds}) == len(kinds)


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("mmrec.training.callbacks.time.perf_counter", lambda: clock.now)
    return clock


def test_an_epoch_is_timed_without_its_validation(clock, checkerboard, monkeypatch):
    model, logged, timing = BPR(checkerboard()), {}, Timing()
    monkeypatch.setattr(model, "log", lambda name, value: logged.update({name: value}))
    assert timing.medians() == {"train_epoch": None, "val": None}
    for training, validation, rest in ((3, 10, 1), (6, 20, 2), (5, 40, 0)):
        timing.on_train_epoch_start(None, model)
        clock.now += training
        timing.on_validation_start(None, model)
        clock.now += validation
        timing.on_validation_end(SimpleNamespace(sanity_checking=False), model)
        clock.now += rest
        timing.on_train_epoch_end(None, model)
        clock.now += 1000
    assert timing.train_epochs == [4, 8, 5]
    assert timing.medians() == {"train_epoch": 5, "val": 20}
    assert logged == {
        "time/train_epoch": 5,
        "time/val": 40,
        "time/examples_per_second": len(model.corpus.train) / 5,
    }


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_joins_what_is_logged_of_an_epoch(tmp_path):
    table = EpochTable(str(tmp_path / "metrics.csv"))
    table.log_metrics({"val/recall@20": 0.25, "epoch": 1}, step=9)
    table.log_metrics({"train/loss": 0.5, "epoch": 1}, step=9)
    table.log_metrics({"train/loss": 1.0, "epoch": 0}, step=4)
    table.save()
    assert read(tmp_path / "metrics.csv") == [
        {"epoch": "0", "train/loss": "1.0", "val/recall@20": ""},
        {"epoch": "1", "train/loss": "0.5", "val/recall@20": "0.25"},
    ]


def test_the_table_leaves_test_out(tmp_path):
    table = EpochTable(str(tmp_path / "metrics.csv"))
    table.log_metrics({"train/loss": 1.0, "epoch": 0}, step=4)
    table.log_metrics({"test/recall@20": 0.5, "epoch": 1}, step=4)
    table.save()
    assert read(tmp_path / "metrics.csv") == [{"epoch": "0", "train/loss": "1.0"}]


def test_a_table_goes_on_where_it_was_and_loses_no_digit(tmp_path):
    value = 0.1 + 0.2
    before = EpochTable(str(tmp_path / "metrics.csv"))
    for epoch in range(3):
        before.log_metrics({"train/loss": value, "epoch": epoch})
    before.save()
    after = EpochTable(str(tmp_path / "metrics.csv"))
    after.log_metrics({"train/loss": 9.0, "epoch": 2})
    after.log_metrics({"val/recall@20": 1.0, "epoch": 3})
    after.save()
    rows = read(tmp_path / "metrics.csv")
    assert [row["train/loss"] for row in rows] == [repr(value), repr(value), "9.0", ""]


class Disk:
    """Stands in for a trainer: notes what it is to save."""

    def __init__(self):
        self.current_epoch = self.global_step = 0
        self.callback_metrics = {}
        self.sanity_checking = False
        self.saved = []

    def save_checkpoint(self, path, weights_only=None):
        self.saved.append((self.current_epoch, path.stem, weights_only))

    def best(self):
        return [epoch for epoch, name, _ in self.saved if name == "best"]


@pytest.fixture
def watched(tmp_path):
    """Checkpoints, a trainer, and `epoch(value, steps_after=0)`, which may be validated."""
    checkpoints, trainer = Checkpoints(tmp_path, "val/recall@20"), Disk()

    def epoch(value=None, steps_after=0):
        trainer.global_step += 4
        if value is not None:
            metrics = {"val/recall@20": torch.tensor(value), "train/loss": 1.0}
            trainer.callback_metrics = metrics
            checkpoints.on_validation_end(trainer, None)
        trainer.global_step += steps_after
        checkpoints.on_train_epoch_end(trainer, None)
        trainer.current_epoch += 1

    return SimpleNamespace(checkpoints=checkpoints, trainer=trainer, epoch=epoch)


def test_the_best_is_saved_when_it_is_better_and_the_last_always(watched):
    for value in (0.25, 0.25, 0.5, 0.375):
        watched.epoch(value)
    saved = watched.trainer.saved
    assert watched.trainer.best() == [0, 2]
    assert [epoch for epoch, name, _ in saved if name == "last"] == [0, 1, 2, 3]
    assert all(weights_only for _, name, weights_only in saved if name == "best")
    assert watched.checkpoints.best_epoch == 2
    assert watched.checkpoints.best_metrics == {"val/recall@20": 0.5}


def test_an_epoch_without_validation_is_no_best(watched):
    watched.epoch()
    assert watched.trainer.saved == [(0, "last", None)]
    assert watched.checkpoints.best_epoch is None


def test_metrics_of_an_earlier_epoch_are_not_those_of_a_later_one(watched):
    watched.epoch(0.25)
    watched.checkpoints.best_metrics = {}  # so that the old value would be an improvement
    watched.epoch()
    assert watched.trainer.best() == [0]


def test_metrics_of_weights_that_have_changed_since_select_nothing(watched):
    watched.epoch(0.25, steps_after=2)
    assert watched.trainer.best() == []
    watched.epoch(0.125)
    assert watched.trainer.best() == [1]


def test_a_sanity_check_selects_nothing(watched):
    watched.trainer.sanity_checking = True
    watched.epoch(0.5)
    assert watched.trainer.best() == []


def test_what_was_best_is_remembered_in_another_folder(watched, tmp_path):
    watched.epoch(0.5)
    after = Checkpoints(tmp_path / "b", "val/recall@20")
    after.load_state_dict(watched.checkpoints.state_dict())
    watched.checkpoints.load_state_dict(after.state_dict())
    watched.epoch(0.375)
    assert (after.best_epoch, after.best_metrics) == (0, {"val/recall@20": 0.5})
    assert watched.trainer.best() == [0]


def test_a_run_whose_folder_is_removed_stops(watched, tmp_path):
    (tmp_path / "config.yaml").write_text("")
    watched.trainer.early_stopping_callbacks, watched.trainer.should_stop = [], False
    watched.checkpoints.on_train_start(watched.trainer, None)
    watched.epoch(0.25)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(
        ResultError, match=r"config\.yaml no longer exists: the run folder was removed"
    ):
        watched.epoch(0.5)


@pytest.mark.parametrize("patience", [0, 1, 2])
@pytest.mark.parametrize("validations", range(4))
def test_training_that_was_stopped_early_stays_stopped(validations, patience, watched):
    stopping = EarlyStopping("val/recall@20", mode="max", patience=patience)
    for _ in range(validations):  # the first is an improvement
        stop, _ = stopping._evaluate_stopping_criteria(torch.tensor(0.5))
    resumed = EarlyStopping("val/recall@20", mode="max", patience=patience)
    resumed.load_state_dict(stopping.state_dict())
    watched.trainer.early_stopping_callbacks, watched.trainer.should_stop = [resumed], False
    watched.checkpoints.on_train_start(watched.trainer, None)
    assert watched.trainer.should_stop is (validations > 0 and stop)
    assert watched.trainer.should_stop is (validations > max(patience, 1))


def half_written(error):
    def save(_, file):
        file.write(b"half")
        raise error

    return save


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("zip")])
def test_a_checkpoint_that_fails_half_way_leaves_the_former_one(error, tmp_path, monkeypatch):
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, path)
    monkeypatch.setattr(torch, "save", half_written(error))
    with pytest.raises(
        OSError, match=r"cannot write the checkpoint .*last\.ckpt: .*previous one is kept"
    ):
        writer.save_checkpoint({"epoch": 2}, path)
    assert writer.load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("numbers", [10, 10**6], ids=["one write", "many writes"])
def test_a_full_disk_is_called_one(numbers, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "mmrec.training.callbacks.replace_file", lambda _: nullcontext(Path("/dev/full"))
    )
    path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(OSError, match=r"^No space left on .*checkpoints for .*no previous one"):
        AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(numbers)}, path)


def test_a_first_checkpoint_that_fails_leaves_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", half_written(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"^No space left on .*; there is no previous one"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a[1]", "[!a]*", "what?", "{a,b}", "a::b", "50%20#", "é ~ $x"])
def test_a_folder_may_have_any_name(name, tmp_path):
    path, io = tmp_path / name / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"epoch": 1}, path)
    assert io.load_checkpoint(str(path)) == {"epoch": 1}


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"], ids=["empty", "text", "begun"])
def test_what_is_no_checkpoint_is_named(content, tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=r"last\.ckpt is truncated or not a checkpoint: \S"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_every_length_of_a_checkpoint_but_the_whole_is_refused(tmp_path):
    path, reader = tmp_path / "last.ckpt", AtomicCheckpointIO()
    reader.save_checkpoint({"weight": torch.arange(50.0)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ResultError, match="truncated"):
            reader.load_checkpoint(path)


def test_a_checkpoint_that_would_execute_something_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"weight": pytest.approx}, path)
    with pytest.raises(ResultError, match=r"last\.ckpt is truncated or not a checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_time_spent_before_a_run_was_continued_counts():
    first, second = Timing(), Timing()
    second.load_state_dict({"fit": 100.0})
    assert 0 <= first.state_dict()["fit"] < 10
    assert 100 <= second.fit() < 110
    assert second.state_dict()["fit"] >= 100
