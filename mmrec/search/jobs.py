"""The table at the end of a multirun, with one row per job.

Hydra imports this module at every start, so it is kept light.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from mmrec.config.text import first_line
from mmrec.training.results import RESULT, ResultError, read_result

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)
AT_END = ExitStack()  # callbacks at the end of the command, also after an error


@dataclass(frozen=True)
class Job:
    """One job of a multirun.

    Attributes:
        words: overrides of the job.
        folder: run folder; None if there is none.
        status: status to show if the folder has no result.
    """

    words: tuple[str, ...]
    folder: Path | None
    status: str


class MultirunTable(Callback):
    """Log the table of a plain multirun; searches and grids log their own tables."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record the jobs; the table is logged when the command ends."""
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        sweeper = config.hydra.sweeper
        if not sweeper._target_.endswith(BasicSweeper.__name__):
            return
        words = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
        overrides = OverridesParser.create().parse_overrides([*words, *config.hydra.overrides.task])
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        folder = Path(config.hydra.sweep.dir).absolute()
        earlier = {path.parent for path in folder.rglob(RESULT)}
        AT_END.callback(_log_jobs, [tuple(job) for job in jobs], folder, earlier)


def _log_jobs(asked: Sequence[tuple[str, ...]], folder: Path, earlier: set[Path]) -> None:
    """Log the table of the requested jobs, with the results added to a folder since the start."""
    found = {}
    for path in sorted(folder.rglob(RESULT)):
        if path.parent not in earlier:
            try:
                found[tuple(read_result(path.parent)["overrides"])] = path.parent
            except ResultError as error:
                log.warning("%s", first_line(error))
    if not found:  # each job has logged its own error
        return
    jobs = [Job(words, found.get(words), "no result") for words in asked]
    log.info("%s", job_table(jobs, folder))


def job_table(jobs: Sequence[Job], folder: Path) -> str:
    """Tabulate jobs: the overrides that differ, status, validation, test, seconds and folder.

    Args:
        jobs: one per row.
        folder: folder of the multirun.
    """
    results = [_result(job) for job in jobs]
    monitors = sorted({result["monitor"] for result in results if result})
    one = monitors[0] if len(monitors) == 1 else None
    rows = [
        [
            " ".join(_own(job, jobs)) or "-",
            *(_measured(result, named=one is None) if result else (job.status, "-", "-", "-")),
            "-" if job.folder is None else _below(job.folder, folder),
        ]
        for job, result in zip(jobs, results, strict=True)
    ]
    head = ["job", "status", one or "validation", _of_test(one or "test"), "seconds", "folder"]
    count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
    return f"{count} in {folder}:\n{aligned(head, rows, right=(2, 3, 4))}"


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Lay out a table as plain text.

    Args:
        head: names of the columns.
        rows: cells of each row.
        right: indices of right-aligned columns.
    """
    lines = [head, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    to_right = set(right)
    return "\n".join(
        "  ".join(
            f"{cell:>{width}}" if place in to_right else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _own(job: Job, jobs: Sequence[Job]) -> list[str]:
    """Return the overrides of a job that not all jobs share."""
    if len(jobs) == 1:
        return [*job.words]
    shared = set.intersection(*(set(other.words) for other in jobs))
    return [word for word in job.words if word not in shared]


def _result(job: Job) -> dict[str, Any] | None:
    try:
        return None if job.folder is None else read_result(job.folder)
    except ResultError:
        return None


def _measured(result: Mapping[str, Any], *, named: bool) -> tuple[str, str, str, str]:
    """Format status, best validation value, its test value, and seconds."""
    metrics, monitor = result["metrics"], result["monitor"]
    prefixed = {name: f"{name} " if named else "" for name in (monitor, _of_test(monitor))}
    values = [
        f"{prefix}{metrics[name]:.4f}" if name in metrics else "-"
        for name, prefix in prefixed.items()
    ]
    seconds = math.fsum(result["seconds"][part] or 0.0 for part in ("setup", "fit", "test"))
    return result["status"], values[0], values[1], f"{seconds:.1f}"


def _of_test(name: str) -> str:
    return name.replace("val/", "test/", 1)


def _below(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
