"""Which runs there are, and which of them belong together."""

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

NAME = 200  # characters; the name of a file is hardly longer
_APART = (*FREE, "data.root")  # what runs that are compared over seeds may differ in, beside seeds


@dataclass(frozen=True, eq=False)
class Run:
    """A completed run.

    Attributes:
        folder: of the run.
        result: the content of `result.json`.
        settings: what it computes, flat; without its seed.
    """

    folder: Path
    result: dict[str, Any]
    settings: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """By name, as `test/recall@20`."""
        found: dict[str, float] = self.result["metrics"]
        return found

    @property
    def ablation(self) -> str | None:
        """Name of the ablation, without its model."""
        name = self.ablation_file
        return None if name is None else name.rpartition("/")[2]

    @property
    def ablation_file(self) -> str | None:
        """The file of conf/ablation that the run was made with, as `<model>/<name>`."""
        words = [w for w in self.result["overrides"] if w.lstrip("+").startswith("ablation=")]
        name = words[-1].partition("=")[2].strip("'\"") if words else ""
        return name if name not in ("", "null") else None

    @property
    def config_dirs(self) -> list[Path]:
        """The folders that the run was given with `--config-dir`."""
        words = read_overrides(self.folder) or []
        return [
            expand(folder) for word, folder in itertools.pairwise(words) if word == "--config-dir"
        ]


@dataclass(frozen=True, eq=False)
class Method:
    """One model with one set of settings, over its seeds.

    Attributes:
        model: name.
        ablation: name; None: the model as it is.
        runs: one a seed, by seed.
        variant: settings that tell it from others of the model, as `loss=softmax`.
        tried: how many sets of settings it was chosen from.
    """

    model: str
    ablation: str | None
    runs: tuple[Run, ...]
    variant: str = ""
    tried: int = 1

    @property
    def name(self) -> str:
        """For people."""
        return ", ".join(filter(None, (self.model, self.variant, self.ablation)))

    @property
    def slug(self) -> str:
        """For names of files."""
        return file_name(self.name)

    def values(self, metric: str) -> list[float]:
        """Of each seed; empty if the runs do not have the metric."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    def mean(self, metric: str) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values(metric))

    def deviation(self, metric: str) -> float:
        """Standard deviation over the seeds, as of a sample; 0 of a single one."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """Those that all its runs share."""
        return self.runs[0].settings


@dataclass(frozen=True)
class Protocol:
    """What runs must share to be compared.

    Attributes:
        data: name.
        split: how it was split.
        seen: what was no candidate.
        candidates: what was ranked.
        history: parts that the sequences of test queries are made of.
        fingerprint: of the data.
    """

    data: str
    split: str
    seen: str
    candidates: str
    history: str
    fingerprint: str

    @property
    def name(self) -> str:
        """For people."""
        ranked = "" if self.candidates == "all" else f"{self.candidates} candidates, "
        history = "" if self.history == "train" else f"history {self.history}, "
        return (
            f"{self.data} ({self.split}, seen {self.seen}, {ranked}{history}{self.fingerprint[:8]})"
        )

    @property
    def slug(self) -> str:
        """For names of files."""
        return file_name(self.name.replace("_", "-"))


@dataclass(frozen=True, eq=False)
class Collection:
    """What was found.

    Attributes:
        runs: completed ones.
        left_out: folder and reason of every other.
    """

    runs: list[Run]
    left_out: dict[Path, str]


def collect(patterns: str | Sequence[str]) -> Collection:
    """Read the run folders below some folders.

    Args:
        patterns: folders, or patterns of them as `outputs/**`.

    Raises:
        SettingError: there is no completed run.
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
            problem="there is no completed run" + (f" ({found})" if found else ""),
            hint=None if found else "give folders of runs, as runs='outputs/**'",
        )
    return Collection(runs, left_out)


def by_protocol(runs: Iterable[Run]) -> dict[Protocol, list[Run]]:
    """Runs that can be compared with each other, by what they share."""
    found: defaultdict[Protocol, list[Run]] = defaultdict(list)
    for run in runs:
        # Older results do not say.
        card = {"candidates": "all", "history": "train", **run.result["data_card"]}
        key = ("name", "split", "seen", "candidates", "history", "fingerprint")
        found[Protocol(*(card[k] for k in key))].append(run)
    return dict(sorted(found.items(), key=lambda pair: pair[0].name))


def methods(runs: Iterable[Run], by: Sequence[str] = ()) -> list[Method]:
    """Runs that differ by their seed only, together.

    Args:
        runs: of one protocol.
        by: settings, as `model.loss`, that make variants of a model; one that lacks them has none.
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
    """For each model, variant and ablation the settings that validation likes best.

    Those with the most seeds come first: what a search tried once is what they were chosen from.

    Args:
        candidates: of one protocol.
        metric: without its split, as `recall@20`.
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
    """The folders that hold one of some files.

    Upstream runs are left out, unless a pattern names their folder.

    Raises:
        SettingError: a folder is not there.
    """
    found: set[Path] = set()
    for pattern in _listed(patterns):
        path = expand(pattern)
        named = UPSTREAM in path.parts
        if path.exists():  # also a folder whose name looks like a pattern
            path = (path if path.is_dir() else path.parent) / "**"
        elif not glob.has_magic(pattern):
            raise SettingError(setting="runs", value=pattern, problem="there is no such folder")
        top = next(parent for parent in path.parents if parent.exists())  # [ ] in its name are text
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
        raise ResultError("no result: it is running, or was killed")
    result = read_result(folder)
    needed = [CONFIG, *([PER_USER] if result["status"] == "completed" else [])]
    for name in needed:
        if not (folder / name).is_file():
            raise ResultError(f"there is no {name}")
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
            raise ResultError(f"{RESULT}: {one_line(name, 80)!r} is not a name")
    return run


def _status(result: Mapping[str, Any]) -> str:
    error = f": {result['error']}" if "error" in result else ""
    return f"{result['status']}{error}"


def _newest(runs: Iterable[Run], left_out: dict[Path, str]) -> Iterator[Run]:
    """Of runs with the same settings, seed and data, the newest."""
    groups: defaultdict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        fingerprint = run.result["data_card"]["fingerprint"]
        groups[_method_key(run), _seed(run), fingerprint].append(run)
    for group in groups.values():
        *older, newest = sorted(group, key=lambda run: (run.folder / RESULT).stat().st_mtime)
        left_out.update((run.folder, f"the same run as {newest.folder}, older") for run in older)
        yield newest


def _method_key(run: Run) -> str:
    """The same for runs that differ by their seed only, or by what changes no number."""
    return repr([run.result["model"], run.ablation, sorted(run.settings.items())])


def _seed(run: Run) -> int:
    seed: int = run.result["seed"]
    return seed
