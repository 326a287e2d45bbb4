"""Find run folders, and group their runs by protocol and by method."""

from __future__ import annotations

import glob
import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from mmrec.config.bars import steps
from mmrec.config.errors import SettingError
from mmrec.config.paths import expand
from mmrec.config.text import file_name, first_line, one_line
from mmrec.training.provenance import FREE, flat, is_free
from mmrec.training.results import (
    CONFIG,
    OVERRIDES,
    PER_USER,
    RESULT,
    ResultError,
    read_config,
    read_overrides,
    read_result,
)
from mmrec.training.upstream import GROUP as UPSTREAM

NAME = 200  # largest number of characters of a name; file systems allow about as many
_APART = (*FREE, "data.root")  # settings that may differ between the seeds of a method


@dataclass(frozen=True, eq=False)
class Run:
    """A completed run.

    Attributes:
        folder: the run folder.
        result: content of `result.json`.
        settings: settings that affect the result, by dotted name, without seeds.
    """

    folder: Path
    result: dict[str, Any]
    settings: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics by name, for example `test/recall@20`."""
        found: dict[str, float] = self.result["metrics"]
        return found

    @property
    def ablation(self) -> str | None:
        """Name of the ablation without its model; None for an unchanged model."""
        name = self.ablation_file
        return None if name is None else name.rpartition("/")[2]

    @property
    def ablation_file(self) -> str | None:
        """File of conf/ablation that the run used, as `<model>/<name>`, or None."""
        words = [w for w in self.result["overrides"] if w.lstrip("+").startswith("ablation=")]
        name = words[-1].partition("=")[2].strip("'\"") if words else ""
        return name if name not in ("", "null") else None

    @property
    def config_dirs(self) -> list[Path]:
        """Folders that the run got with `--config-dir`."""
        words = read_overrides(self.folder) or []
        return [
            expand(folder) for word, folder in itertools.pairwise(words) if word == "--config-dir"
        ]


@dataclass(frozen=True, eq=False)
class Method:
    """One model with one set of settings, over its seeds.

    Attributes:
        model: name of the model.
        ablation: name of the ablation; None for the unchanged model.
        runs: one run per seed, sorted by seed.
        variant: settings that distinguish variants of the model, for example `loss=softmax`.
        tried: number of settings that this one was selected from.
    """

    model: str
    ablation: str | None
    runs: tuple[Run, ...]
    variant: str = ""
    tried: int = 1

    @property
    def name(self) -> str:
        """Display name."""
        return ", ".join(filter(None, (self.model, self.variant, self.ablation)))

    @property
    def slug(self) -> str:
        """Name for use in file names."""
        return file_name(self.name)

    def values(self, metric: str) -> list[float]:
        """Return the value of each seed; an empty list if the runs lack the metric."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    def mean(self, metric: str) -> float:
        """Return the mean over seeds."""
        return statistics.fmean(self.values(metric))

    def deviation(self, metric: str) -> float:
        """Return the sample standard deviation over seeds; 0 for a single seed."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that all runs share."""
        return self.runs[0].settings


@dataclass(frozen=True)
class Protocol:
    """Evaluation protocol. Only runs with the same protocol are compared.

    Attributes:
        data: name of the data set.
        split: description of the split.
        seen: which seen items were masked.
        candidates: which items were ranked.
        history: parts of the data that form the sequences of test queries.
        fingerprint: hash of the data.
    """

    data: str
    split: str
    seen: str
    candidates: str
    history: str
    fingerprint: str

    @property
    def name(self) -> str:
        """Display name."""
        ranked = "" if self.candidates == "all" else f"{self.candidates} candidates, "
        history = "" if self.history == "train" else f"history {self.history}, "
        return (
            f"{self.data} ({self.split}, seen {self.seen}, {ranked}{history}{self.fingerprint[:8]})"
        )

    @property
    def slug(self) -> str:
        """Name for use in file names."""
        return file_name(self.name.replace("_", "-"))


@dataclass(frozen=True, eq=False)
class Collection:
    """Runs found below some folders.

    Attributes:
        runs: completed runs.
        left_out: reason by folder, for all other runs.
    """

    runs: list[Run]
    left_out: dict[Path, str]


def collect(patterns: str | Sequence[str]) -> Collection:
    """Read the run folders below some folders.

    Args:
        patterns: folders, or patterns such as `outputs/**`.

    Raises:
        SettingError: no completed run was found.
    """
    runs: list[Run] = []
    left_out: dict[Path, str] = {}
    folders = holding(patterns, (RESULT, OVERRIDES))
    for folder in steps(folders, "reading runs", "run"):
        try:
            run = _read(folder)
        except ResultError as error:
            left_out[folder] = one_line(error)
            continue
        if "partial" in run.result:
            left_out[folder] = f"partial: {' '.join(run.result['partial'])}"
        elif run.result["status"] == "completed":
            runs.append(run)
        else:
            left_out[folder] = one_line(_status(run.result))
    runs = list(_newest(runs, left_out))
    if not runs:
        found = "; ".join(f"{folder}: {reason}" for folder, reason in list(left_out.items())[:3])
        raise SettingError(
            setting="runs",
            value=",".join(_listed(patterns)),
            problem="no completed run was found" + (f" ({found})" if found else ""),
            hint=None if found else "give the folders of runs, for example runs='outputs/**'",
        )
    return Collection(runs, left_out)


def by_protocol(runs: Iterable[Run]) -> dict[Protocol, list[Run]]:
    """Group runs by protocol."""
    found: defaultdict[Protocol, list[Run]] = defaultdict(list)
    for run in runs:
        # Results of earlier versions lack these fields.
        card = {"candidates": "all", "history": "train", **run.result["data_card"]}
        key = ("name", "split", "seen", "candidates", "history", "fingerprint")
        found[Protocol(*(card[k] for k in key))].append(run)
    return dict(sorted(found.items(), key=lambda pair: pair[0].name))


def methods(runs: Iterable[Run], by: Sequence[str] = ()) -> list[Method]:
    """Group runs that differ only by seed.

    Args:
        runs: runs of one protocol.
        by: settings that distinguish variants of a model, for example `model.loss`. Models without
            these settings have no variants.
    """
    found: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[_method_key(run)].append(run)
    return [
        Method(
            group[0].result["model"],
            group[0].ablation,
            tuple(sorted(group, key=_seed)),
            _variant(group[0].settings, by),
        )
        for group in found.values()
    ]


def _variant(settings: Mapping[str, Any], by: Sequence[str]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={settings[key]}" for key in by if key in settings)


def chosen(candidates: Iterable[Method], metric: str) -> list[Method]:
    """Select the settings of each model, variant and ablation by the mean validation metric.

    Only settings with the largest number of seeds are considered, because a search runs its
    candidates with fewer seeds than the final settings.

    Args:
        candidates: methods of one protocol.
        metric: name without split, for example `recall@20`.
    """
    groups: defaultdict[str, list[Method]] = defaultdict(list)
    for method in candidates:
        if method.values(f"val/{metric}"):
            groups[method.name].append(method)
    best = []
    for group in groups.values():
        top = max(group, key=lambda m: (len(m.runs), m.mean(f"val/{metric}")))
        best.append(replace(top, tried=len(group)))
    return best


def holding(patterns: str | Sequence[str], names: Sequence[str]) -> list[Path]:
    """Return the folders that contain at least one of some files.

    Upstream runs are left out unless a pattern names their folder.

    Args:
        patterns: folders, or patterns such as `outputs/**`.
        names: names of the files.

    Raises:
        SettingError: a folder does not exist.
    """
    found: set[Path] = set()
    for pattern in _listed(patterns):
        path = expand(pattern)
        named = UPSTREAM in path.parts
        if path.exists():  # also a folder whose name looks like a pattern
            path = (path if path.is_dir() else path.parent) / "**"
        elif not glob.has_magic(pattern):
            raise SettingError(setting="runs", value=pattern, problem="no such folder")
        top = next(
            parent for parent in path.parents if parent.exists()
        )  # brackets in its name are literal
        pattern = str(Path(glob.escape(str(top)), path.relative_to(top)))
        for hit in glob.iglob(pattern, recursive=True):  # noqa: PTH207, may be absolute
            path = Path(hit)
            folder = path.parent if path.name in names else path
            hidden = folder.parent.name == UPSTREAM and not named
            if not hidden and any((folder / name).is_file() for name in names):
                found.add(folder)
    return sorted(found)


def _listed(patterns: str | Sequence[str]) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns


def _read(folder: Path) -> Run:
    if not (folder / RESULT).is_file():
        raise ResultError("no result: the run is still running or was killed")
    result = read_result(folder)
    needed = [CONFIG, *([PER_USER] if result["status"] == "completed" else [])]
    for name in needed:
        if not (folder / name).is_file():
            raise ResultError(f"{name} is missing")
    try:
        if PER_USER in needed:
            pl.scan_parquet(folder / PER_USER, glob=False).collect_schema()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ResultError(f"{PER_USER} cannot be read ({first_line(error)})") from None
    settings = {
        key: value
        for key, value in flat(read_config(folder)).items()
        if not is_free(key, _APART) and key.split(".")[-1] != "seed"
    }
    run = Run(folder, result, settings)
    card = result["data_card"]
    for name in (result["model"], run.ablation or "", card["name"], card["split"]):
        if len(name) > NAME or not name.isprintable():
            raise ResultError(f"{RESULT}: {one_line(name, 80)!r} is not a valid name")
    return run


def _status(result: Mapping[str, Any]) -> str:
    error = f": {result['error']}" if "error" in result else ""
    return f"{result['status']}{error}"


def _newest(runs: Iterable[Run], left_out: dict[Path, str]) -> Iterator[Run]:
    """Yield the newest of the runs with the same settings, seed and data."""
    groups: defaultdict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        fingerprint = run.result["data_card"]["fingerprint"]
        groups[_method_key(run), _seed(run), fingerprint].append(run)
    for group in groups.values():
        *older, newest = sorted(group, key=lambda run: (run.folder / RESULT).stat().st_mtime)
        left_out.update(
            (run.folder, f"same settings, seed and data as the newer {newest.folder}")
            for run in older
        )
        yield newest


def _method_key(run: Run) -> str:
    """Return a key that is equal for runs that differ only by seed or in volatile settings."""
    return repr([run.result["model"], run.ablation, sorted(run.settings.items())])


def _seed(run: Run) -> int:
    seed: int = run.result["seed"]
    return seed
