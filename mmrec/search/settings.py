"""Settings of a search: those of Hydra's official Optuna plugin, and additional ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from mmrec.config.errors import SettingError

T = TypeVar("T")
Direction = Literal["minimize", "maximize"]
Cost = Literal["seconds", "peak_rss_mib"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Validated settings of a search, in `hydra.sweeper`.

    Attributes:
        params: search space by setting: `choice(...)`, `range(...)`, `interval(...)`,
            `tag(log, interval(...))`, or one value. Overrides on the command line take precedence.
        custom_search_space: dotted name of a function `(config, trial)` that suggests further
            settings, for example settings that only one choice has; None if not used.
        sampler: `_target_` and settings of an Optuna sampler; None: TPE with seed 0.
        pruner: `_target_` and settings of an Optuna pruner; None: no pruning.
        objective: a validation metric, `seconds`, `peak_rss_mib`, or a list; None: `monitor`.
        direction: one direction, or one per objective; None: metrics are maximized, costs are
            minimized.
        constraints: upper bounds for `seconds` and `peak_rss_mib` of a run; None: no bound.
        storage: an Optuna URL, or `journal:///file`; None: a SQLite file in the sweep folder.
        study_name: name of the study, also used in file names; None: name of the sweep folder.
        n_trials: total number of trials of the study, including those of earlier commands.
        timeout: seconds after which this command starts no new trial; None: no limit.
        n_jobs: number of trials per batch, which the launcher may run at the same time.
        max_failure_rate: share of `n_trials` that may fail before the search stops.
        seeds: each trial runs all seeds and gets the mean value; None: the seed of the run.
        top: number of best trials that are written as experiments.
        defaults_first: run the default settings of the model as first trial.
        trial: internal, for the runs of a search: a `ReportTarget` as JSON.
    """

    params: dict[str, Any] | None = None
    custom_search_space: str | None = None
    sampler: dict[str, Any] | None = None
    pruner: dict[str, Any] | None = None
    objective: str | Annotated[list[str], Field(min_length=1)] | None = None
    direction: Direction | list[Direction] | None = None
    constraints: dict[Cost, Annotated[float, Field(gt=0)] | None] = field(default_factory=dict)
    storage: str | None = None
    study_name: Annotated[str, Field(pattern=r"^[\w.=,-]+$")] | None = None
    n_trials: Annotated[int, Field(ge=1)] = 20
    timeout: Annotated[float, Field(gt=0)] | None = None
    n_jobs: Annotated[int, Field(ge=1)] = 1
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.25
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    top: Annotated[int, Field(ge=0)] = 3
    defaults_first: bool = True
    trial: str | None = None


def checked(values: Mapping[str, Any]) -> Settings:
    """Validate the settings of a search.

    Raises:
        SettingError: a setting is unknown or has a wrong type or value.
    """
    settings = validated(_ADAPTER, values, "sweep")
    seeds = settings.seeds or []
    if len(set(seeds)) < len(seeds):
        raise SettingError(
            setting="sweep.seeds",
            value=seeds,
            problem="duplicate seed",
            hint="name each seed once",
        )
    return settings


def validated(adapter: TypeAdapter[T], values: Mapping[str, Any], group: str) -> T:
    """Validate settings with pydantic.

    Args:
        adapter: pydantic adapter of the settings class.
        values: settings by name.
        group: configuration group of the settings, used in messages.

    Raises:
        SettingError: a setting is unknown or has a wrong type or value.
    """
    try:
        return adapter.validate_python(dict(values))
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        expected = " or ".join(dict.fromkeys(e["msg"] for e in error.errors()))
        raise SettingError(
            setting=f"{group}.{name}", value=values.get(str(name)), problem=expected
        ) from None


_ADAPTER: TypeAdapter[Settings] = TypeAdapter(Annotated[Settings, ConfigDict(extra="forbid")])
