"""Trackers get what the local files hold, and cost no run."""

from __future__ import annotations

import csv
import json
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import wandb
from hydra.errors import InstantiationException
from lightning import Callback
from lightning.pytorch.loggers import Logger, WandbLogger
from wandb.proto.wandb_internal_pb2 import Record

import mmrec.commands.run
from mmrec.config.errors import SettingError
from mmrec.training.loggers import ID, MLFLOW_ID, MLflow, WandB, guard
from mmrec.training.results import read_result

SMALL = (
    *("model=bpr", "data.world.users=60", "data.world.items=60", "trainer=cpu"),
    *("trainer.max_epochs=3", "trainer.enable_progress_bar=false"),
)
OFFLINE = ("logger=wandb", "logger.wandb.mode=offline")


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home/netrc"))


def records(path: Path):
    """What a `.wandb` file holds; another process may still be writing its end."""
    for _ in range(50):
        found = list(parsed(path.read_bytes()))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.2)
    raise AssertionError(f"{path} has no end")


def parsed(data: bytes):
    """Protocol buffers in the blocks of a LevelDB log."""
    place, part = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if place > len(data):
            return
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(part)
            part = b""
            yield record


def read_back(folder):
    """Settings, rows by epoch, and summary of the one run in a folder."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    config, rows, summary, run = {}, {}, {}, None
    for record in records(path):
        match record.WhichOneof("record_type"):
            case "run":
                run = record.run
                config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            case "history":
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                rows.setdefault(row.get("epoch"), {}).update(row)
            case "summary":
                summary |= {
                    u.key or "/".join(u.nested_key): json.loads(u.value_json)
                    for u in record.summary.update
                }
    return run, config, rows, summary


def test_what_is_written_offline_is_what_the_local_files_hold(run_words, tmp_path):
    folder = tmp_path / "run"
    words = ("logger.wandb.tags=[a,b]", "logger.wandb.group=mine", "logger.wandb.job_type=train")
    result = run_words(folder, *SMALL, *OFFLINE, *words)
    run, config, rows, summary = read_back(folder)
    assert (run.project, run.run_group, run.job_type, list(run.tags)) == (
        *("mmrec", "mine", "train"),
        ["a", "b"],
    )
    assert config["model"]["_target_"] == "mmrec.models.BPR"
    assert config["data"]["world"]["users"] == 60
    with (folder / "metrics.csv").open(newline="") as file:
        table = {int(row["epoch"]): row for row in csv.DictReader(file)}
    assert rows.keys() >= table.keys() == {0, 1, 2}
    for epoch, row in table.items():
        shown = {name: float(value) for name, value in row.items() if value and name != "epoch"}
        assert len(shown) > 20
        for name, value in shown.items():
            assert rows[epoch][name] == pytest.approx(value, rel=1e-6), name
    for name, value in result["metrics"].items():
        assert summary[name] == pytest.approx(value, rel=1e-6), name
    assert summary["best_epoch"] == result["best_epoch"]
    assert summary["status"] == "completed"
    assert summary["learning_curve/format"] == "png"


class Draws(Callback):
    """Use the logger as the documentation of Lightning shows."""

    def on_fit_start(self, trainer, pl_module):
        (self.logger,) = (x for x in trainer.loggers if isinstance(x, WandbLogger))
        self.logger.watch(pl_module, log="all", log_freq=1)

    def on_train_epoch_end(self, trainer, pl_module):
        self.logger.log_image("drawn", [np.zeros((4, 4, 3), dtype=np.uint8)])
        self.logger.experiment.summary["told"] = trainer.current_epoch


def test_a_callback_finds_lightnings_logger_and_may_log_images(run_words, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "drawing", SimpleNamespace(Draws=Draws))
    folder = tmp_path / "run"
    run_words(folder, *SMALL, *OFFLINE, "+callbacks.draws={_target_: drawing.Draws}")
    _, _, rows, summary = read_back(folder)
    assert summary["told"] == 2
    assert summary["drawn/_type"] == "images/separated"
    assert {0, 1, 2} <= rows.keys()
    assert any(name.startswith("gradients/") for row in rows.values() for name in row)


def test_a_callback_that_draws_costs_no_run_where_the_tracker_fails(
    run_words, tmp_path, monkeypatch, caplog
):
    def fail(*_, **__):
        raise ConnectionError("the server is gone")

    monkeypatch.setitem(sys.modules, "drawing", SimpleNamespace(Draws=Draws))
    monkeypatch.setattr(
        Draws, "on_train_epoch_end", lambda self, *_: self.logger.log_image("a", [])
    )
    monkeypatch.setattr(wandb, "init", fail)
    words = "+callbacks.draws={_target_: drawing.Draws}"
    assert run_words(tmp_path / "run", *SMALL, *OFFLINE, words)["status"] == "completed"
    assert sum("WandB failed" in message for message in caplog.messages) == 1


def test_the_checkpoint_is_an_artifact_on_request(run_words, tmp_path):
    run_words(tmp_path / "run", *SMALL, *OFFLINE, "logger.wandb.artifact=true")
    (path,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    artifacts = [r.request.log_artifact for r in records(path)] + [
        r.artifact for r in records(path)
    ]
    manifests = str([a for a in artifacts if str(a)])
    assert "bpr-planted" in manifests


def test_runs_of_a_multirun_are_apart_and_share_a_group(in_process, tmp_path):
    words = ("-m", "grid=runs", "grid.name=mine", *SMALL, *OFFLINE, "seed=0,1")
    assert in_process(mmrec.commands.run.main, *words) is None
    folders = sorted((tmp_path / "multirun/mine/planted").iterdir())
    found = [read_back(folder)[0] for folder in folders]
    assert [run.run_group for run in found] == ["mine", "mine"]
    assert [run.display_name for run in found] == ["bpr-planted-seed0", "bpr-planted-seed1"]
    assert [run.job_type for run in found] == ["train", "train"]
    assert found[0].run_id != found[1].run_id


def test_a_run_that_continues_keeps_its_id(run_words, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run_words(folder, *SMALL, *OFFLINE)
    first = json.loads((folder / ID).read_text())["id"]
    begun = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **k: (begun.append(k["id"]), init(**k))[1])
    run_words(folder, *SMALL, *OFFLINE, "trainer.max_epochs=4", "ckpt=last")
    assert begun == [first]


def test_disabled_writes_nothing(run_words, tmp_path):
    run_words(tmp_path / "run", *SMALL, "logger=wandb", "logger.wandb.mode=disabled")
    assert not (tmp_path / "run/wandb").exists()


@pytest.mark.parametrize("fails", ["log_hyperparams", "log_metrics", "conclude"])
def test_a_tracker_that_fails_costs_a_warning(fails, run_words, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(WandB, fails, fail)
    result = run_words(tmp_path / "run", *SMALL, *OFFLINE)
    assert result["status"] == "completed"
    assert read_result(tmp_path / "run") == result
    assert (tmp_path / "run/metrics.csv").exists()
    warnings = [m for m in caplog.messages if "WandB failed" in m]
    assert warnings == [
        "WandB failed (the server is gone) and is disabled; the run continues, and its files are "
        "complete"
    ]
    assert wandb.run is None  # the next run begins one of its own


def test_without_credentials_it_says_what_to_do(run_words, tmp_path):
    with pytest.raises(InstantiationException) as raised:
        run_words(tmp_path / "run", *SMALL, "logger=wandb")
    error = raised.value.__cause__
    assert (error.setting, error.value, error.problem) == (
        "logger",
        "wandb",
        "no credentials were found",
    )
    assert error.hint.startswith("run `wandb login`, set WANDB_API_KEY")
    assert not (tmp_path / "run").exists()


def test_without_credentials_it_goes_offline_only_if_told_so(run_words, tmp_path, caplog):
    words = ("logger=wandb", "logger.wandb.offline_without_login=true")
    run_words(tmp_path / "run", *SMALL, *words)
    assert any((tmp_path / "run").glob("wandb/offline-run-*"))
    assert "W&B is offline (no credentials)" in caplog.text


def test_a_server_out_of_reach_costs_a_warning(run_words, monkeypatch, tmp_path, caplog):
    def login(**_):
        raise OSError("Failed to authenticate")

    caplog.set_level("INFO", "mmrec")
    monkeypatch.setattr(wandb, "login", login)
    run_words(tmp_path / "run", *SMALL, "logger=wandb")
    assert (
        "W&B is offline (Failed to authenticate); upload the run later: wandb sync" in caplog.text
    )
    (kept,) = (tmp_path / "run").glob("wandb/offline-run-*")
    assert f"wandb sync {kept}" in caplog.text


def test_the_environment_sets_the_mode(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert WandB(str(tmp_path)).mode == "offline"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    with pytest.raises(SettingError) as error:
        WandB(str(tmp_path))
    assert (error.value.setting, error.value.value) == ("WANDB_MODE", "dryrun")
    assert error.value.expected == "online, offline or disabled"


class Broken(Logger):
    name, version = "broken", None

    def __init__(self):
        super().__init__()
        self.calls = 0

    def log_hyperparams(self, params):
        pass

    def log_metrics(self, metrics, step=None):
        self.calls += 1
        raise OSError("no space left")


def test_a_broken_tracker_is_left_alone(caplog):
    broken = Broken()
    guarded = guard(broken)
    assert guarded is broken
    guarded.log_hyperparams({})
    for _ in range(3):
        guarded.log_metrics({"epoch": 0.0})
    assert broken.calls == 1
    assert len(caplog.messages) == 1


def test_tensorboard_gets_the_same(run_words, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_words(tmp_path / "run", *SMALL, "logger=tensorboard")
    board = EventAccumulator(str(tmp_path / "run/tensorboard/version_0"))
    board.Reload()
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("val/recall@20", "train/loss"):
        shown = [event.value for event in board.Scalars(name)]
        assert shown == pytest.approx([float(row[name]) for row in rows], rel=1e-6)


@pytest.fixture
def mlflow_store(monkeypatch, tmp_path):
    """A client of the store that a command makes in an empty folder."""
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return MlflowClient("sqlite:///mlflow.db")


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # within MLflow
def test_mlflow_gets_the_same(run_words, mlflow_store, tmp_path):
    words, client = (*SMALL, "logger=mlflow"), mlflow_store
    folder = tmp_path / "run"
    named = ("logger.mlflow.group=mine", "logger.mlflow.tags=[a]", "logger.mlflow.name=first")
    result = run_words(folder, *words, *named, "logger.mlflow.artifact=true")
    identity = json.loads((folder / MLFLOW_ID).read_text())["id"]
    run = client.get_run(identity)
    assert run.info.run_name == "first"
    assert run.info.status == "FINISHED"
    assert run.data.tags.items() >= {"group": "mine", "a": "", "status": "completed"}.items()
    assert run.data.params["data/world/users"] == "60"
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in rows[0].keys() - {"epoch"}:
        history = client.get_metric_history(identity, name.replace("@", "_at_"))
        local = {int(row["epoch"]): float(row[name]) for row in rows if row[name]}
        assert {m.step: m.value for m in history} == pytest.approx(local, rel=1e-6), name
    for name, value in result["metrics"].items():
        assert run.data.metrics[f"summary/{name}".replace("@", "_at_")] == pytest.approx(value)
    assert not any(name.startswith("test/") for name in run.data.metrics)
    stored = {found.path for found in client.list_artifacts(identity)}
    assert stored == {"learning_curve.png", "checkpoints"}

    run_words(folder, *words, "trainer.max_epochs=4", "ckpt=last")
    (again,) = client.search_runs([run.info.experiment_id])
    assert again.info.run_id == identity
    assert [m.step for m in client.get_metric_history(identity, "train/loss")] == [0, 1, 2, 3]


def test_mlflow_that_is_not_installed_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", False)
    with pytest.raises(SettingError) as error:
        MLflow(str(tmp_path))
    assert (error.value.setting, error.value.value) == ("logger", "mlflow")
    assert error.value.hint == "pip install 'mmrec[mlflow]'"
