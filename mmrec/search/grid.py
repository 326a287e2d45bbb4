"""Run every combination of some settings once, for example ablations, baselines and seeds.

A cell is one combination, identified by its settings, its data and the code of its model. Finished
cells are skipped, interrupted cells resume, and a failed cell does not stop the others. Several
commands may run the same grid: a cell is locked while it runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import ConfigDict, Field, TypeAdapter

from mmrec.config.bars import duration, steps
from mmrec.config.errors import SettingError
from mmrec.config.schema import nearest
from mmrec.config.text import first_line
from mmrec.data.corruption import CATEGORIES
from mmrec.nn.schedules import TooFewExperts
from mmrec.search.jobs import Job, job_table
from mmrec.search.plan import checked_run
from mmrec.search.settings import validated
from mmrec.search.space import parse, place
from mmrec.training.code import code_digest
from mmrec.training.provenance import config_hash
from mmrec.training.results import LAST, ResultError, read_result
from mmrec.training.upstream import targets

log = logging.getLogger(__name__)

SEED = re.compile(r"seed=\d+")
RunState = Literal["finished", "stopped", "new", "running"]
LOCKS = ".locks"


class GridError(ValueError):
    """Some cells of a grid failed."""


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """Settings of a grid, in `hydra.sweeper`.

    Attributes:
        params: values by setting: `choice(...)`, `range(...)`, a list `a,b`, or one value.
            Overrides on the command line take precedence.
        ablations: true: run each model unchanged, and with each file in conf/ablation/<model>. A
            list of names selects some of these files.
        n_jobs: number of cells that the launcher may run at the same time.
        dry_run: list the cells without running them.
    """

    params: dict[str, Any] | None = None
    ablations: bool | list[str] = False
    n_jobs: Annotated[int, Field(ge=1)] = 1
    dry_run: bool = False


GRID_SETTINGS: TypeAdapter[GridSettings] = TypeAdapter(
    Annotated[GridSettings, ConfigDict(extra="forbid")]
)


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        words: overrides of the run.
        place: path of the run folder, relative to the folder of the grid.
        state: `finished`, `stopped` (will resume), `new`, or `running` in another command.
        ablation: name of the ablation; None for the unchanged model.
    """

    words: tuple[str, ...]
    place: str
    state: RunState
    ablation: str | None = None


@dataclass(frozen=True)
class Grid:
    """The grid of one command.

    Args:
        settings: settings of the grid.
        arguments: overrides on the command line.
        config: configuration of the multirun.
        loader: composes the configuration of a run.
        launcher: runs the cells.
    """

    settings: GridSettings
    arguments: Sequence[str]
    config: DictConfig
    loader: ConfigLoader
    launcher: Launcher
    failed: dict[str, str] = field(default_factory=dict)  # reason by cell
    _composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)
    _seen: dict[str, tuple[str, frozenset[str], bool]] = field(default_factory=dict)
    _left_out: set[str] = field(default_factory=set)
    _whole: set[str] = field(default_factory=set)  # digests of cells without an ablation

    @property
    def folder(self) -> Path:
        """Folder of the multirun, which contains the run folders."""
        return Path(self.config.hydra.sweep.dir).resolve()

    def run(self) -> None:
        """Run all cells that are not finished.

        Raises:
            SettingError: the configuration of the first cell is invalid.
            GridError: some cells failed; the others have run.
        """
        HydraConfig.instance().set_config(self.config)  # resolves ${hydra:...}
        asked = steps(list(self._asked()), "reading the grid", "cell")
        cells = list(dict.fromkeys(c for one in asked for c in self._try(*one)))
        for reason in sorted(self._left_out):
            log.info("left out: %s", reason)
        total = len(cells) + len(self.failed)
        todo = [cell for cell in cells if cell.state not in ("finished", "running")]
        log.info("cells in %s: %d, to run: %d", self.folder, len(cells), len(todo))
        if running := sum(cell.state == "running" for cell in cells):
            log.info("cells that another command is running: %d", running)
        if self.settings.dry_run:
            for cell in cells:
                log.info("%-8s %s: %s", cell.state, cell.place, " ".join(cell.words))
        else:
            try:
                self._run(todo)
            except (KeyboardInterrupt, SystemExit):
                log.info("interrupted; repeat the command to run the remaining cells")
                raise
            finally:
                self._log_table(cells)
            log.info("report: python -m mmrec.report %s", shlex.quote(f"runs={self.folder}"))
        if self.failed:
            listed = "; ".join(f"{name}: {reason}" for name, reason in self.failed.items())
            raise GridError(f"{len(self.failed)} of {total} cells failed: {listed}")

    def _log_table(self, cells: Sequence[Cell]) -> None:
        """Log a table of all cells, including those that finished earlier."""
        failed = {cell.place: "failed" for cell in cells if cell.place in self.failed}
        jobs = [Job(c.words, self.folder / c.place, failed.get(c.place, "-")) for c in cells]
        places = {cell.place for cell in cells}
        jobs += [Job((words,), None, "failed") for words in self.failed if words not in places]
        if jobs:
            log.info("%s", job_table(jobs, self.folder))

    def _asked(self) -> Iterator[tuple[list[str], tuple[str, ...]]]:
        """Yield the ablation (an empty list for none) and the overrides of each combination."""
        asked = self.settings.ablations
        if asked and any(word.lstrip("+").startswith("ablation=") for word in self.arguments):
            raise SettingError(
                setting="ablation",
                problem="cannot be combined with grid.ablations",
                hint="to run some ablations only, give grid.ablations=[one,two] instead",
            )
        space = parse(self.settings.params, self.arguments, self.loader)
        settings, values = list(space.distributions), list(space.grid().values())
        for combination in product(*values):
            params = dict(zip(settings, combination, strict=True))
            words = tuple(space.words(params))
            yield [], words
            if asked:
                model = self._compose(words).hydra.runtime.choices.model
                there = self.loader.get_group_options(f"ablation/{model}", ObjectType.CONFIG)
                if not there:
                    self._left_out.add(f"model={model} has no ablations in conf/ablation")
                names = there if asked is True else asked
                if unknown := next((name for name in names if name not in there), None):
                    raise SettingError(
                        setting="grid.ablations",
                        value=unknown,
                        problem=f"{model} has no such ablation{nearest(unknown, there)}",
                    )
                for name in names:
                    yield [name], (*words, f"ablation={model}/{name}")

    def _try(self, ablation: Sequence[str], words: tuple[str, ...]) -> Iterator[Cell]:
        """Yield the cell, if there is one; record a failure for invalid settings or data."""
        try:
            cell = self._cell(ablation, words)
        except (ValueError, OSError) as error:  # invalid data or settings
            if not ablation and not self._seen:
                raise  # the first cell: a fault that concerns all of them
            self.failed[" ".join(words)] = first_line(error)
        else:
            if cell is not None:
                yield cell

    def _cell(self, ablation: Sequence[str], words: tuple[str, ...]) -> Cell | None:
        composed = self._compose(words)
        choices = composed.hydra.runtime.choices
        plain = checked_run(composed)
        data = plain["data"]
        if ablation and not self._applies(data):
            self._left_out.add(f"{choices.data} lacks the modalities for {ablation[0]}")
            return None
        fingerprint, *_ = self._corpus(data)
        digest = _digest(config_hash(plain), fingerprint, code_digest(*targets(plain)))
        if not ablation:
            self._whole.add(digest)
        elif digest in self._whole:  # an override on the command line undoes the ablation
            self._left_out.add(f"{ablation[0]} has no effect with the given overrides")
            return None
        name = "-".join([choices.model, *ablation, f"seed{plain['seed']}", digest])
        place = f"{choices.data}/{name}"
        state = "running" if self._is_held(place) else _state(self.folder / place)
        return Cell(words, place, state, next(iter(ablation), None))

    def _applies(self, data: Mapping[str, Any]) -> bool:
        """Return whether a data set has the modalities that an ablation removes or corrupts."""
        asked = data.get("modalities")
        if asked is None and not data.get("corrupt"):
            return True
        _, there, labelled = self._corpus({**data, "modalities": None, "corrupt": {}})
        if asked is not None and not set(asked) < there:  # keeping all modalities is no ablation
            return False
        return set(data.get("corrupt") or ()) <= there | ({CATEGORIES} if labelled else set())

    def _corpus(self, data: Mapping[str, Any]) -> tuple[str, frozenset[str], bool]:
        """Return fingerprint, modalities and presence of categories of a data set; cached."""
        key = json.dumps({k: v for k, v in data.items() if k != "seed"}, sort_keys=True)
        if key not in self._seen:
            corpus = instantiate(data, _convert_="all").corpus
            labelled = corpus.categories is not None
            self._seen[key] = corpus.fingerprint, frozenset(corpus.modalities), labelled
        return self._seen[key]

    def _compose(self, words: Sequence[str]) -> DictConfig:
        """Compose the configuration of a cell; cached for all seeds, because composing is slow."""
        shared = tuple(word for word in words if not SEED.fullmatch(word))
        if shared not in self._composed:
            self._composed[shared] = self.loader.load_sweep_config(self.config, list(shared))
        composed = self._composed[shared].copy()
        for word in set(words) - set(shared):
            composed.seed = int(word.removeprefix("seed="))
        return composed

    def _run(self, cells: Sequence[Cell]) -> None:
        start = time.monotonic()
        for first in range(0, len(cells), self.settings.n_jobs):
            batch = cells[first : first + self.settings.n_jobs]
            told = self._run_batch(batch, first)
            for number, (name, what) in enumerate(told.items(), first + 1):
                left = (time.monotonic() - start) / number * (len(cells) - number)
                log.info(
                    "%d of %d, %s: %s; %s left", number, len(cells), name, what, duration(left)
                )

    def _run_batch(self, batch: Sequence[Cell], first: int) -> dict[str, str]:
        """Run cells, and return the outcome of each by its place.

        The job results are not kept: an error keeps its model alive.
        """
        with ExitStack() as held:
            mine = [cell for cell in (self._lock(cell, held) for cell in batch) if cell]
            for cell in mine:
                if cell.state == "new":  # remove what a failed or killed run left behind
                    shutil.rmtree(self.folder / cell.place, ignore_errors=True)
            told = {cell.place: "running in another command" for cell in batch}
            try:
                words = [self._words(cell) for cell in mine]
                jobs = self.launcher.launch(words, initial_job_idx=first) if mine else []
            except Exception as error:  # of the launcher, for example because a job was killed
                lost = {cell.place: first_line(error) for cell in mine}
                self.failed.update(lost)
                return told | {place: f"failed: {reason}" for place, reason in lost.items()}
            found = {c.place: self._tell(c, job) for c, job in zip(mine, jobs, strict=True)}
            return told | found

    def _lock(self, cell: Cell, held: ExitStack) -> Cell | None:
        """Lock a cell until `held` exits; None if another command runs or has finished it."""
        path = self._lock_path(cell.place)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(FileLock(path).acquire(timeout=0))
        except Timeout:
            return None
        state = _state(self.folder / cell.place)
        return None if state == "finished" else replace(cell, state=state)

    def _is_held(self, place: str) -> bool:
        path = self._lock_path(place)
        try:
            if path.is_file():
                with FileLock(path).acquire(timeout=0):
                    return False
        except Timeout:
            return True
        return False

    def _lock_path(self, place: str) -> Path:
        return self.folder / LOCKS / f"{place.replace('/', '-')}.lock"

    def _words(self, cell: Cell) -> list[str]:
        goes_on = ["ckpt=last"] if cell.state == "stopped" else []
        return [*cell.words, *goes_on, *place(self.folder, cell.place)]

    def _tell(self, cell: Cell, job: JobReturn) -> str:
        if job.status is not JobStatus.COMPLETED:
            # Whether an ablation fits the router is known only once the model is built.
            if cell.ablation and isinstance(job._return_value, TooFewExperts):
                return f"left out: {first_line(job._return_value)}"
            self.failed[cell.place] = first_line(job._return_value)
            return f"failed: {self.failed[cell.place]}"
        result = read_result(self.folder / cell.place)
        value = result["best_value"]
        return str(result["status"]) if value is None else f"{result['monitor']} {value:.4f}"


def grid_settings(values: Mapping[str, Any]) -> GridSettings:
    """Validate the settings of a grid.

    Raises:
        SettingError: a setting is unknown or has a wrong type or value.
    """
    return validated(GRID_SETTINGS, values, "grid")


def _state(folder: Path) -> RunState:
    try:
        finished = read_result(folder)["status"] == "completed"
    except ResultError:
        finished = False
    if finished:
        return "finished"
    return "stopped" if (folder / LAST).is_file() else "new"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
