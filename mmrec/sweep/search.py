"""The loop: ask for trials, run them, tell what they are worth."""

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

from mmrec.app import quoted
from mmrec.results import first_line
from mmrec.sweep import check, samplers, study, summary
from mmrec.sweep.objective import COSTS, excesses, mean_values, prunes
from mmrec.sweep.pruning import Watch
from mmrec.sweep.settings import Settings
from mmrec.sweep.space import place
from mmrec.sweep.storage import TROUBLE, full_url, hidden, patiently

log = logging.getLogger(__name__)


class SearchError(ValueError):
    """A search found nothing, or failed too often."""


class Search:
    """One command's part in a study.

    Args:
        settings: of the search.
        arguments: words of the command line.
        config: as composed for the whole multirun.
        loader: composes a run's configuration.
        launcher: runs.

    Raises:
        ConfigError: the space, the objective or the study cannot be.
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
        plan = check.plan(settings, arguments, config, loader)
        self.plan = plan
        self.total, self.first = settings.n_trials, plan.defaults
        sampler = samplers.ByNumber(settings.sampler, plan.space)
        if isinstance(sampler.inner, optuna.samplers.GridSampler):
            self.total = min(self.total, math.prod(map(len, plan.space.grid().values())))
            self.first = {}  # the grid has its own order
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
                f"{self.folder} holds runs of which study {self.name} knows nothing; give its "
                "sweep.storage, another sweep.study_name, or remove the folder"
            )
        self.mine: dict[int, Trial] = {}
        self.launched = 0
        self.start, self.finished_here = time.monotonic(), 0

    def run(self) -> float | None:
        """Go on until the study has its trials, or the time is over.

        Returns:
            The best value; of several objectives, None.

        Raises:
            SearchError: nothing was found, or too much failed.
        """
        log.info("study %s: %d trials in %s", self.name, self.total, hidden(self.url))
        if self.settings.defaults_first and self.first and not self.study.trials:
            self.study.enqueue_trial(
                self.first, user_attrs={study.FIRST: True}, skip_if_exists=True
            )
        try:
            while batch := self._ask():
                with study.beating(self.storage, batch):
                    self._run(batch)
                self._count_failures()
        except (StorageInternalError, DBAPIError) as error:
            raise SearchError(
                f"{self.where}: {error}; give the same command again, what is finished is kept"
            ) from error
        finally:  # also when the user, or a signal, ends it
            for trial in self.mine.values():
                with suppress(*TROUBLE):
                    study.give_up(self.study, self.storage, trial, "interrupted", again=True)
        return self._conclude()

    def _ask(self) -> list[Trial]:
        """The next batch; empty if there is nothing more to begin."""
        batch: list[Trial] = []
        while len(batch) < self.settings.n_jobs and not self._late():
            trial = patiently(self._ask_one, self.where)
            if trial is None:
                break
            self.mine[trial.number] = trial
            if not self._copied(trial):
                batch.append(trial)
        return batch

    def _late(self) -> bool:
        limit = self.settings.timeout
        return limit is not None and time.monotonic() - self.start >= limit

    def _ask_one(self) -> Trial | None:
        for number in study.fail_stale(self.study, self.storage, set(self.mine)):
            log.warning("trial %d failed: its worker was killed", number)
        trials = self.study.get_trials(deepcopy=False)
        if sum(map(study.counted, trials)) >= self.total:
            return None
        trial = self.study.ask(self.plan.space.distributions)
        study.claim(trial)
        before = [t for t in self.study.get_trials(deepcopy=False) if t.number < trial.number]
        late = sum(map(study.counted, before)) >= self.total  # another worker began the last one
        if not late and not study.is_second_first(trial, before):
            return trial
        trial.set_user_attr(study.SURPLUS, True)
        self.study.tell(trial, state=TrialState.FAIL)
        return None if late else self._ask_one()

    def _copied(self, trial: Trial) -> bool:
        """Whether the trial's settings have been tried; then its value is known."""
        other = study.twin(self.study, trial)
        if other is None:
            return False
        study.note(trial, {study.COPY_OF: other.number}, other.constraints)
        self._tell(trial, other.values)
        return True

    def _run(self, batch: list[Trial]) -> None:
        """Run a batch's trials, and tell what they gave."""
        seeds: list[int | None] = [*self.settings.seeds] if self.settings.seeds else [None]
        # A trial that its first seed prunes is not run with the others.
        stages = [seeds[:1], seeds[1:]] if prunes(self.settings.pruner) else [seeds]
        outcomes: dict[int, list[dict[str, Any]]] = {trial.number: [] for trial in batch}
        for stage in stages:
            jobs = [(t, seed) for t in batch if t.number in self.mine for seed in stage]
            if not jobs:
                continue
            words = [self._words(trial, seed) for trial, seed in jobs]
            try:
                returned = self.launcher.launch(words, initial_job_idx=self.launched)
            except Exception as error:  # a launcher's own, as that of a job that was killed
                for trial in {trial.number: trial for trial, _ in jobs}.values():
                    self._fail(trial, error)
                continue
            self.launched += len(jobs)
            for (trial, _), job in zip(jobs, returned, strict=True):
                self._take(trial, job, outcomes[trial.number])
        for trial in batch:
            if trial.number in self.mine:
                self._value(trial, outcomes[trial.number])

    def _take(self, trial: Trial, job: JobReturn, outcomes: list[dict[str, Any]]) -> None:
        """What one run of a trial returned."""
        if trial.number not in self.mine:  # another seed has failed
            return
        result = job._return_value  # `return_value` would announce an error once more
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
            lambda: self.study.tell(trial, values, state, skip_if_finished=True), self.where
        )
        del self.mine[trial.number]
        self.finished_here += 1
        log.info(
            "%s", summary.line(told, self.study, self.plan.objectives, self.total, self._left())
        )

    def _words(self, trial: Trial, seed: int | None) -> list[str]:
        """The words of one run, and where Hydra is to put it."""
        first = self.settings.seeds is None or seed == self.settings.seeds[0]
        metric = self.plan.objectives[0]
        reports = first and len(self.plan.objectives) == 1 and metric.startswith("val/")
        reported = metric if reports else None
        watch = Watch(self.url, self.name, trial._trial_id, reported, self.settings.pruner)
        subdir = f"{trial.number}" if seed is None else f"{trial.number}/seed_{seed}"
        return [
            *self.plan.words(trial.params, seed),
            *place(self.folder, subdir),
            f"hydra.sweeper.trial={quoted(watch.to_json())}",
        ]

    def _left(self) -> float:
        """Seconds, as far as can be told."""
        pace = (time.monotonic() - self.start) / self.finished_here
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
        """Say and write what is best."""
        best = summary.ranked(self.study)
        if not best:
            failed = self._failed()
            errors = f"; failed: {summary.listed(failed)}" if failed else ""
            raise SearchError(
                f"study {self.name}: no trial was run to its end, within the bounds{errors}"
            )
        summary.write_results(self.folder, self.study, best)
        summary.write_top(self.folder, self.name, best[: self.settings.top], self.plan)
        return best[0].value if len(self.plan.objectives) == 1 else None
