"""The state of a study: which trials count, which worker runs them, and which were abandoned.

A worker is a process that asks for trials and waits for their runs. It writes its identity into
each of its trials and, twice a minute, that it is alive.

Optuna's own heartbeat works only within `Study.optimize` and with `RDBStorage`. A search asks for
batches that a launcher runs, also with journal storage, so it keeps its own. The trial of a worker
that was killed on this machine is queued again at the next request (0.12 s with SQLite), where a
heartbeat waits for its grace period; on another machine it is queued again after `GRACE` seconds.
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
GRACE = 300.0  # seconds without one after which a worker is given up
WORKER, ALIVE, ERROR = "worker", "alive", "error"
RETRIED = "retried"  # of a failed trial: another one repeats it
RETRY_OF = "retry_of"  # of that one
ALONE = "alone"  # of that one, too: what it repeats was lost beside others, one of which did it
SURPLUS = "surplus"  # of a failed trial: another worker was faster to begin the last, or the first
FIRST = "first"  # of a trial of the model's own settings; each worker may have queued one
COPY_OF = "copy_of"  # of a trial whose settings had been tried
IDENTITY = "search"  # of a study: what may not change when it is continued


def open_study(
    url: str, name: str, directions: list[Direction], identity: Mapping[str, Any]
) -> tuple[Study, BaseStorage]:
    """Begin a study, or go on with it.

    Args:
        url: of the storage.
        name: of the study.
        directions: of its objectives.
        identity: what all its trials share, as flat plain values.

    Raises:
        SettingError: the storage is out of reach, or the study was another search.
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
            problem=f"it was begun with other settings, {key}: {before.get(key)}, now "
            f"{wanted.get(key)}",
            hint="give the same, or another name",
        )
    return study, storage


def counted(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the `n_trials`."""
    if trial.state is TrialState.FAIL:
        return not {RETRIED, SURPLUS} & trial.user_attrs.keys()
    return trial.state is not TrialState.WAITING


def is_second_first(trial: Trial, earlier: Sequence[FrozenTrial]) -> bool:
    """Whether another worker has queued the model's own settings, too, and before this trial."""
    return FIRST in trial.user_attrs and any(FIRST in t.user_attrs for t in earlier)


def finished(study: Study) -> int:
    """How many of the `n_trials` are over."""
    return sum(counted(t) and t.state.is_finished() for t in study.get_trials(deepcopy=False))


def twin(study: Study, trial: Trial) -> FrozenTrial | None:
    """A trial with the same settings that was run to its end, if there is one."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    same = (t for t in complete if t.params == trial.params and COPY_OF not in t.user_attrs)
    return next(same, None)


def note(
    trial: Trial, attributes: Mapping[str, Any], excess: Mapping[str, float] | None = None
) -> None:
    """Write about a trial, unless another worker has taken this one for dead and closed it."""
    with suppress(UpdateFinishedTrialError):
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        for name, bound in (excess or {}).items():
            trial.set_constraint(name, bound)


def claim(trial: Trial) -> None:
    """Write who works on a trial."""
    trial.set_user_attr(WORKER, f"{_place()}:{os.getpid()}")
    trial.set_user_attr(ALIVE, time.time())


@contextmanager
def beating(storage: BaseStorage, trials: list[Trial]) -> Iterator[None]:
    """Give signs of life while the runs of one's trials go on."""
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
    """Mark trials of killed workers as failed, and queue each again, once.

    Args:
        study: of the trials.
        storage: of the study.
        mine: numbers of this worker's own trials.
        rescue: records the values of a trial whose runs finished; returns whether it did.

    Returns:
        Numbers of the trials that failed.
    """
    found = []
    for trial in elsewhere(study, mine):
        if is_stale(trial) and not rescue(trial):
            reason = "its worker was killed"
            if give_up(study, storage, trial, reason, again=RETRY_OF not in trial.user_attrs):
                found.append(trial.number)
    return found


def elsewhere(study: Study, mine: Collection[int]) -> list[FrozenTrial]:
    """What other workers run, or have left running."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in running if trial.number not in mine]


def is_stale(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial, none of ours, is dead."""
    place, pid = _worker(trial)
    if place == _place() and (pid == os.getpid() or not _runs(pid)):
        return True
    return time.time() - alive(trial) > GRACE


def is_seen_alive(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial is a process here."""
    place, pid = _worker(trial)
    return place == _place() and pid != os.getpid() and _runs(pid)


def alive(trial: FrozenTrial) -> float:
    """When a trial's worker gave its last sign of life; seconds since 1970."""
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
        study: of the trial.
        storage: of the study.
        trial: to fail.
        reason: one line.
        again: queue its settings once more; then this trial does not count.
        alone: that is to be run with no other.

    Returns:
        Whether it was still running; else another worker has been here.
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
    """Where process ids mean what they mean here."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return platform.node() + namespace


def _runs(pid: int) -> bool:
    with suppress(OSError):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False  # dead, and its parent has not looked yet
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
