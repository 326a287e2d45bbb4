"""What a search is going to do, and whether it can, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.distributions import distribution_to_json

from mmrec.config import ConfigError
from mmrec.results import flat, is_free
from mmrec.sweep.objective import directions, objectives
from mmrec.sweep.settings import Direction, Settings
from mmrec.sweep.space import Space, as_word, contains, parse


@dataclass(frozen=True)
class Plan:
    """A search that can be made.

    Attributes:
        space: what varies, and what does not.
        objectives: names.
        directions: of the objectives.
        defaults: the model's own settings, as far as they lie in the space.
        identity: what all trials share, flat.
        config: of the multirun.
        loader: composes a run's configuration.
        composed: what it made so far.
    """

    space: Space
    objectives: list[str]
    directions: list[Direction]
    defaults: dict[str, Any]
    identity: dict[str, Any]
    config: DictConfig
    loader: ConfigLoader
    composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)

    def words(self, params: Mapping[str, Any], seed: int | None) -> list[str]:
        """The words that run a trial."""
        words = self.space.words(params)
        return words if seed is None else [*words, f"seed={seed}"]

    def compose(self, words: Sequence[str]) -> DictConfig:
        """The configuration of a run; made once, as that takes a while."""
        key = tuple(words)
        if key not in self.composed:
            self.composed[key] = self.loader.load_sweep_config(self.config, list(words))
        return self.composed[key]


def plan(
    settings: Settings, arguments: Sequence[str], config: DictConfig, loader: ConfigLoader
) -> Plan:
    """Read a search, and try every edge of its space on the configuration.

    Raises:
        ConfigError: says what cannot be.
        HydraException: a setting is not there.
    """
    space = parse(settings.params, arguments, loader)
    if not space.distributions:
        raise ConfigError(
            "the space of the search is empty; give sweep=<model>, or a word as "
            "'model.layers=range(1, 5)'"
        )
    if settings.seeds and ("seed" in space.distributions):
        raise ConfigError("seed is in the space and in sweep.seeds; leave it out of one")
    HydraConfig.instance().set_config(config)  # as Hydra does for a run: ${hydra:...} is read
    base = loader.load_sweep_config(config, space.fixed)
    _refuse_more_than_a_search(config, loader, arguments)
    plain = checked_run(base)
    names = objectives(settings, plain)
    _try_edges(space, config, loader)
    ways = directions(settings, names)
    return Plan(
        space,
        names,
        ways,
        _defaults(space, base),
        {
            **{f"space.{k}": distribution_to_json(d) for k, d in space.distributions.items()},
            "sweep.objective": names,
            "sweep.direction": ways,
            "sweep.seeds": settings.seeds,
            "sweep.constraints": dict(settings.constraints),
            **_identity(plain),
        },
        config,
        loader,
    )


def checked_run(config: DictConfig) -> dict[str, Any]:
    """A run's configuration, plain, if it can be one."""
    from mmrec.run import check

    with open_dict(config):
        hydra = config.pop("hydra")
    try:
        return check(config)
    finally:
        with open_dict(config):
            config.hydra = hydra


def _try_edges(space: Space, config: DictConfig, loader: ConfigLoader) -> None:
    """Each edge of each setting once, with the first ones of the others."""
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


def _refuse_more_than_a_search(
    config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]
) -> None:
    """A file in conf/sweep that sets something of a run would be lost on the run: say so."""
    fixed = parse(None, arguments, loader).fixed
    with_sweep, without = (
        flat(OmegaConf.to_container(c, resolve=False))
        for c in (config, loader.load_sweep_config(config, fixed))
    )
    for key in sorted(with_sweep.keys() | without.keys()):
        root = key.split(".")[0]
        if root not in ("hydra", "sweep") and with_sweep.get(key) != without.get(key):
            raise ConfigError(
                f"the sweep's file sets {key}, which is no setting of a search; put it under "
                "sweep.params, or into an experiment"
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
