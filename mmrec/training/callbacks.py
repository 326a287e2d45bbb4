"""Callbacks of a run: seeds, timings, the table of epochs, and atomic checkpoints."""

from __future__ import annotations

import csv
import errno
import math
import os
import statistics
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mmrec.config.paths import replace_file
from mmrec.config.text import first_line
from mmrec.models import Recommender
from mmrec.training.results import BEST, CONFIG, LAST, ResultError, epoch_of
from mmrec.training.run_folder import check_present

FULL = {errno.ENOSPC, errno.EDQUOT}  # the disk or the quota is full


class EpochSeed(Callback):
    """Seed each epoch with a function of the run's seed and the epoch.

    A resumed run therefore samples the same random numbers as an uninterrupted one.

    Args:
        seed: seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed all random generators."""
        epoch = torch.Generator().manual_seed(self.seed * 1_000_003 + trainer.current_epoch)
        rank = 7919 * trainer.global_rank
        seed = int(torch.randint(2**31, (), generator=epoch)) + rank
        seed_everything(seed % 2**32, verbose=False)


class Timing(Callback):
    """Log the seconds of training epochs and validations, and training interactions per second.

    Attributes:
        train_epochs: seconds of each epoch, without validation.
        validations: seconds of each validation.
        earlier: seconds of training before the run was resumed.
    """

    def __init__(self) -> None:
        self.train_epochs: list[float] = []
        self.validations: list[float] = []
        self.earlier = 0.0
        self._start = self._spent = 0.0
        self._begun = time.perf_counter()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the whole training."""
        self._begun = time.perf_counter()

    def fit(self) -> float:
        """Return the seconds of training so far, including those before a resume."""
        return self.earlier + time.perf_counter() - self._begun

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds of training so far."""
        return {"fit": self.fit()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seconds of training before a resume."""
        self.earlier = state_dict["fit"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._start, self._spent = _now(pl_module), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause the clock of the epoch."""
        now = _now(pl_module)
        self._spent += now - self._start
        self._start = now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the time of the validation, and resume the clock of the epoch."""
        if trainer.sanity_checking:
            return
        now = _now(pl_module)
        self.validations.append(now - self._start)
        self._start = now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the timings of the epoch."""
        seconds = self._spent + _now(pl_module) - self._start
        self.train_epochs.append(seconds)
        pl_module.log("time/train_epoch", seconds)
        assert isinstance(pl_module, Recommender)
        pl_module.log("time/examples_per_second", len(pl_module.corpus.train) / seconds)
        if self.validations:
            pl_module.log("time/val", self.validations[-1])

    def medians(self) -> dict[str, float | None]:
        """Return the median seconds of `train_epoch` and `val`."""
        return {
            "train_epoch": statistics.median(self.train_epochs) if self.train_epochs else None,
            "val": statistics.median(self.validations) if self.validations else None,
        }


def _now(module: LightningModule) -> float:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()


class Checkpoints(Checkpoint):
    """Save `best.ckpt` after each epoch with a new best metric, and `last.ckpt` after each epoch.

    Lightning's callback stores absolute paths, and loses the best epoch if the run folder is moved.
    This callback stores the epoch and its metrics. Metrics are used only if the optimizer has not
    made a step since the validation, so that they belong to the saved weights.

    Attributes:
        best: path of the best checkpoint.
        best_epoch: epoch of the best checkpoint; None before the first validation.
        best_metrics: validation metrics of that epoch.

    Args:
        folder: folder of the run.
        monitor: name of the metric used for selection; larger is better.
    """

    def __init__(self, folder: Path, monitor: str) -> None:
        self.best, self.last = folder / BEST, folder / LAST
        self.monitor = monitor
        self.best_epoch: int | None = None
        self.best_metrics: dict[str, float] = {}
        self._validated: tuple[int, dict[str, float]] | None = None  # step and metrics
        self._folder, self._identified = folder, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not continue a resumed run that early stopping has ended."""
        reasons = [stopping.stopping_reason for stopping in trainer.early_stopping_callbacks]
        ended = any(reason is not EarlyStoppingReason.NOT_STOPPED for reason in reasons)
        trainer.should_stop = trainer.should_stop or ended
        self._identified = (self._folder / CONFIG).is_file()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the metrics and their step."""
        if trainer.sanity_checking:
            return
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        self._validated = trainer.global_step, metrics

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoints.

        Raises:
            ResultError: the run folder was removed.
        """
        if self._identified:
            check_present(self._folder)
        step, metrics = self._validated or (None, {})
        best = self.best_metrics.get(self.monitor, -math.inf)
        if step == trainer.global_step and metrics[self.monitor] > best:
            trainer.save_checkpoint(self.best, weights_only=True)
            self.best_epoch, self.best_metrics = trainer.current_epoch, metrics
        trainer.save_checkpoint(self.last)

    def state_dict(self) -> dict[str, Any]:
        """Return the best epoch and its metrics."""
        return {"best_epoch": self.best_epoch, "best_metrics": self.best_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch and its metrics."""
        self.best_epoch = state_dict["best_epoch"]
        self.best_metrics = state_dict["best_metrics"]


class EpochTable(Logger):
    """Write `metrics.csv`, with one row per epoch and one column per metric.

    The file is complete after each epoch. A resumed run keeps the rows of earlier epochs.

    Args:
        path: path of the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)
        self._rows: dict[int, dict[str, float]] = {}
        if self.path.exists():
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    epoch = int(row.pop("epoch"))
                    self._rows[epoch] = {name: float(value) for name, value in row.items() if value}

    @property
    def name(self) -> str:
        """Name for Lightning."""
        return "metrics"

    @property
    def version(self) -> str:
        """Version for Lightning."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Do nothing; the configuration is stored in its own file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add metrics to the row of their epoch."""
        epoch = epoch_of(metrics)
        if epoch is not None:
            values = {name: value for name, value in metrics.items() if name != "epoch"}
            self._rows.setdefault(epoch, {}).update(values)

    @rank_zero_only
    def save(self) -> None:
        """Write the file atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        names = sorted({name for row in self._rows.values() for name in row})
        with replace_file(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *names])
            writer.writeheader()
            writer.writerows({"epoch": epoch, **row} for epoch, row in sorted(self._rows.items()))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint to a temporary file first, so that errors keep the previous one."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: _PATH,
        storage_options: Any | None = None,
    ) -> None:
        """Save a checkpoint atomically.

        Raises:
            OSError: the checkpoint could not be written; the previous one is kept.
        """
        assert storage_options is None
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(target) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            kept = "the previous one is kept" if target.exists() else "there is no previous one"
            reason = _disk_error(error)
            if reason.errno in FULL:
                raise OSError(
                    f"No space left on {target.parent} for the checkpoint {target.name}; {kept}. "
                    "Free some space, then resume or restart the run"
                ) from error
            raise OSError(f"cannot write the checkpoint {target}: {reason}; {kept}") from error

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Any | None = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Load a checkpoint.

        Raises:
            ResultError: the file is truncated or not a checkpoint.
        """
        try:
            # Lightning's reader treats brackets in a path as a pattern.
            return torch.load(path, map_location, weights_only=weights_only)  # type: ignore[no-any-return]
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # invalid pickles raise many types of errors
            raise ResultError(
                f"{path} is truncated or not a checkpoint: {first_line(error)}"
            ) from error


def _disk_error(error: BaseException) -> OSError:
    """Return the operating system's error that caused an error of PyTorch.

    After a failed write, PyTorch continues and reports an unexpected position in the file.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return found or OSError(first_line(error))
