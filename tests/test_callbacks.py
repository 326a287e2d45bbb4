"""What watches a run, each by itself."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmrec.callbacks import AtomicCheckpointIO, Checkpoints, EpochSeed, EpochTable, Timing
from mmrec.models import BPR
from mmrec.results import ResultError


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
    monkeypatch.setattr("mmrec.callbacks.time.perf_counter", lambda: clock.now)
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
        timing.on_validation_end(None, model)
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
        self.current_epoch = 0
        self.callback_metrics = {}
        self.saved = []

    def save_checkpoint(self, path, weights_only=None):
        self.saved.append((self.current_epoch, path.stem, weights_only))


def test_the_best_is_saved_when_it_is_better_and_the_last_always(tmp_path):
    checkpoints, trainer = Checkpoints(tmp_path, "val/recall@20"), Disk()
    for epoch, value in enumerate([0.25, 0.25, 0.5, 0.375]):
        trainer.current_epoch = epoch
        trainer.callback_metrics = {"val/recall@20": torch.tensor(value), "train/loss": 1.0}
        checkpoints.on_train_epoch_end(trainer, None)
    best = [epoch for epoch, name, _ in trainer.saved if name == "best"]
    last = [epoch for epoch, name, _ in trainer.saved if name == "last"]
    assert (best, last) == ([0, 2], [0, 1, 2, 3])
    assert all(weights_only for _, name, weights_only in trainer.saved if name == "best")
    assert (checkpoints.best_epoch, checkpoints.best_metrics) == (2, {"val/recall@20": 0.5})


def test_an_epoch_without_validation_is_no_best(tmp_path):
    checkpoints, trainer = Checkpoints(tmp_path, "val/recall@20"), Disk()
    checkpoints.on_train_epoch_end(trainer, None)
    assert trainer.saved == [(0, "last", None)]
    assert checkpoints.best_epoch is None


def test_what_was_best_is_remembered_in_another_folder(tmp_path):
    before, after = (Checkpoints(tmp_path / name, "val/recall@20") for name in "ab")
    trainer = Disk()
    trainer.callback_metrics = {"val/recall@20": 0.5}
    before.on_train_epoch_end(trainer, None)
    after.load_state_dict(before.state_dict())
    trainer.current_epoch, trainer.callback_metrics = 1, {"val/recall@20": 0.375}
    after.on_train_epoch_end(trainer, None)
    assert (after.best_epoch, after.best_metrics) == (0, {"val/recall@20": 0.5})


@pytest.mark.parametrize(("waited", "stops"), [(1, False), (2, True)])
def test_training_that_was_stopped_early_stays_stopped(waited, stops, tmp_path):
    stopping = SimpleNamespace(wait_count=waited, patience=2)
    trainer = SimpleNamespace(early_stopping_callback=stopping, should_stop=False)
    Checkpoints(tmp_path, "val/recall@20").on_train_start(trainer, None)
    assert trainer.should_stop is stops


def half_written(error):
    def save(_, file):
        file.write(b"half")
        raise error

    return save


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("zip")])
def test_a_checkpoint_that_fails_half_way_leaves_the_former_one(error, tmp_path, monkeypatch):
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, path)
    monkeypatch.setattr(torch, "save", half_written(error))
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*last\.ckpt: .*unharmed"):
        writer.save_checkpoint({"epoch": 2}, path)
    assert writer.load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_first_checkpoint_that_fails_leaves_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", half_written(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"No space left on device; there is none before it"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"], ids=["empty", "text", "begun"])
def test_what_is_no_checkpoint_is_named(content, tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=r"last\.ckpt is cut short or no checkpoint: \S"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_every_length_of_a_checkpoint_but_the_whole_is_refused(tmp_path):
    path, reader = tmp_path / "last.ckpt", AtomicCheckpointIO()
    reader.save_checkpoint({"weight": torch.arange(50.0)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ResultError, match="cut short"):
            reader.load_checkpoint(path)


def test_a_checkpoint_that_would_execute_something_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"weight": pytest.approx}, path)
    with pytest.raises(ResultError, match=r"last\.ckpt is cut short or no checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_time_spent_before_a_run_was_continued_counts():
    first, second = Timing(), Timing()
    second.load_state_dict({"fit": 100.0})
    assert 0 <= first.state_dict()["fit"] < 10
    assert 100 <= second.fit() < 110
    assert second.state_dict()["fit"] >= 100
