"""The loop of a search: ask for trials, run them, record their values."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DBAPIError

from mmrec.config.errors import SettingError
from mmrec.config.text import first_line
from mmrec.config.words import quoted
from mmrec.search import samplers, study, summary
from mmrec.search.objective import COSTS, excesses, mean_values, prunes
from mmrec.search.plan import make_plan
from mmrec.search.pruning import ReportTarget
from mmrec.search.settings import Settings
from mmrec.search.space import place
from mmrec.search.storage import TROUBLE, full_url, hidden, patiently
from mmrec.training.results import ResultError, for_a_search, read_result

log = logging.getLogger(__name__)
POLL = 5.0  # seconds between checks of the trials of other workers


class SearchError(ValueError):
    """A search found no valid trial, or too many trials failed."""


class Search:
    """A worker of a study. Several commands may work on the same study.

    Args:
        settings: settings of the search.
        arguments: overrides on the command line.
        config: configuration of the multirun.
        loader: composes the configuration of a run.
        launcher: runs the trials.

    Raises:
        SettingError: the search space, the objective or the study is invalid.
        SearchError: the folder holds runs of another study.
    """

    def __init__(
        self,
        settings: Settings,
        arguments: Sequence[str],
        config: DictConfig,
        loader: ConfigLoader,
        launcher: Launcher,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.settings, self.launcher = settings, launcher
        self.folder = Path(config.hydra.sweep.dir).resolve()
        plan = make_plan(settings, arguments, config, loader)
        self.plan = plan
        self.total, self.first = settings.n_trials, plan.defaults
        sampler = samplers.ByNumber(settings.sampler, plan.space)
        if isinstance(sampler.inner, optuna.samplers.GridSampler):
            self.total = min(self.total, math.prod(map(len, plan.space.grid().values())))
            self.first = {}  # the grid sampler sets the order
        samplers.build_pruner(settings.pruner)
        self.url = full_url(settings.storage, self.folder)
        self.where = f"sweep.storage={hidden(self.url)}"
        self.name = settings.study_name or self.folder.name
        self.study, self.storage = study.open_study(
            self.url, self.name, plan.directions, plan.identity
        )
        self.study.sampler = sampler
        if not self.study.trials and (self.folder / "0").exists():
            raise SearchError(
                f"{self.folder} holds runs that do not belong to study {self.name}; give the "
                "sweep.storage of these runs, another sweep.study_name, or remove the folder"
            )
        self.mine: dict[int, Trial] = {}
        self.aside: list[Trial] = []  # asked for, but not started
        self.launched = 0
        self.start, self.begun = time.monotonic(), 0

    def run(self) -> float | None:
        """Run trials until the study is complete or the time limit is reached.

        Returns:
            The best value; None for several objectives.

        Raises:
            SearchError: no valid trial was found, too many trials failed, or the storage failed.
        """
        log.info("study %s: %d trials in %s", self.name, self.total, hidden(self.url))
        if self.settings.defaults_first and self.first and not self.study.trials:
            self.study.enqueue_trial(
                self.first, user_attrs={study.FIRST: True}, skip_if_exists=True
            )
        try:
            while (batch := self._ask()) or self._more_to_come():
                with study.beating(self.storage, [*self.mine.values()]):
                    self._run(batch)
                self._count_failures()
        except (KeyboardInterrupt, SystemExit):
            log.info("interrupted; repeat the command to resume study %s", self.name)
            raise
        except (StorageInternalError, DBAPIError) as error:
            raise SearchError(
                f"{self.where}: {error}; repeat the command to resume, finished trials are kept"
            ) from error
        finally:  # also after an interruption
            for trial in [*self.mine.values()]:
                with suppress(*TROUBLE, SettingError):
                    if not self._rescue(trial):
                        study.give_up(self.study, self.storage, trial, "interrupted", again=True)
        return self._conclude()

    def _ask(self) -> list[Trial]:
        """Return the next batch of trials; empty if there are no more to start."""
        batch: list[Trial] = []
        while len(batch) < self.settings.n_jobs and not self._late():
            trial = self.aside.pop() if self.aside else patiently(self._ask_one, self.url)
            if trial is None:
                break
            self.mine[trial.number] = trial
            if not self._complete(trial) or self._copied(trial):
                continue
            if study.ALONE in trial.user_attrs:
                if not batch:
                    return [trial]
                self.aside.append(trial)
                break
            batch.append(trial)
        return batch

    def _more_to_come(self) -> bool:
        """Wait for a sign of life of other workers; return whether one of them is dead.

        The trials of a dead worker are queued again, so this worker has more to run.
        """
        seen: dict[int, float] = {}
        told = False
        while not self._late():
            others = study.elsewhere(self.study, self.mine)
            if any(study.is_stale(trial) for trial in others):
                return True
            silent = [
                trial.number
                for trial in others
                if not study.is_seen_alive(trial)
                and study.alive(trial) == seen.setdefault(trial.number, study.alive(trial))
            ]
            if not silent:
                return False
            if not told:
                log.info(
                    "trials %s run elsewhere; waiting for a sign of life of their workers", silent
                )
                told = True
            time.sleep(POLL)
        return False

    def _late(self) -> bool:
        limit = self.settings.timeout
        return limit is not None and time.monotonic() - self.start >= limit

    def _ask_one(self) -> Trial | None:
        for number in study.fail_stale(self.study, self.storage, self.mine, self._rescue):
            log.warning("trial %d failed: its worker was killed", number)
        trials = self.study.get_trials(deepcopy=False)
        if sum(map(study.counted, trials)) >= self.total:
            return None
        trial = self.study.ask(self.plan.space.distributions)
        study.claim(trial)
        before = [t for t in self.study.get_trials(deepcopy=False) if t.number < trial.number]
        late = sum(map(study.counted, before)) >= self.total  # another worker started the last one
        if not late and not study.is_second_first(trial, before):
            return trial
        trial.set_user_attr(study.SURPLUS, True)
        self.study.tell(trial, state=TrialState.FAIL)
        return None if late else self._ask_one()

    def _complete(self, trial: Trial) -> bool:
        """Call `custom_search_space`, if set; return whether it succeeded."""
        try:
            if self.plan.further is not None:
                self.plan.further(self.plan.config, trial)
        except Exception as error:
            self.begun += 1
            self._fail(trial, error)
            return False
        return True

    def _copied(self, trial: Trial) -> bool:
        """Copy the values of an equal earlier trial, and return whether there is one."""
        other = study.twin(self.study, trial)
        if other is None:
            return False
        self.begun += 1
        study.note(trial, {study.COPY_OF: other.number}, other.constraints)
        self._tell(trial, other.values)
        return True

    def _run(self, batch: list[Trial]) -> None:
        """Run the trials of a batch, and record their values."""
        self.begun += len(batch)
        seeds = self._seeds()
        # If the first seed of a trial is pruned, its other seeds are not run.
        stages = [seeds[:1], seeds[1:]] if prunes(self.settings.pruner) else [seeds]
        outcomes: dict[int, list[dict[str, Any]]] = {trial.number: [] for trial in batch}
        for stage in stages:
            jobs = [(t, seed) for t in batch if t.number in self.mine for seed in stage]
            if jobs:
                self._launch(jobs, outcomes)
        for trial in batch:
            if trial.number in self.mine:
                self._value(trial, outcomes[trial.number])

    def _seeds(self) -> list[int | None]:
        return [*self.settings.seeds] if self.settings.seeds else [None]

    def _launch(
        self, jobs: list[tuple[Trial, int | None]], outcomes: dict[int, list[dict[str, Any]]]
    ) -> None:
        """Run jobs and record their outcomes. Job results are dropped: errors keep models alive."""
        words = [self._words(trial, seed) for trial, seed in jobs]
        first, self.launched = self.launched, self.launched + len(jobs)
        try:
            returned = self.launcher.launch(words, initial_job_idx=first)
        except Exception as error:  # of the launcher, for example because a job was killed
            trials = {trial.number: trial for trial, _ in jobs}
            for trial in trials.values():
                self._lose(trial, first_line(error), alone=len(trials) > 1)
            return
        for (trial, _), job in zip(jobs, returned, strict=True):
            self._take(trial, job, outcomes[trial.number])

    def _lose(self, trial: Trial, reason: str, *, alone: bool) -> None:
        """Record a lost trial from its result files; otherwise queue it again, once."""
        if self._rescue(trial):
            return
        again = study.RETRY_OF not in trial.user_attrs
        study.give_up(self.study, self.storage, trial, reason, again=again, alone=alone)
        del self.mine[trial.number]
        then = "; it will be repeated" + (", alone" if alone else "") if again else ""
        log.warning("trial %d failed: %s%s", trial.number, reason, then)

    def _rescue(self, trial: Trial | FrozenTrial) -> bool:
        """Record the values of a trial whose runs all finished before its worker was killed.

        Reading the `result.json` of a seed takes about 4 ms; running the trial again takes its full
        time, for example 23 s with BPR on `tiktok`.
        """
        outcomes = []
        for seed in self._seeds():
            try:
                result = read_result(self.folder / self._place(trial.number, seed))
            except ResultError:
                return False
            same = {*self.plan.words(trial.params, seed)} <= {*result["overrides"]}
            if not same or result["status"] not in ("completed", "pruned"):
                return False
            outcomes.append(for_a_search(result))
            if result["status"] == "pruned":  # its other seeds are not run
                break
        own = self.mine[trial.number] = Trial(self.study, trial._trial_id)
        if outcomes[-1]["status"] == "pruned":
            self._tell(own, None, TrialState.PRUNED)
        else:
            self._value(own, outcomes)
        return True

    def _take(self, trial: Trial, job: JobReturn, outcomes: list[dict[str, Any]]) -> None:
        """Record the outcome of one run of a trial."""
        if trial.number not in self.mine:  # another seed failed
            return
        result = job._return_value  # `return_value` would raise the error again
        if job.status is not JobStatus.COMPLETED:
            self._fail(trial, result)
        elif result["status"] == "pruned":
            self._tell(trial, None, TrialState.PRUNED)
        else:
            outcomes.append(result)

    def _value(self, trial: Trial, outcomes: list[dict[str, Any]]) -> None:
        try:
            values = mean_values(outcomes, self.plan.objectives)
        except ValueError as error:
            self._fail(trial, error)
            return
        costs = {name: [outcome[name] for outcome in outcomes] for name in COSTS}
        study.note(trial, costs, excesses(outcomes, self.settings.constraints))
        self._tell(trial, values)

    def _fail(self, trial: Trial, error: BaseException) -> None:
        study.note(trial, {study.ERROR: first_line(error)})
        self._tell(trial, None, TrialState.FAIL)

    def _tell(
        self, trial: Trial, values: Sequence[float] | None, state: TrialState | None = None
    ) -> None:
        told = patiently(
            lambda: self.study.tell(trial, values, state, skip_if_finished=True), self.url
        )
        del self.mine[trial.number]
        log.info(
            "%s", summary.line(told, self.study, self.plan.objectives, self.total, self._left())
        )

    def _words(self, trial: Trial, seed: int | None) -> list[str]:
        """Return the overrides of one run, including its folder and its `ReportTarget`."""
        first = self.settings.seeds is None or seed == self.settings.seeds[0]
        metric = self.plan.objectives[0]
        reports = first and len(self.plan.objectives) == 1 and metric.startswith("val/")
        reported = metric if reports else None
        watch = ReportTarget(self.url, self.name, trial._trial_id, reported, self.settings.pruner)
        return [
            *self.plan.words(trial.params, seed),
            *place(self.folder, self._place(trial.number, seed)),
            f"hydra.sweeper.trial={quoted(watch.to_json())}",
        ]

    @staticmethod
    def _place(number: int, seed: int | None) -> str:
        """Return the run folder, relative to the folder of the search."""
        return f"{number}" if seed is None else f"{number}/seed_{seed}"

    def _left(self) -> float:
        """Estimate the remaining seconds."""
        pace = (time.monotonic() - self.start) / max(1, self.begun)
        left = pace * (self.total - study.finished(self.study))
        if self.settings.timeout is None:
            return left
        return min(left, max(0.0, self.start + self.settings.timeout - time.monotonic()))

    def _count_failures(self) -> None:
        failed = self._failed()
        if len(failed) > self.settings.max_failure_rate * self.total:
            raise SearchError(
                f"study {self.name}: {len(failed)} of {self.total} trials failed, more than "
                f"sweep.max_failure_rate={self.settings.max_failure_rate} allows: "
                + summary.listed(failed)
            )

    def _failed(self) -> list[FrozenTrial]:
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return [trial for trial in failed if study.counted(trial)]

    def _conclude(self) -> float | None:
        """Log and write the best trials, and return the best value."""
        best = summary.ranked(self.study)
        if running := study.elsewhere(self.study, self.mine):
            log.info(
                "trials %s of study %s are still running elsewhere; repeat the command after they "
                "end to include them",
                [trial.number for trial in running],
                self.name,
            )
            if not best:
                return None
        if not best:
            failed = self._failed()
            errors = f"; failed: {summary.listed(failed)}" if failed else ""
            raise SearchError(
                f"study {self.name}: no trial was completed within the constraints{errors}"
            )
        log.info("%s", summary.trial_table(self.study, self.plan, self.folder))
        summary.write_results(self.folder, self.study, best)
        summary.write_top(self.folder, self.name, best[: self.settings.top], self.plan)
        return best[0].value if len(self.plan.objectives) == 1 else None
