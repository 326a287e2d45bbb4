"""The settings of a search: the official plugin's, and ours."""

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
    """What `hydra.sweeper` holds, checked.

    Attributes:
        params: the space, a word a setting: `choice(...)`, `range(...)`, `interval(...)`,
            `tag(log, interval(...))`, or one value. Words of the command line come after these.
        custom_search_space: dotted name of a function of configuration and trial that suggests
            further settings, as those that only one choice has; None: there are none.
        sampler: `_target_` and settings of an Optuna sampler; None: TPE, seed 0.
        pruner: of an Optuna pruner; None: every run goes to its own end.
        objective: a validation metric, `seconds` or `peak_rss_mib`, or several; None: `monitor`.
        direction: one, or one an objective; None: metrics rise, seconds and memory fall.
        constraints: upper bounds on a run's `seconds` and `peak_rss_mib`; None: no bound.
        storage: an Optuna URL, or `journal:///file`; None: a SQLite file in the sweep's folder.
        study_name: also of files, so no spaces or slashes; None: the name of the sweep's folder.
        n_trials: of the study in total, however often it is continued.
        timeout: seconds after which this command begins no trial.
        n_jobs: trials in a batch, which the launcher may run at the same time.
        max_failure_rate: share of `n_trials` that may fail before the search gives up.
        seeds: each trial runs all of them and is worth their mean; None: the run's own seed.
        top: how many of the best trials are written as experiments.
        defaults_first: try the model's own settings first, as far as they lie in the space.
        trial: for the runs of a search: what to report, and where.
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
    """Settings of the right types and sizes.

    Raises:
        SettingError: names the first that is not, and says what it may be.
    """
    settings = validated(_ADAPTER, values, "sweep")
    seeds = settings.seeds or []
    if len(set(seeds)) < len(seeds):
        raise SettingError(
            setting="sweep.seeds",
            value=seeds,
            problem="a seed is there twice",
            hint="name each once",
        )
    return settings


def validated(adapter: TypeAdapter[T], values: Mapping[str, Any], group: str) -> T:
    """Settings of the right types and sizes.

    Args:
        adapter: of the settings.
        values: of the settings, by name.
        group: that the settings stand in.

    Raises:
        SettingError: names the first that is not, and says what it may be.
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
