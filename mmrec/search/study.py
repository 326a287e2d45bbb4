"""The state of a study: which trials count, which worker runs them, and which were abandoned.

A worker is a process that asks for trials and waits for their runs. It writes its identity into
each of its trials, and a sign of life every `BEAT` seconds.

Optuna's heartbeat requires `Study.optimize` and `RDBStorage`. A search asks for batches that a
launcher runs, and also supports journal storage, so it has a heartbeat of its own. If a worker on
this machine is killed, its trials are queued again at the next request (0.12 s with SQLite); trials
of a worker on another machine are queued again after `GRACE` seconds.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna import Study, create_study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from mmrec.config.errors import SettingError
from mmrec.search.settings import Direction
from mmrec.search.storage import TROUBLE, open_storage, patiently

BEAT = 30.0  # seconds between signs of life
GRACE = 300.0  # seconds without a sign of life after which a worker counts as dead
# Attributes of trials and studies.
WORKER, ALIVE, ERROR = "worker", "alive", "error"
RETRIED = "retried"  # failed trial that another trial repeats
RETRY_OF = "retry_of"  # number of the trial that this one repeats
ALONE = "alone"  # repeated trial that must not share its batch: one trial of the last batch crashed
SURPLUS = "surplus"  # superfluous trial: another worker started the last, or the first, one earlier
FIRST = "first"  # trial with the default settings; each worker may have queued one
COPY_OF = "copy_of"  # number of an earlier trial with the same settings
IDENTITY = "search"  # settings of a study that must not change when it is resumed


def open_study(
    url: str, name: str, directions: list[Direction], identity: Mapping[str, Any]
) -> tuple[Study, BaseStorage]:
    """Create a study, or resume it.

    Args:
        url: URL of the storage.
        name: name of the study.
        directions: direction of each objective.
        identity: settings that all trials share, as plain values by dotted name.

    Raises:
        SettingError: the storage is unreachable, or the study was created with other settings.
    """
    storage = open_storage(url)
    study = patiently(
        lambda: create_study(
            storage=storage, study_name=name, directions=directions, load_if_exists=True
        ),
        url,
    )
    wanted = json.loads(json.dumps(identity))
    before = study.user_attrs.get(IDENTITY)
    if before is None:
        study.set_user_attr(IDENTITY, wanted)
    elif before != wanted:
        keys = sorted(k for k in before | wanted if before.get(k) != wanted.get(k))
        key = keys[0]
        raise SettingError(
            setting="sweep.study_name",
            value=name,
            problem=f"the study was created with other settings, {key}: {before.get(key)}, now "
            f"{wanted.get(key)}",
            hint="use the same settings, or another name",
        )
    return study, storage


def counted(trial: FrozenTrial) -> bool:
    """Return whether a trial counts towards `n_trials`."""
    if trial.state is TrialState.FAIL:
        return not {RETRIED, SURPLUS} & trial.user_attrs.keys()
    return trial.state is not TrialState.WAITING


def is_second_first(trial: Trial, earlier: Sequence[FrozenTrial]) -> bool:
    """Return whether an earlier trial of another worker already has the default settings."""
    return FIRST in trial.user_attrs and any(FIRST in t.user_attrs for t in earlier)


def finished(study: Study) -> int:
    """Return how many of the `n_trials` have finished."""
    return sum(counted(t) and t.state.is_finished() for t in study.get_trials(deepcopy=False))


def twin(study: Study, trial: Trial) -> FrozenTrial | None:
    """Return a completed trial with the same settings, or None."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    same = (t for t in complete if t.params == trial.params and COPY_OF not in t.user_attrs)
    return next(same, None)


def note(
    trial: Trial, attributes: Mapping[str, Any], excess: Mapping[str, float] | None = None
) -> None:
    """Set attributes and constraints of a trial, unless another worker has closed it already."""
    with suppress(UpdateFinishedTrialError):
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        for name, bound in (excess or {}).items():
            trial.set_constraint(name, bound)


def claim(trial: Trial) -> None:
    """Write the identity of this worker into a trial."""
    trial.set_user_attr(WORKER, f"{_place()}:{os.getpid()}")
    trial.set_user_attr(ALIVE, time.time())


@contextmanager
def beating(storage: BaseStorage, trials: list[Trial]) -> Iterator[None]:
    """Send signs of life for trials while their runs are in progress."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            for trial in trials:
                with suppress(*TROUBLE, UpdateFinishedTrialError):
                    storage.set_trial_user_attr(trial._trial_id, ALIVE, time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def fail_stale(
    study: Study,
    storage: BaseStorage,
    mine: Collection[int],
    rescue: Callable[[FrozenTrial], bool] = lambda _: False,
) -> list[int]:
    """Mark trials of dead workers as failed, and queue each of them again, once.

    Args:
        study: the study.
        storage: storage of the study.
        mine: numbers of the trials of this worker.
        rescue: records the values of a trial whose runs finished; returns whether it did.

    Returns:
        Numbers of the trials that were marked as failed.
    """
    found = []
    for trial in elsewhere(study, mine):
        if is_stale(trial) and not rescue(trial):
            reason = "its worker was killed"
            if give_up(study, storage, trial, reason, again=RETRY_OF not in trial.user_attrs):
                found.append(trial.number)
    return found


def elsewhere(study: Study, mine: Collection[int]) -> list[FrozenTrial]:
    """Return the running trials of other workers, dead or alive."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in running if trial.number not in mine]


def is_stale(trial: FrozenTrial) -> bool:
    """Return whether the worker of another worker's running trial is dead."""
    place, pid = _worker(trial)
    if place == _place() and (pid == os.getpid() or not _runs(pid)):
        return True
    return time.time() - alive(trial) > GRACE


def is_seen_alive(trial: FrozenTrial) -> bool:
    """Return whether the worker of a running trial is another live process on this machine."""
    place, pid = _worker(trial)
    return place == _place() and pid != os.getpid() and _runs(pid)


def alive(trial: FrozenTrial) -> float:
    """Return the time of the last sign of life of a trial's worker, in seconds since 1970."""
    begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return float(trial.user_attrs.get(ALIVE, begun))


def _worker(trial: FrozenTrial) -> tuple[str, int]:
    place, _, pid = trial.user_attrs.get(WORKER, ":0").rpartition(":")
    return place, int(pid)


def give_up(
    study: Study,
    storage: BaseStorage,
    trial: Trial | FrozenTrial,
    reason: str,
    *,
    again: bool,
    alone: bool = False,
) -> bool:
    """Mark a running trial as failed.

    Args:
        study: the study.
        storage: storage of the study.
        trial: the trial.
        reason: error message, one line.
        again: queue the settings again; the failed trial then does not count.
        alone: run the queued trial in a batch of its own.

    Returns:
        Whether the trial was still running; False if another worker has closed it already.
    """
    try:
        storage.set_trial_user_attr(trial._trial_id, ERROR, reason)
        if again:
            storage.set_trial_user_attr(trial._trial_id, RETRIED, True)
        if not storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):
            return False
    except UpdateFinishedTrialError:
        return False
    if again:
        repeats = {RETRY_OF: trial.number, **({ALONE: True} if alone else {})}
        study.enqueue_trial(trial.params, user_attrs=repeats)
    return True


def _place() -> str:
    """Return an identifier of this machine and its process namespace."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return platform.node() + namespace


def _runs(pid: int) -> bool:
    with suppress(OSError):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False  # a zombie process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
