"""What watches a run: seeds, timings, the table of epochs, and checkpoints that are never half."""

from __future__ import annotations

import csv
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
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mmrec.models import Recommender
from mmrec.paths import replace_file
from mmrec.results import BEST, LAST, ResultError, epoch_of, first_line


class EpochSeed(Callback):
    """Make each epoch's randomness a function of the seed and the epoch alone.

    So a run that is killed and continued draws what it would have drawn.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed every generator."""
        epoch = torch.Generator().manual_seed(self.seed * 1_000_003 + trainer.current_epoch)
        rank = 7919 * trainer.global_rank
        seed = int(torch.randint(2**31, (), generator=epoch)) + rank
        seed_everything(seed % 2**32, verbose=False)


class Timing(Callback):
    """Log seconds of each training epoch and validation, and train interactions per second.

    Attributes:
        train_epochs: seconds of each epoch, without its validation.
        validations: seconds of each validation.
        earlier: seconds of training before this run was continued.
    """

    def __init__(self) -> None:
        self.train_epochs: list[float] = []
        self.validations: list[float] = []
        self.earlier = 0.0
        self._start = self._spent = 0.0
        self._begun = time.perf_counter()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins, or goes on."""
        self._begun = time.perf_counter()

    def fit(self) -> float:
        """Seconds of training so far, also before it was continued."""
        return self.earlier + time.perf_counter() - self._begun

    def state_dict(self) -> dict[str, Any]:
        """What has been spent."""
        return {"fit": self.fit()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.earlier = state_dict["fit"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start, self._spent = _now(pl_module), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the training clock."""
        now = _now(pl_module)
        self._spent += now - self._start
        self._start = now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the validation's time, and go on."""
        now = _now(pl_module)
        self.validations.append(now - self._start)
        self._start = now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch."""
        seconds = self._spent + _now(pl_module) - self._start
        self.train_epochs.append(seconds)
        pl_module.log("time/train_epoch", seconds)
        assert isinstance(pl_module, Recommender)
        pl_module.log("time/examples_per_second", len(pl_module.corpus.train) / seconds)
        if self.validations:
            pl_module.log("time/val", self.validations[-1])

    def medians(self) -> dict[str, float | None]:
        """Median seconds: `train_epoch`, `val`."""
        return {
            "train_epoch": statistics.median(self.train_epochs) if self.train_epochs else None,
            "val": statistics.median(self.validations) if self.validations else None,
        }


def _now(module: LightningModule) -> float:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()


class Checkpoints(Checkpoint):
    """`best.ckpt` at each epoch that beats all before it, `last.ckpt` after every epoch.

    Lightning's own callback remembers absolute paths, and forgets what was best when a run's folder
    has moved. This one remembers the epoch and its metrics.

    Attributes:
        best: where the best one is.
        best_epoch: when it was taken; None before the first validation.
        best_metrics: what validation gave then.

    Args:
        folder: of the run.
        monitor: the metric to select by; larger is better.
    """

    def __init__(self, folder: Path, monitor: str) -> None:
        self.best, self.last = folder / BEST, folder / LAST
        self.monitor = monitor
        self.best_epoch: int | None = None
        self.best_metrics: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that early stopping has ended stays ended when it is continued."""
        stopping = trainer.early_stopping_callback
        trainer.should_stop = stopping is not None and stopping.wait_count >= stopping.patience

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        if metrics and metrics[self.monitor] > self.best_metrics.get(self.monitor, -math.inf):
            trainer.save_checkpoint(self.best, weights_only=True)
            self.best_epoch, self.best_metrics = trainer.current_epoch, metrics
        trainer.save_checkpoint(self.last)

    def state_dict(self) -> dict[str, Any]:
        """What was best."""
        return {"best_epoch": self.best_epoch, "best_metrics": self.best_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best_epoch = state_dict["best_epoch"]
        self.best_metrics = state_dict["best_metrics"]


class EpochTable(Logger):
    """`metrics.csv`: a row an epoch, a column a metric; whole after every epoch.

    A run that continues in its folder keeps the rows of the epochs before.

    Args:
        path: of the file.
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
        """For Lightning."""
        return "metrics"

    @property
    def version(self) -> str:
        """For Lightning."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing: the configuration has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add to the row of the metrics' epoch."""
        epoch = epoch_of(metrics)
        if epoch is not None:
            values = {name: value for name, value in metrics.items() if name != "epoch"}
            self._rows.setdefault(epoch, {}).update(values)

    @rank_zero_only
    def save(self) -> None:
        """Write the file, and move it into place."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        names = sorted({name for row in self._rows.values() for name in row})
        with replace_file(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *names])
            writer.writeheader()
            writer.writerows({"epoch": epoch, **row} for epoch, row in sorted(self._rows.items()))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written beside their name and moved: a full disk costs the new one only."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: _PATH,
        storage_options: Any | None = None,
    ) -> None:
        """Write, then rename.

        Raises:
            OSError: the checkpoint could not be written; the former one stands.
        """
        assert storage_options is None
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(target) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # the latter is what torch makes of a full disk
            kept = "the former one is unharmed" if target.exists() else "there is none before it"
            raise OSError(f"cannot write the checkpoint {target}: {error}; {kept}") from error

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Any | None = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read.

        Raises:
            ResultError: the file is cut short, or no checkpoint.
        """
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # whatever it takes for a pickle may make it fail in any way
            raise ResultError(
                f"{path} is cut short or no checkpoint: {first_line(error)}"
            ) from error
