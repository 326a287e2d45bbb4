"""Lightning trainer of a run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from mmrec.config.errors import SettingError
from mmrec.config.home import logger_with_home
from mmrec.config.schema import TARGET, check_monitor, check_value
from mmrec.config.startup import leave_memory_unfilled
from mmrec.config.switches import setting_error
from mmrec.config.text import first_line
from mmrec.training.build import evaluation_of

if TYPE_CHECKING:
    from lightning import Callback, Trainer
    from lightning.pytorch.callbacks import EarlyStopping

    from mmrec.training.callbacks import Checkpoints, Timing

log = logging.getLogger(__name__)


def quiet_lightning() -> None:
    """Hide Lightning's INFO messages, which repeat those of the commands."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build_trainer(
    plain: dict[str, Any], folder: Path, *more: Callback
) -> tuple[Trainer, Timing, Checkpoints]:
    """Create the trainer of a run, with seeds, timings and atomic checkpoints.

    Args:
        plain: resolved configuration.
        folder: folder of the run.
        more: additional callbacks.

    Raises:
        SettingError: Lightning rejects a setting, or a callback does not fit.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import EarlyStopping, ProgressBar, Timer

    from mmrec.config.bars import in_terminal
    from mmrec.training.callbacks import (
        AtomicCheckpointIO,
        Checkpoints,
        EpochSeed,
        EpochTable,
        Timing,
    )
    from mmrec.training.loggers import guard
    from mmrec.training.progress import Progress

    quiet_lightning()
    # These warnings are about Lightning's own code, and about metrics that are already summed over
    # processes when they are logged.
    for message in (r"`isinstance\(treespec, LeafSpec\)` is deprecated", r".*sync_dist=True"):
        warnings.filterwarnings("ignore", message)

    leave_memory_unfilled()

    trainer_settings = plain["trainer"]
    timing, checkpoints = Timing(), Checkpoints(folder, plain["monitor"])
    kept = [] if trainer_settings.get("fast_dev_run") else [checkpoints]
    asked = {name: node for name, node in plain["callbacks"].items() if node and TARGET in node}
    watchers = {name: _callback(name, node) for name, node in asked.items()}
    evaluation = evaluation_of(plain)
    for name, watcher in watchers.items():
        if isinstance(watcher, EarlyStopping):
            _check_stopping(f"callbacks.{name}", watcher, evaluation.cutoffs)
    _check_tensorboard(plain["logger"])
    shown = bool(trainer_settings.get("enable_progress_bar", True))
    others = any(isinstance(each, ProgressBar) for each in watchers.values())  # user-defined bar
    progress = Progress(plain["monitor"], bar=shown and not others and in_terminal())
    loggers = [
        logger if isinstance(logger, EpochTable) else guard(logger)
        for logger in instantiate(
            {name: logger_with_home(node) for name, node in plain["logger"].items() if node},
            _convert_="all",
        ).values()
    ]
    limit = trainer_settings.get("max_time")
    try:
        # The timer of Lightning's trainer would end training within an epoch.
        timers = [Timer(limit, interval="epoch", verbose=False)] if limit else []
        trainer: Trainer = instantiate(
            {**trainer_settings, **_validated(trainer_settings), "max_time": None},
            enable_progress_bar=shown and others,
            _convert_="all",
            callbacks=[
                *(EpochSeed(plain["seed"]), timing, *watchers.values()),
                *(*timers, *more, progress, *kept),
            ],
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=str(folder),
            use_distributed_sampler=False,
            profiler=_profiler(trainer_settings.get("profiler"), folder),
        )
    except (MisconfigurationException, TypeError) as error:
        raise SettingError(
            setting="trainer.max_time", value=limit, problem=first_line(error)
        ) from None
    except InstantiationException as error:
        if error.__cause__ is None:
            raise
        raise setting_error(error.__cause__, trainer_settings) from error
    return trainer, timing, checkpoints


def _callback(name: str, node: dict[str, Any]) -> Callback:
    """Create a callback of the configuration.

    Raises:
        SettingError: its class rejects a setting, or is not supported.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging

    try:
        callback: Callback = instantiate(node, _convert_="all")
    except InstantiationException as error:
        if not isinstance(error.__cause__, MisconfigurationException | ValueError):
            raise
        raise setting_error(error.__cause__, node, f"callbacks.{name}") from error
    if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
        raise SettingError(
            setting=f"callbacks.{name}",
            problem=f"{type(callback).__name__} validates averaged weights, which the best "
            "checkpoint would not contain",
            hint=f"remove it with ~callbacks.{name}",
        )
    return callback


def _check_stopping(setting: str, stopping: EarlyStopping, cutoffs: Sequence[int]) -> None:
    """Check the settings of early stopping.

    Args:
        setting: name of the callback, for example `callbacks.early_stopping`.
        stopping: early stopping callback.
        cutoffs: cutoffs of the evaluation.

    Raises:
        SettingError: the patience is negative, the metric is unknown, or the mode is wrong.
    """
    from mmrec.evaluation import ACCURACY

    check_value(Annotated[int, Ge(0)], stopping.patience, f"{setting}.patience")
    if stopping.monitor.startswith(("train/", "router/")):
        return
    check_monitor(stopping.monitor, cutoffs, ACCURACY, f"{setting}.monitor")
    if stopping.mode != "max":
        raise SettingError(
            setting=f"{setting}.mode",
            value=stopping.mode,
            problem=f"for {stopping.monitor}, larger values are better",
            expected="max",
        )


def _profiler(choice: Any, folder: Path) -> Any:
    """Create a profiler that writes its report to the run folder, instead of only logging it."""
    from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    if not isinstance(choice, str):
        return choice
    return kinds[choice](dirpath=str(folder), filename="profile")


def _check_tensorboard(loggers: Mapping[str, Any]) -> None:
    """Check that TensorBoard is installed; other trackers check their own packages."""
    wanted = any(
        str((node or {}).get(TARGET)).endswith(".TensorBoardLogger") for node in loggers.values()
    )
    if wanted and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise SettingError(
            setting="logger",
            value="tensorboard",
            problem="the package tensorboard is not installed",
            hint="pip install 'mmrec[tensorboard]'",
        )


def _validated(trainer: Mapping[str, Any]) -> dict[str, int]:
    """Validate once at the end if a run is shorter than the interval between validations."""
    every, epochs = trainer.get("check_val_every_n_epoch", 1), trainer["max_epochs"]
    if not 0 < epochs < every:
        return {}
    log.info(
        "validating only after the last epoch, because trainer.check_val_every_n_epoch=%d exceeds "
        "trainer.max_epochs=%d",
        every,
        epochs,
    )
    return {"check_val_every_n_epoch": epochs}
