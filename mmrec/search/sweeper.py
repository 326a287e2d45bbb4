"""Sweeper plugins for Hydra. Hydra imports this module at every start, so it is kept light."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from mmrec.config.schema import unread_search_setting
from mmrec.config.startup import import_torchmetrics

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class _Sweeper(Sweeper):
    """Common base of searches and grids.

    Args:
        settings: content of `hydra.sweeper`.
    """

    runs_need: tuple[str, ...] = ()  # Hydra overrides of every run

    hydra_context: HydraContext | None
    config: DictConfig | None
    launcher: Launcher | None

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.hydra_context = self.config = self.launcher = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins
        from omegaconf import open_dict

        # A run is composed from its own overrides and from `hydra.overrides.hydra`. Overrides that
        # start a multirun are not part of them, so that the run is the same as a single run.
        config = config.copy()
        with open_dict(config):
            config.hydra.overrides.hydra.extend(self.runs_need)
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Check the overrides, and run the search or grid."""
        import_torchmetrics()
        self.refuse_unread(arguments)
        return self.run(arguments)

    def run(self, arguments: list[str]) -> Any:
        """Run a search or a grid."""
        raise TypeError(f"{type(self).__name__} must define run()")

    def refuse_unread(self, arguments: list[str]) -> None:
        """Refuse settings of `sweep` or `grid` if no option of that group is chosen.

        Raises:
            SettingError: such a setting has no effect; the hint names the setting to use instead.
        """
        assert self.config is not None
        for word in arguments:
            key = word.lstrip("+~").partition("=")[0]
            group, _, name = key.partition(".")
            chosen = self.config.hydra.runtime.choices.get(group)
            asked = group in ("sweep", "grid") and name and chosen is None
            if asked and (unread := unread_search_setting(key)):
                raise unread

    def tools(self) -> tuple[DictConfig, ConfigLoader, Launcher]:
        """Return the configuration, the config loader and the launcher set by `setup`."""
        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        return self.config, self.hydra_context.config_loader, self.launcher


class OptunaSweeper(_Sweeper):
    """Search settings with Optuna, and run the trials with Hydra's launcher.

    Args:
        settings: fields of `mmrec.search.settings.Settings`.
    """

    runs_need = ("hydra/sweeper=optuna",)

    def run(self, arguments: list[str]) -> Any:
        from mmrec.search.search import Search
        from mmrec.search.settings import checked

        return Search(checked(self.settings), arguments, *self.tools()).run()


class GridSweeper(_Sweeper):
    """Run every combination of a grid once.

    Args:
        settings: fields of `mmrec.search.grid.GridSettings`.
    """

    def run(self, arguments: list[str]) -> None:
        from mmrec.search.grid import Grid, grid_settings

        Grid(grid_settings(self.settings), arguments, *self.tools()).run()
