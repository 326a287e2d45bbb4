"""The sampler of a trial."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import optuna
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from mmrec.config import ConfigError
from mmrec.sweep.space import Space


class GridSampler(optuna.samplers.GridSampler):
    """Optuna's, for a loop that counts itself: its own end is no error."""

    def after_trial(self, *args: Any, **kwargs: Any) -> None:
        """Nothing; the base class would stop `Study.optimize`, which is not used here."""


def build(config: Mapping[str, Any] | None, space: Space, number: int) -> BaseSampler:
    """The sampler of one trial. Its draws depend on its seed and the trial's number alone.

    So a study that is continued draws what it would have drawn without the break.

    Args:
        config: `_target_` and settings; a `search_space` is given to a sampler that wants one.
            None: TPE, with seed 0.
        space: of the search.
        number: how many trials the study has.

    Raises:
        ConfigError: there is no such sampler, or it cannot be made.
    """
    settings = dict(config or {"_target_": "optuna.samplers.TPESampler", "seed": 0})
    if str(settings.get("_target_")).endswith(".CmaEsSampler") and not find_spec("cmaes"):
        raise ConfigError("sweep/sampler=cmaes needs a package: pip install 'mmrec[cmaes]'")
    try:
        if "search_space" in inspect.signature(get_class(settings["_target_"])).parameters:
            settings["search_space"] = space.grid()  # in one order for all trials
        elif settings.get("seed") is not None:
            state = np.random.SeedSequence([settings["seed"], number]).generate_state(1)
            settings["seed"] = int(state[0])
        sampler: BaseSampler = _instantiate(settings)
    except ConfigError:
        raise
    except (InstantiationException, ImportError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"sweep.sampler: {_reason(error)}") from error
    return sampler


def build_pruner(config: Mapping[str, Any] | None) -> BasePruner:
    """The pruner of a study.

    Raises:
        ConfigError: there is no such pruner, or it cannot be made.
    """
    try:
        pruner: BasePruner = _instantiate(config or {"_target_": "optuna.pruners.NopPruner"})
    except (InstantiationException, ImportError, TypeError, ValueError) as error:
        raise ConfigError(f"sweep.pruner: {_reason(error)}") from error
    return pruner


def _instantiate(config: Mapping[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return instantiate(dict(config), _convert_="all")


def _reason(error: BaseException) -> str:
    while isinstance(error, InstantiationException) and error.__cause__:
        error = error.__cause__
    if isinstance(error, ImportError):
        return f"needs a package that is not installed: {' '.join(str(error).split())}"
    return " ".join(str(error).split())
