"""A run that is killed, interrupted or out of disk space goes on as if nothing had happened."""

from __future__ import annotations

import itertools
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import polars as pl
import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.data import DataError
from mmrec.models import Recommender
from mmrec.training.callbacks import AtomicCheckpointIO
from mmrec.training.results import ResultError, read_result
from mmrec.training.run_folder import written_link

# Edges are dropped and early stopping is near, so that every kind of state matters.
TINY = (
    "model=lightgcn",
    "model.dim=8",
    "model.edge_dropout=0.3",
    "data=planted",
    "data.world.users=120",
    "data.world.items=80",
    "data.batch_size=64",
    "optimizer.lr=0.05",
    "callbacks.early_stopping.patience=4",
    "trainer=cpu",
    "trainer.max_epochs=30",
    "trainer.enable_progress_bar=false",
)


# An epoch takes long enough to be hit by a signal.
SLOW = ("data.batch_size=8", "trainer.max_epochs=4")


@pytest.fixture(scope="module")
def go(run_words):
    """`go(folder, *words)`: a tiny run in this process."""
    return lambda folder, *words, base=TINY: run_words(folder, *base, *words)


@pytest.fixture(scope="module")
def whole(go, tmp_path_factory):
    """What a run gives that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    result = go(folder)
    assert result["best_epoch"] + 5 == result["epochs"] < 30  # early stopping ended it
    return summary(folder)


def summary(folder):
    """Everything of a run that does not depend on the clock."""
    result = read_result(folder)
    table = pl.read_csv(folder / "metrics.csv")
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    return {
        "result": {key: result[key] for key in ("status", "metrics", "best_epoch", "epochs")},
        "epochs": table.drop(pl.selectors.starts_with("time/")).to_dicts(),
        "weights": {name: value.tolist() for name, value in best["state_dict"].items()},
    }


class Killed(BaseException):
    """No error that anything knows how to handle."""


@pytest.fixture
def dies(monkeypatch):
    """`with dies(owner, method, nth)`: the n-th call of a method is the end."""

    @contextmanager
    def block(owner, method, nth):
        calls, original = itertools.count(1), getattr(owner, method)

        def dying(*args, **kwargs):
            if next(calls) == nth:
                raise Killed
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, dying)
            with pytest.raises(Killed):
                yield

    return block


@pytest.mark.parametrize(
    ("owner", "method", "nth"),
    [
        pytest.param(Recommender, "training_step", 20, id="in the second epoch"),
        pytest.param(Recommender, "training_step", 70, id="in a late epoch"),
        pytest.param(Recommender, "on_train_epoch_start", 3, id="between epochs"),
        pytest.param(Recommender, "validation_step", 4, id="in a validation"),
        pytest.param(AtomicCheckpointIO, "save_checkpoint", 4, id="between best and last"),
        pytest.param(Recommender, "test_step", 1, id="in the test"),
    ],
)
def test_a_run_goes_on_bit_by_bit_wherever_it_ends(owner, method, nth, whole, go, dies, tmp_path):
    with dies(owner, method, nth):
        go(tmp_path)
    assert read_result(tmp_path)["status"] == "failed"
    go(tmp_path, "ckpt=last")
    assert summary(tmp_path) == whole


def test_a_run_with_a_least_length_goes_on_bit_by_bit(go, dies, tmp_path):
    words = ("+trainer.min_epochs=9", "callbacks.early_stopping.patience=1")
    assert go(tmp_path / "whole", *words)["epochs"] == 9  # patience was exhausted before
    with dies(Recommender, "on_train_epoch_start", 9):
        go(tmp_path / "run", *words)
    go(tmp_path / "run", *words, "ckpt=last")
    assert summary(tmp_path / "run") == summary(tmp_path / "whole")


def test_a_completed_run_that_is_continued_is_the_same(whole, go, tmp_path):
    go(tmp_path)
    go(tmp_path, "ckpt=last")
    assert summary(tmp_path) == whole


def test_a_run_may_move_to_another_folder_and_go_on_there(whole, go, dies, tmp_path):
    with dies(Recommender, "test_step", 1):
        go(tmp_path / "before")
    shutil.move(tmp_path / "before", tmp_path / "after")
    go(tmp_path / "after", "ckpt=last")
    assert summary(tmp_path / "after") == whole


def test_a_run_may_go_on_in_another_folder_and_takes_its_best_along(whole, go, dies, tmp_path):
    with dies(Recommender, "test_step", 1):
        go(tmp_path / "before")
    result = go(tmp_path / "after", f"ckpt={tmp_path / 'before/checkpoints/last.ckpt'}")
    assert result["metrics"] == whole["result"]["metrics"]
    assert result["best_epoch"] == whole["result"]["best_epoch"]


def test_a_longer_run_starts_with_the_epochs_of_the_shorter_one(whole, go, tmp_path):
    go(tmp_path, "trainer.max_epochs=2")
    go(tmp_path, "ckpt=last")
    assert summary(tmp_path) == whole


@contextmanager
def started(folder):
    """The command in a process of its own, from when its second epoch is over."""
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [*TINY, *SLOW, f"run_dir={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmrec.run", *words],
        cwd=folder.parent,
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    table = folder / "metrics.csv"
    while process.poll() is None and not (table.exists() and len(table.read_text().split()) > 2):
        time.sleep(0.01)
    time.sleep(0.1)  # into the third epoch, which takes longer
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def slow_whole(go, tmp_path_factory):
    """What a slow run gives that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("slow_whole")
    go(folder, *SLOW)
    return summary(folder)


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_bit_by_bit(slow_whole, go, tmp_path):
    with started(tmp_path / "run") as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list(tmp_path.rglob("*.part"))
    go(tmp_path / "run", *SLOW, "ckpt=last")
    assert summary(tmp_path / "run") == slow_whole


@pytest.mark.slow
@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGINT], id="ctrl-c"),
        pytest.param([signal.SIGINT, signal.SIGINT], id="ctrl-c twice"),
        pytest.param([signal.SIGTERM], id="terminated"),
    ],
)
def test_an_interruption_is_a_result_and_no_error(signals, slow_whole, go, tmp_path):
    folder = tmp_path / "run"
    with started(folder) as process:
        for signum in signals:
            process.send_signal(signum)
            time.sleep(0.02)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == ""
    assert f"interrupted: {folder}" in out
    words = shlex.join([*TINY, *SLOW, f"run_dir={folder}", "ckpt=last"])
    assert f"resume: python -m mmrec.run {words}" in out

    result = read_result(folder)
    assert result["status"] == "interrupted"
    rows = slow_whole["epochs"][: result["epochs"]]
    best = max(rows, key=lambda row: row["val/recall@20"])
    assert result["best_epoch"] == best["epoch"]
    assert result["metrics"] == {k: v for k, v in best.items() if k.startswith("val/")}

    go(folder, *SLOW, "ckpt=last")
    assert summary(folder) == slow_whole


@pytest.mark.parametrize(
    ("file", "chosen"),
    [pytest.param("best.ckpt", 0, id="no better one"), pytest.param("last.ckpt", 1, id="chosen")],
)
def test_an_interruption_at_a_checkpoint_tells_of_the_epoch_that_is_on_disk(
    file, chosen, whole, go, tmp_path, monkeypatch
):
    save = AtomicCheckpointIO.save_checkpoint

    def interrupt(self, checkpoint, path, **options):
        if checkpoint["epoch"] == 1 and str(path).endswith(file):
            raise KeyboardInterrupt
        save(self, checkpoint, path, **options)

    assert whole["epochs"][1]["val/recall@20"] > whole["epochs"][0]["val/recall@20"]
    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", interrupt)
        result = go(tmp_path)
    assert (result["status"], result["epochs"]) == ("interrupted", chosen + 1)
    assert result["best_epoch"] == chosen
    assert result["best_value"] == whole["epochs"][chosen]["val/recall@20"]
    best = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == chosen
    go(tmp_path, "ckpt=last")
    assert summary(tmp_path) == whole


def test_an_interruption_before_the_first_epoch_has_nothing_to_go_on_from(
    go, tmp_path, monkeypatch, caplog
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recommender, "training_step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with caplog.at_level("INFO"):
        result = go(tmp_path)
    assert (result["status"], result["epochs"], result["metrics"]) == ("interrupted", 0, {})
    assert "continue" not in caplog.text
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["test_step", "item_weights"])
def test_an_interruption_after_training_is_one_too(where, signum, whole, go, tmp_path, monkeypatch):
    before = signal.getsignal(signum)
    with monkeypatch.context() as patch:
        patch.setattr(Recommender, where, lambda *_: os.kill(os.getpid(), signum))
        result = go(tmp_path)
    assert signal.getsignal(signum) is before
    assert result["status"] == "interrupted" == read_result(tmp_path)["status"]
    go(tmp_path, "ckpt=last")
    assert summary(tmp_path) == whole


@pytest.fixture
def small_disk():
    """`with small_disk(bytes)`: no file may grow beyond."""

    @contextmanager
    def block(limit):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return block


def test_a_full_disk_costs_the_new_checkpoint_and_not_the_old(whole, go, small_disk, tmp_path):
    go(tmp_path, "trainer.max_epochs=2")
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    with small_disk(len(before) // 2), pytest.raises(OSError, match=r"cannot write .*\.ckpt: "):
        go(tmp_path, "ckpt=last")
    assert last.read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))
    result = read_result(tmp_path)
    assert result["status"] == "failed"
    assert str(tmp_path / "checkpoints") in result["error"]
    assert "the previous one is kept" in result["error"]
    go(tmp_path, "ckpt=last")
    assert summary(tmp_path) == whole


def test_a_disk_that_is_full_from_the_start_says_so(go, small_disk, tmp_path):
    with small_disk(4096), pytest.raises(OSError, match=r"cannot write .*there is no previous one"):
        go(tmp_path)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_checkpoint_cut_short_is_refused_by_name(name, go, tmp_path):
    go(tmp_path / "run", "trainer.max_epochs=1")
    path = tmp_path / "run" / "checkpoints" / f"{name}.ckpt"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ResultError, match=rf"{name}\.ckpt is truncated or not a checkpoint"):
        go(tmp_path / "run", "trainer.max_epochs=1", "ckpt=last")


def test_weights_alone_are_no_run_to_go_on_from(go, tmp_path):
    go(tmp_path / "run", "trainer.max_epochs=1")
    best = tmp_path / "run/checkpoints/best.ckpt"
    with pytest.raises(SettingError) as error:
        go(tmp_path / "new", f"ckpt={best}")
    assert (error.value.setting, error.value.value) == ("ckpt", best)
    assert error.value.problem == "it contains only weights"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("word", "column", "expected"),
    [
        ("data.world.seed=1", "fingerprint", ""),
        ("data.split=leave_one_out", "split", "leave_one_out"),
        ("model=gated_lightgcn", "model", "GatedLightGCN as in this run"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_unharmed(
    word, column, expected, go, tmp_path
):
    go(tmp_path, "trainer.max_epochs=1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError) as error:
        go(tmp_path, word, "ckpt=last", base=[w for w in TINY if not w.startswith("model.")])
    assert error.value.file == str(tmp_path / "checkpoints" / "last.ckpt")
    assert error.value.column == column
    assert error.value.expected.startswith(expected)
    assert "resume the run with python -m mmrec.run " in error.value.hint
    assert error.value.hint.endswith(" ckpt=last")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("word", "setting", "value", "before"),
    [
        ("model.dim=16", "model.dim", 16, 8),
        ("optimizer.lr=0.5", "optimizer.lr", 0.5, 0.05),
        ("callbacks.early_stopping.patience=9", "callbacks.early_stopping.patience", 9, 4),
        ("seed=1", "data.seed", 1, 0),  # the first that follows it
    ],
)
def test_a_run_goes_on_with_its_own_settings_or_not_at_all(
    word, setting, value, before, go, tmp_path
):
    go(tmp_path, "trainer.max_epochs=1")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SettingError) as error:
        go(tmp_path, word, "ckpt=last", "trainer.max_epochs=2")
    assert (error.value.setting, error.value.value) == (setting, value)
    assert error.value.problem == f"the run to resume has {before}"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_a_run_from_before_a_setting_was_added_goes_on(whole, go, dies, tmp_path):
    with dies(Recommender, "training_step", 70):
        go(tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    kept = [line for line in lines if "corrupt_how" not in line]
    assert len(kept) == len(lines) - 1
    config.write_text("".join(kept))
    go(tmp_path / "run", "ckpt=last")
    assert summary(tmp_path / "run") == whole


def test_a_checkpoint_without_its_settings_is_refused(go, tmp_path):
    go(tmp_path, "trainer.max_epochs=1")
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(SettingError) as error:
        go(tmp_path, "ckpt=last")
    assert error.value.setting == "ckpt"
    assert error.value.problem == f"{tmp_path / 'config.yaml'} does not exist"


def test_a_run_without_a_checkpoint_is_to_be_deleted(go, tmp_path):
    go(tmp_path, "trainer.max_epochs=1")
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(SettingError) as error:
        go(tmp_path)
    assert (error.value.setting, error.value.value) == ("run_dir", tmp_path)
    assert "that run has no checkpoint" in error.value.hint


def test_a_run_is_never_overwritten(go, tmp_path):
    go(tmp_path, "trainer.max_epochs=1")
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(SettingError) as error:
        go(tmp_path)
    assert (error.value.setting, error.value.value) == ("run_dir", tmp_path)
    assert error.value.problem == "it already contains a run"
    assert error.value.hint.endswith(" ckpt=last")
    assert (tmp_path / "result.json").read_bytes() == before


@pytest.mark.parametrize("link", ["checkpoints", "metrics.csv", ".running"])
def test_a_link_that_leads_out_of_the_run_folder_is_not_followed(link, go, tmp_path):
    go(tmp_path / "run")
    (tmp_path / "victim").mkdir()
    path = tmp_path / "run" / link
    if path.exists():
        path.rename(tmp_path / "aside")
    path.symlink_to(tmp_path / "victim" / "x")
    with pytest.raises(SettingError) as error:
        go(tmp_path / "run", "ckpt=last")
    assert (error.value.setting, error.value.value) == ("run_dir", tmp_path / "run")
    assert error.value.problem.startswith(
        f"{path} is a symbolic link that leads out of the run folder"
    )
    assert not list((tmp_path / "victim").iterdir())


def test_a_link_that_no_run_writes_to_does_not_matter(tmp_path):
    (tmp_path / "run" / "notes").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints").mkdir()
    for name in ("latest", "notes/data"):
        (tmp_path / "run" / name).symlink_to(tmp_path)
    assert written_link(tmp_path / "run") is None
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.symlink_to(tmp_path / "missing")
    assert written_link(tmp_path / "run") == last
