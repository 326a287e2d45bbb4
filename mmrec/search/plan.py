"""Plan of a search, checked before anything runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.distributions import distribution_to_json
from optuna.trial import Trial

from mmrec.config.errors import SettingError
from mmrec.config.schema import conf_dir
from mmrec.config.text import first_line
from mmrec.search.objective import directions, objectives
from mmrec.search.settings import Direction, Settings
from mmrec.search.space import Space, as_word, contains, parse
from mmrec.training.build import check_config
from mmrec.training.provenance import flat, is_free

log = logging.getLogger(__name__)

Further = Callable[[DictConfig, Trial], None]


@dataclass(frozen=True)
class Plan:
    """A search whose configuration is valid.

    Attributes:
        space: search space.
        objectives: names of the objectives.
        directions: direction of each objective.
        defaults: default values of the model's settings that lie in the space.
        further: function of the user that suggests more settings in a trial; None if not set.
        identity: settings that all trials share, by dotted name.
        config: configuration of the multirun.
        loader: composes the configuration of a run.
        composed: cache of composed configurations by overrides.
    """

    space: Space
    objectives: list[str]
    directions: list[Direction]
    defaults: dict[str, Any]
    further: Further | None
    identity: dict[str, Any]
    config: DictConfig
    loader: ConfigLoader
    composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)

    def words(self, params: Mapping[str, Any], seed: int | None) -> list[str]:
        """Return the overrides of a trial."""
        words = self.space.words(params)
        return words if seed is None else [*words, f"seed={seed}"]

    def compose(self, words: Sequence[str]) -> DictConfig:
        """Compose the configuration of a run; cached, because composing is slow."""
        key = tuple(words)
        if key not in self.composed:
            self.composed[key] = self.loader.load_sweep_config(self.config, list(words))
        return self.composed[key]


def make_plan(
    settings: Settings, arguments: Sequence[str], config: DictConfig, loader: ConfigLoader
) -> Plan:
    """Read the settings of a search, and check the configuration at each edge of its space.

    Args:
        settings: settings of the search.
        arguments: overrides on the command line.
        config: configuration of the multirun.
        loader: composes the configuration of a run.

    Raises:
        SettingError: invalid configuration.
        HydraException: a setting does not exist.
    """
    space = parse(settings.params, arguments, loader)
    further = _further(settings)
    if not space.distributions and further is None:
        raise SettingError(
            setting="sweep",
            problem="the search space is empty",
            hint="give sweep=<model>, or an override such as 'model.layers=range(1, 5)'",
        )
    if settings.seeds and ("seed" in space.distributions):
        raise SettingError(
            setting="sweep.seeds",
            value=settings.seeds,
            problem="seed is also part of the search space",
            hint="remove one of the two",
        )
    HydraConfig.instance().set_config(config)  # resolves ${hydra:...}, as Hydra does for a run
    base = loader.load_sweep_config(config, space.fixed)
    fixed = parse(None, arguments, loader).fixed
    bare = base if fixed == space.fixed else loader.load_sweep_config(config, fixed)
    _refuse_more_than_a_search(config, bare)
    plain = checked_run(base)
    _refuse_other_models(settings, space, base, config)
    names = objectives(settings, plain)
    _try_edges(space, config, loader)
    ways = directions(settings, names)
    return Plan(
        space,
        names,
        ways,
        _defaults(space, base),
        further,
        {
            **{f"space.{k}": distribution_to_json(d) for k, d in space.distributions.items()},
            "sweep.custom_search_space": settings.custom_search_space,
            "sweep.objective": names,
            "sweep.direction": ways,
            "sweep.seeds": settings.seeds,
            "sweep.constraints": dict(settings.constraints),
            **_identity(plain),
        },
        config,
        loader,
    )


def _further(settings: Settings) -> Further | None:
    name = settings.custom_search_space
    if name is None:
        return None
    if str((settings.sampler or {}).get("_target_")).endswith(".GridSampler"):
        raise SettingError(
            setting="sweep.custom_search_space",
            value=name,
            problem="it is not available with sweep/sampler=grid",
            hint="choose another sweep/sampler",
        )
    try:
        found: Further = get_method(name)
    except (ImportError, ValueError) as error:
        raise SettingError(
            setting="sweep.custom_search_space", value=name, problem=first_line(error)
        ) from error
    return found


def checked_run(config: DictConfig) -> dict[str, Any]:
    """Check the configuration of a run, and return it as plain values."""
    with open_dict(config):
        hydra = config.pop("hydra")
    try:
        return check_config(config)
    finally:
        with open_dict(config):
            config.hydra = hydra


def _refuse_other_models(
    settings: Settings, space: Space, base: DictConfig, config: DictConfig
) -> None:
    """Refuse a search space that has settings which the chosen model lacks."""
    chosen = base.hydra.runtime.choices
    model, whose = chosen.get("model"), config.hydra.runtime.choices.get("sweep")
    if whose != model and (conf_dir() / "model" / f"{whose}.yaml").is_file():
        log.warning(
            "sweep=%s is the search space of model=%s, used for model=%s", whose, whose, model
        )
    for name in settings.params or {}:
        parent, _, last = name.rpartition(".")
        node = OmegaConf.select(base, parent) if parent else base
        missing = node is None or last not in node
        if name in space.distributions and name not in chosen and missing:
            raise SettingError(
                setting="sweep",
                value=whose,
                problem=f"it searches {name}, which model={model} does not have",
                hint=f"give sweep={model}, or a search space of your own",
            )


def _try_edges(space: Space, config: DictConfig, loader: ConfigLoader) -> None:
    """Check each edge of each setting once, with the first edges of the other settings."""
    edges = space.edges()
    first = {name: values[0] for name, values in edges.items()}
    base = loader.load_sweep_config(config, space.words(first))
    checked_run(base)
    for name, values in edges.items():
        for value in values[1:]:
            if isinstance(value, bool | int | float) and OmegaConf.select(base, name) is not None:
                changed = base.copy()
                OmegaConf.update(changed, name, value)
            else:
                changed = loader.load_sweep_config(config, space.words(first | {name: value}))
            checked_run(changed)


def _refuse_more_than_a_search(config: DictConfig, bare: DictConfig) -> None:
    """Refuse a file in conf/sweep that sets more than the search: its runs would not get it.

    Args:
        config: composed with the file.
        bare: composed without the file, from the same overrides on the command line.
    """
    with_sweep, without = (
        flat(OmegaConf.to_container(each, resolve=False)) for each in (config, bare)
    )
    for key in sorted(with_sweep.keys() | without.keys()):
        root = key.split(".")[0]
        if root not in ("hydra", "sweep") and with_sweep.get(key) != without.get(key):
            raise SettingError(
                setting=key,
                problem="it is set in the sweep's file, or twice on the command line",
                hint="put settings that all trials share under sweep.params or in an experiment",
            )


def _defaults(space: Space, base: DictConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, distribution in space.distributions.items():
        key = name.lstrip("+")
        choices = base.hydra.runtime.choices
        value = choices[key] if key in choices else OmegaConf.select(base, key)
        value = as_word(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
        if contains(distribution, value):
            found[name] = value
    return found


def _identity(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in flat(plain).items() if not is_free(k)}
