"""Samplers and pruners of a search."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import optuna
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from mmrec.config.errors import SettingError
from mmrec.search.space import Space


class GridSampler(optuna.samplers.GridSampler):
    """Optuna's grid sampler for a loop that counts its trials itself."""

    def after_trial(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; the base class would stop `Study.optimize`, which is not used here."""


class ByNumber(BaseSampler):
    """A sampler whose random numbers for a trial depend only on its seed and the trial's number.

    A resumed study therefore draws the same random numbers as an uninterrupted one, and workers
    that ask at the same time draw different ones.

    Args:
        config: settings of the sampler, see `build_sampler`.
        space: search space.

    Raises:
        SettingError: the sampler does not exist, or its settings are invalid.
    """

    def __init__(self, config: Mapping[str, Any] | None, space: Space) -> None:
        self.config, self.space = config, space
        self.inner = build_sampler(config, space, 0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Build the sampler of the trial; Optuna calls this method first."""
        self.inner = build_sampler(self.config, self.space, trial.number)
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See `optuna.samplers.BaseSampler`."""
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `optuna.samplers.BaseSampler`."""
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, distribution: BaseDistribution
    ) -> Any:
        """See `optuna.samplers.BaseSampler`."""
        return self.inner.sample_independent(study, trial, param_name, distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self.inner.after_trial(study, trial, state, values)


def build_sampler(config: Mapping[str, Any] | None, space: Space, number: int) -> BaseSampler:
    """Build the sampler of one trial.

    Args:
        config: `_target_` and settings of the sampler; None: TPE with seed 0. The search space is
            passed to samplers with a parameter `search_space`.
        space: search space.
        number: number of the trial.

    Raises:
        SettingError: the sampler does not exist, or its settings are invalid.
    """
    settings = dict(config or {"_target_": "optuna.samplers.TPESampler", "seed": 0})
    if str(settings.get("_target_")).endswith(".CmaEsSampler") and not find_spec("cmaes"):
        raise SettingError(
            setting="sweep/sampler",
            value="cmaes",
            problem="the package cmaes is not installed",
            hint="pip install 'mmrec[cmaes]'",
        )
    try:
        if "search_space" in inspect.signature(get_class(settings["_target_"])).parameters:
            settings["search_space"] = space.grid()  # the same order for all trials
        elif settings.get("seed") is not None:
            state = np.random.SeedSequence([settings["seed"], number]).generate_state(1)
            settings["seed"] = int(state[0])
        sampler: BaseSampler = _instantiate(settings)
    except SettingError:
        raise
    except (InstantiationException, ImportError, TypeError, ValueError, KeyError) as error:
        raise SettingError(setting="sweep.sampler", problem=_reason(error)) from error
    return sampler


def build_pruner(config: Mapping[str, Any] | None) -> BasePruner:
    """Build the pruner of a study; `NopPruner` without settings.

    Raises:
        SettingError: the pruner does not exist, or its settings are invalid.
    """
    try:
        pruner: BasePruner = _instantiate(config or {"_target_": "optuna.pruners.NopPruner"})
    except (InstantiationException, ImportError, TypeError, ValueError) as error:
        raise SettingError(setting="sweep.pruner", problem=_reason(error)) from error
    return pruner


def _instantiate(config: Mapping[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return instantiate(dict(config), _convert_="all")


def _reason(error: BaseException) -> str:
    while isinstance(error, InstantiationException) and error.__cause__:
        error = error.__cause__
    if isinstance(error, ImportError):
        return f"a required package is not installed: {' '.join(str(error).split())}"
    return " ".join(str(error).split())
