"""Objectives of a search: validation metrics and costs, never test metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmrec.config.errors import SettingError
from mmrec.config.schema import check_monitor
from mmrec.search.settings import Cost, Direction, Settings

COSTS = ("seconds", "peak_rss_mib")


def objectives(settings: Settings, config: Mapping[str, Any]) -> list[str]:
    """Return the names of the objectives.

    Args:
        settings: settings of the search.
        config: configuration of a run as plain values.

    Raises:
        SettingError: an objective is neither a validation metric nor a cost.
    """
    from mmrec.evaluation import ACCURACY

    names = settings.objective
    names = [config["monitor"]] if names is None else [names] if isinstance(names, str) else names
    for name in names:
        if name not in COSTS:
            check_monitor(name, config["evaluation"]["cutoffs"], ACCURACY, "sweep.objective")
    if len(set(names)) < len(names):
        raise SettingError(
            setting="sweep.objective",
            value=names,
            problem="duplicate objective",
            hint="name each objective once",
        )
    if len(names) > 1 and prunes(settings.pruner):
        raise SettingError(
            setting="sweep.objective",
            value=names,
            problem="a search with several objectives cannot prune",
            hint="set sweep/pruner=none",
        )
    return names


def directions(settings: Settings, names: Sequence[str]) -> list[Direction]:
    """Return the direction of each objective, `maximize` or `minimize`.

    Raises:
        SettingError: the number of directions differs from the number of objectives.
    """
    given = settings.direction
    if given is None:
        return ["minimize" if name in COSTS else "maximize" for name in names]
    given = [given] if isinstance(given, str) else given
    if len(given) != len(names):
        raise SettingError(
            setting="sweep.direction",
            value=given,
            problem=f"number of directions is {len(given)}",
            expected=f"{len(names)}, one per objective",
        )
    return list(given)


def mean_values(outcomes: Sequence[Mapping[str, Any]], names: Iterable[str]) -> list[float]:
    """Return the mean of each objective over the runs of a trial.

    Raises:
        ValueError: the value of a run is missing or not finite.
    """
    values = []
    for name in names:
        found = [_value(outcome, name) for outcome in outcomes]
        if any(value is None or not math.isfinite(value) for value in found):
            raise ValueError(f"{name} is {found[0] if len(found) == 1 else found}")
        values.append(math.fsum(v for v in found if v is not None) / len(found))
    return values


def excesses(
    outcomes: Sequence[Mapping[str, Any]], bounds: Mapping[Cost, float | None]
) -> dict[str, float]:
    """Return how much the largest cost of a trial's runs exceeds each bound (negative: below)."""
    return {
        name: max(o[name] for o in outcomes) - bound
        for name, bound in bounds.items()
        if bound is not None
    }


def prunes(pruner: Mapping[str, Any] | None) -> bool:
    """Return whether a pruner may stop runs."""
    return pruner is not None and not str(pruner.get("_target_")).endswith(".NopPruner")


def _value(outcome: Mapping[str, Any], name: str) -> float | None:
    value: float | None = outcome[name] if name in COSTS else outcome["metrics"].get(name)
    return value
