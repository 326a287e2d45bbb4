"""What Hydra calls. Light, as Hydra imports it at every start."""

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
    """What both have from Hydra.

    Args:
        settings: of `hydra.sweeper`.
    """

    runs_need: tuple[str, ...] = ()  # words for Hydra in every run

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

        # A run is composed from its own words and those that Hydra was given. The words that begin
        # a multirun are not among them, so that a run is what it would be alone.
        config = config.copy()
        with open_dict(config):
            config.hydra.overrides.hydra.extend(self.runs_need)
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Check the words, and run what they ask for."""
        import_torchmetrics()
        self.refuse_unread(arguments)
        return self.run(arguments)

    def run(self, arguments: list[str]) -> Any:
        """Run a search or a grid."""
        raise TypeError(f"{type(self).__name__} must define run()")

    def refuse_unread(self, arguments: list[str]) -> None:
        """Refuse `sweep.` and `grid.` settings where no file of that group is chosen.

        Raises:
            SettingError: names the key that is read instead.
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
        """What `setup` was given: the configuration, what composes one, and what runs it."""
        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        return self.config, self.hydra_context.config_loader, self.launcher


class OptunaSweeper(_Sweeper):
    """Choose settings with Optuna, run them with Hydra's launcher.

    Args:
        settings: those of `mmrec.search.settings.Settings`.
    """

    runs_need = ("hydra/sweeper=optuna",)

    def run(self, arguments: list[str]) -> Any:
        from mmrec.search.search import Search
        from mmrec.search.settings import checked

        return Search(checked(self.settings), arguments, *self.tools()).run()


class GridSweeper(_Sweeper):
    """Run every combination once.

    Args:
        settings: those of `mmrec.search.grid.GridSettings`.
    """

    def run(self, arguments: list[str]) -> None:
        from mmrec.search.grid import Grid, grid_settings

        Grid(grid_settings(self.settings), arguments, *self.tools()).run()
