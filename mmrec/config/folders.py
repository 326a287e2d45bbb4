"""Expand `~` in the folders that Hydra creates, also if they are set in YAML files.

Hydra imports this module at each start, so its imports are fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf, flag_override

from mmrec.config.paths import expand
from mmrec.config.words import quoted

if TYPE_CHECKING:
    from omegaconf import DictConfig


class HomeFolders(Callback):
    """Expand `~` in `run_dir`, `hydra.run.dir` and `hydra.sweep.dir` before Hydra uses them."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Expand the folder of a run."""
        _expand(config, "run_dir")
        _expand(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Expand the folder of a multirun."""
        if folder := _expand(config, "hydra.sweep.dir"):
            with flag_override(config.hydra, "readonly", False):
                # Hydra composes the settings of each job from these overrides.
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(folder)}")


def _expand(config: DictConfig, setting: str) -> str | None:
    """Expand a setting in place, and return the new value; None if it is unchanged."""
    group, _, name = setting.rpartition(".")
    node: Any = OmegaConf.select(config, group) if group else config
    plain: Any = OmegaConf.to_container(node, resolve=False)
    folder = plain.get(name)  # may be an interpolation
    if not isinstance(folder, str) or not folder.startswith("~"):
        return None
    with flag_override(node, "readonly", False):
        node[name] = folder = str(expand(folder))
    return folder
