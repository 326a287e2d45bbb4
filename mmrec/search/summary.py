"""Log lines, tables and files about the results of a search."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mmrec.config.bars import duration
from mmrec.config.paths import replace_file
from mmrec.config.schema import conf_dir
from mmrec.search.jobs import aligned
from mmrec.search.plan import Plan
from mmrec.search.study import COPY_OF, ERROR, RETRIED, SURPLUS, finished
from mmrec.training.processes import config_dirs
from mmrec.training.provenance import VOLATILE

log = logging.getLogger(__name__)

RESULTS = "optimization_results.yaml"
LISTED = 20  # largest number of trials in the table at the end of a search
ALWAYS = ("model", "data")
NOT_IN_EXPERIMENTS = (
    "experiment",
    "ablation",
    "sweep",
    "grid",
)  # replaced by the settings they contain


def ranked(study: Study) -> list[FrozenTrial]:
    """Return completed trials that satisfy the constraints, best first.

    For several objectives, these are the trials on the Pareto front. Trials that copy an earlier
    trial are left out.
    """
    if len(study.directions) > 1:
        found = study.best_trials
    else:
        states = (TrialState.COMPLETE,)
        found = [t for t in study.get_trials(deepcopy=False, states=states) if feasible(t)]
        falls = study.direction is StudyDirection.MINIMIZE
        found.sort(key=lambda t: t.values[0] if falls else -t.values[0])
    return [trial for trial in found if COPY_OF not in trial.user_attrs]


def feasible(trial: FrozenTrial) -> bool:
    """Return whether a trial satisfies `sweep.constraints`."""
    return all(excess <= 0 for excess in trial.constraints.values())


def outcome(trial: FrozenTrial) -> str:
    """Return a readable status of a trial."""
    match trial.state:
        case TrialState.COMPLETE if COPY_OF in trial.user_attrs:
            return "copied"
        case TrialState.FAIL if RETRIED in trial.user_attrs:
            return "interrupted, repeated"
        case TrialState.FAIL if SURPLUS in trial.user_attrs:
            return "not needed"
        case TrialState.FAIL:
            return "failed"
    return trial.state.name.lower()


def said(values: Sequence[float], names: Sequence[str]) -> str:
    """Format values, for example `val/recall@20 0.0951, seconds 12.3`."""
    return ", ".join(
        f"{name} {value:.4f}" if name.startswith("val/") else f"{name} {value:.1f}"
        for name, value in zip(names, values, strict=True)
    )


def line(
    trial: FrozenTrial, study: Study, objectives: Sequence[str], total: int, left: float
) -> str:
    """Format a finished trial: progress, value, best value so far and remaining time."""
    match trial.state:
        case TrialState.COMPLETE:
            what = said(trial.values, objectives)
            if COPY_OF in trial.user_attrs:
                what += f" (copied from trial {trial.user_attrs[COPY_OF]})"
            if not feasible(trial):
                what += " (violates constraints)"
        case TrialState.PRUNED:
            what = f"pruned after epoch {trial.last_step}"
        case _:
            what = f"failed: {trial.user_attrs.get(ERROR)}"
    parts = [f"trial {trial.number}, {finished(study)} of {total}: {what}"]
    best = ranked(study)
    if best and len(objectives) == 1:
        parts.append(f"best {said(best[0].values, objectives)} (trial {best[0].number})")
    elif best:
        parts.append(f"{len(best)} trials on the Pareto front")
    return "; ".join([*parts, f"{duration(left)} left"])


def listed(failed: Sequence[FrozenTrial]) -> str:
    """List failed trials with their errors."""
    return "; ".join(f"trial {t.number}: {t.user_attrs.get(ERROR)}" for t in failed)


def trial_table(study: Study, plan: Plan, folder: Path) -> str:
    """Tabulate the `LISTED` best trials, without test metrics.

    Args:
        study: the study.
        plan: plan of the search.
        folder: folder of the multirun.
    """
    best = ranked(study)
    placed = {trial.number for trial in best}
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    others = [t for t in study.get_trials(deepcopy=False, states=states) if t.number not in placed]
    trials = [*best, *others]
    rows = [
        [
            f"{trial.number}",
            " ".join(f"{name}={_short(value)}" for name, value in trial.params.items()),
            outcome(trial),
            *([f"{v:.4f}" for v in trial.values] if trial.values else ["-"] * len(plan.objectives)),
            f"{math.fsum(trial.user_attrs.get('seconds', ())):.1f}",
            f"{trial.number}" if (folder / f"{trial.number}").is_dir() else "-",
        ]
        for trial in trials[:LISTED]
    ]
    head = ["trial", "settings", "status", *plan.objectives, "seconds", "folder"]
    more = len(trials) - len(rows)
    lines = [
        f"{len(trials)} trials in {folder}, best first:",
        aligned(head, rows, right=(0, *range(3, 4 + len(plan.objectives)))),
        *([f"and {more} more"] if more else []),
    ]
    return "\n".join(lines)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def write_results(folder: Path, study: Study, best: Sequence[FrozenTrial]) -> None:
    """Write `optimization_results.yaml` in the format of Hydra's official Optuna plugin."""
    content: dict[str, Any] = {"name": "optuna"}
    if len(study.directions) > 1:
        content["solutions"] = [{"params": t.params, "values": t.values} for t in best]
    else:
        content |= {"best_params": best[0].params, "best_value": best[0].value}
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / RESULTS) as part:
        OmegaConf.save(OmegaConf.create(content), part)


def write_top(folder: Path, name: str, top: Sequence[FrozenTrial], plan: Plan) -> None:
    """Write the best trials as experiments, in `experiment/<study>-best.yaml`, `-2.yaml` etc."""
    seeds = plan.identity["sweep.seeds"]
    for place, trial in enumerate(top, 1):
        experiment = f"{name}-best" if place == 1 else f"{name}-{place}"
        value = said(trial.values, plan.objectives)
        mean = f", mean of seeds {seeds}" if seeds else ""
        write_experiment(
            folder / "experiment" / f"{experiment}.yaml",
            f"Trial {trial.number} of {name}: {value}{mean}",
            plan.words(trial.params, None),
            trial.params,
            plan.compose,
        )
        log.info("%s: %s; %s", experiment, value, trial.params)
    if top:
        words = [*config_dirs(), "--config-dir", str(folder), f"experiment={name}-best"]
        log.info("run the best trial: python -m mmrec.run %s", shlex.join(words))


def write_experiment(
    path: Path,
    comment: str,
    words: Sequence[str],
    params: Iterable[str],
    compose: Callable[[Sequence[str]], DictConfig],
) -> None:
    """Write an experiment that reproduces the configuration of a trial.

    The file contains the model, the data, all other groups with a non-default option, the searched
    settings, and all other settings that differ from their defaults.

    Args:
        path: path of the file.
        comment: first line of the file.
        words: overrides of the trial.
        params: names of the searched settings.
        compose: composes a configuration from overrides.
    """
    trial = compose(words)
    chosen, usual = trial.hydra.runtime.choices, compose([]).hydra.runtime.choices
    groups = {
        group: choice
        for group, choice in chosen.items()
        if (choice != usual.get(group) or group in ALWAYS)
        and group.split("/")[0] not in ("hydra", *NOT_IN_EXPERIMENTS)
        and (conf_dir() / group).is_dir()
    }
    base = compose([f"{group}={choice}" for group, choice in groups.items()])
    content = OmegaConf.create(
        {
            "defaults": [{f"override /{group}": choice} for group, choice in groups.items()],
            **_difference(_plain(base), _plain(trial)),
        }
    )
    for name in {name.lstrip("+") for name in params} - set(trial.hydra.runtime.choices):
        OmegaConf.update(content, name, OmegaConf.select(trial, name), force_add=True)
    lines = ["# @package _global_", f"# {comment}"]
    if gone := " ".join(f"~{key}" for key in _gone(_plain(base), _plain(trial))):
        lines.append(f"# Files cannot remove settings: add {gone} on the command line")
        log.warning("%s cannot remove settings; add %s on the command line", path.name, gone)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as part:
        part.write_text("\n".join([*lines, OmegaConf.to_yaml(content)]))


def _plain(config: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=False)
    assert isinstance(container, dict)
    return {
        str(k): v for k, v in container.items() if k not in (*VOLATILE, "hydra", "sweep", "grid")
    }


def _gone(base: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the names of settings that `other` lacks, outermost level only."""
    found = []
    for key, value in base.items():
        if key not in other:
            found.append(f"{prefix}{key}")
        elif isinstance(value, Mapping) and isinstance(other[key], Mapping):
            found += _gone(value, other[key], f"{prefix}{key}.")
    return found


def _difference(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that turn `base` into `other`."""
    found: dict[str, Any] = {}
    for key, value in other.items():
        if key in base and base[key] == value:
            continue
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            found[key] = _difference(base[key], value)
        else:
            found[key] = value
    return found
