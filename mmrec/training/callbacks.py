"""What watches a run: seeds, timings, the table of epochs, and checkpoints that are never half."""

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

FULL = {errno.ENOSPC, errno.EDQUOT}  # the disk, or the quota


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
        if trainer.sanity_checking:
            return
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

    Lightning's own callback stores absolute paths, and loses track of the best epoch when a run's
    folder has moved. This one stores the epoch and its metrics. Metrics count only for the weights
    that were validated: if the optimizer has stepped since, they are not considered.

    Attributes:
        best: path of the best checkpoint.
        best_epoch: epoch of it; None before the first validation.
        best_metrics: validation metrics of that epoch.

    Args:
        folder: of the run.
        monitor: the metric to select by; larger is better.
    """

    def __init__(self, folder: Path, monitor: str) -> None:
        self.best, self.last = folder / BEST, folder / LAST
        self.monitor = monitor
        self.best_epoch: int | None = None
        self.best_metrics: dict[str, float] = {}
        self._validated: tuple[int, dict[str, float]] | None = None  # step and metrics
        self._folder, self._identified = folder, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a run ended that early stopping has ended, when it is resumed."""
        reasons = [stopping.stopping_reason for stopping in trainer.early_stopping_callbacks]
        ended = any(reason is not EarlyStoppingReason.NOT_STOPPED for reason in reasons)
        trainer.should_stop = trainer.should_stop or ended
        self._identified = (self._folder / CONFIG).is_file()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metrics, and the step that they belong to."""
        if trainer.sanity_checking:
            return
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        self._validated = trainer.global_step, metrics

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save.

        Raises:
            ResultError: the run's folder was removed.
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
    """Write each checkpoint to a temporary file first: on a full disk the former one is kept."""

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
        except (OSError, RuntimeError) as error:
            kept = "the former one is unharmed" if target.exists() else "there is none before it"
            reason = _disk_error(error)
            if reason.errno in FULL:
                raise OSError(
                    f"No space left on {target.parent} for the checkpoint {target.name}; {kept}. "
                    "Free some space, then resume the run or start it again"
                ) from error
            raise OSError(f"cannot write the checkpoint {target}: {reason}; {kept}") from error

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
            # Lightning's own reader takes brackets in a path for a pattern.
            return torch.load(path, map_location, weights_only=weights_only)  # type: ignore[no-any-return]
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # whatever it takes for a pickle may make it fail in any way
            raise ResultError(
                f"{path} is cut short or no checkpoint: {first_line(error)}"
            ) from error


def _disk_error(error: BaseException) -> OSError:
    """The operating system's error behind one of torch's.

    When a write fails, torch goes on and then reports the position in the file that it finds.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return found or OSError(first_line(error))
