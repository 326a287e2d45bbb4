"""Many runs of the one command: each in a process of its own, none twice, a failed one no end."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrec.training.results import ResultError, read_result

log = logging.getLogger(__name__)
Result = dict[str, Any]
Cell = tuple[str, ...]  # overrides, in order


def run_cells(study: str, cells: Sequence[Cell], *, jobs: int = 2) -> dict[Cell, Result]:
    """Run what has not been run yet, some at a time, one thread each.

    Args:
        study: names the folder under `outputs/`.
        cells: overrides of `python -m mmrec.run`.
        jobs: processes at a time.

    Returns:
        The result of each.

    Raises:
        RuntimeError: some failed; the others are kept and not run again.
    """
    start = time.monotonic()
    results: dict[Cell, Result] = {}
    unique = list(dict.fromkeys(cells))
    with ThreadPoolExecutor(jobs) as pool:
        for done, (cell, result) in enumerate(
            zip(unique, pool.map(lambda c: _run(study, c), unique), strict=True), 1
        ):
            if result is not None:
                results[cell] = result
            log.info(
                "%s %d/%d %.0fs %s",
                study,
                done,
                len(unique),
                time.monotonic() - start,
                " ".join(cell),
            )
    failed = [cell for cell in unique if cell not in results]
    if failed:
        raise RuntimeError("\n".join(["failed:", *(" ".join(cell) for cell in failed)]))
    return results


def _run(study: str, cell: Cell) -> Result | None:
    name = hashlib.sha256("\n".join(cell).encode()).hexdigest()[:12]
    folder = Path("outputs") / study / name
    try:
        result = read_result(folder)
        dirty = str(result["git_commit"]).endswith("-dirty")  # nobody could run it again
        if result["status"] == "completed" and not dirty:
            return {**result, "run_dir": str(folder)}
    except ResultError:
        pass
    if folder.exists():
        shutil.rmtree(folder)
    command = [
        sys.executable,
        "-m",
        "mmrec.run",
        *cell,
        f"run_dir={folder}",
        "trainer.enable_progress_bar=false",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        log.error("%s\n%s", shlex.join(command), done.stderr[-2000:])
        return None
    return {**read_result(folder), "run_dir": str(folder)}


@dataclass(frozen=True)
class Searched:
    """What a search by validation has found, by name.

    Attributes:
        results: of every cell that was run.
        best: the cell that was chosen of each list.
        repeats: that cell with each seed.
    """

    results: dict[Cell, Result]
    best: dict[str, Cell]
    repeats: dict[str, list[Cell]]


def search(study: str, trials: Mapping[str, Sequence[Cell]], seeds: Sequence[int]) -> Searched:
    """Run lists of cells, choose the best of each on validation, and repeat that one.

    Args:
        study: names the folder under `outputs/`.
        trials: what is tried, by name; the last word of a cell is its seed.
        seeds: of the repetitions.
    """
    results = run_cells(study, [cell for cells in trials.values() for cell in cells])
    best = {name: best_on_validation(results, cells) for name, cells in trials.items()}
    repeats = {
        name: [(*cell[:-1], f"seed={seed}") for seed in seeds] for name, cell in best.items()
    }
    results |= run_cells(study, [cell for cells in repeats.values() for cell in cells])
    return Searched(results, best, repeats)


def settings_of(cell: Cell) -> str:
    """The words of a cell that a search chooses, for a table."""
    return ", ".join(word for word in cell if word.startswith(("model.", "optimizer.")))


def best_on_validation(results: Mapping[Cell, Result], cells: Iterable[Cell]) -> Cell:
    """The cell whose validation value is largest; test values are not looked at."""
    return max(cells, key=lambda cell: results[cell]["best_value"])


def summarize(results: Sequence[Result], metric: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds; the deviation of one run is 0."""
    return mean_and_deviation([result["metrics"][metric] for result in results])


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Of a sample; the deviation of one value is 0."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def spread(values: Sequence[float]) -> str:
    """Mean and deviation of a sample, for a table."""
    return plus_minus(*mean_and_deviation(values))


def plus_minus(mean: float, deviation: float) -> str:
    """What `summarize` gives, for a table."""
    return f"{mean:.4f} ± {deviation:.4f}"


def provenance(results: Iterable[Result], command: str) -> str:
    """What a table must say about where its figures come from."""
    results = list(results)
    commits = sorted({str(result["git_commit"]) for result in results})
    prints = sorted(
        {
            (r["data_card"]["name"], r["data_card"]["split"], r["data_card"]["fingerprint"][:16])
            for r in results
        }
    )
    seeds = sorted({result["seed"] for result in results})
    versions = next(r["versions"] for r in reversed(results) if "versions" in r)
    lines = [
        f"- command: `{command}`",
        f"- commit: {', '.join(f'`{commit}`' for commit in commits)}",
        f"- seeds: {', '.join(map(str, seeds))}; one thread a run",
        *(f"- data: `{name}`, {split}, fingerprint `{digest}`" for name, split, digest in prints),
        "- " + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return "\n".join(lines)


def save(folder: Path, results: Mapping[Cell, Result]) -> None:
    """Keep every run's overrides and metrics beside the table."""
    kept = (
        "status",
        "model",
        "seed",
        "config_hash",
        "git_commit",
        "data_card",
        "metrics",
        "monitor",
        "best_epoch",
        "epochs",
        "seconds",
        "recovery",
    )
    rows = [
        {"overrides": list(cell), **{key: result[key] for key in kept if key in result}}
        for cell, result in results.items()
    ]
    (folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n")


def recorded(folder: Path) -> dict[Cell, Result]:
    """Return the runs that `save` kept in a folder, by their overrides."""
    rows = json.loads((folder / "results.json").read_text())
    return {
        tuple(row["overrides"]): {**row, "best_value": row["metrics"][row["monitor"]]}
        for row in rows
    }


def setup_logging() -> None:
    """Progress on the terminal."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
