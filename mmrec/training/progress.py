"""Progress of a run: one log line per validation, and a progress bar."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mmrec.config.bars import duration, working

log = logging.getLogger(__name__)
BAR = "{desc} {percentage:3.0f} % |{bar:10}| {n_fmt}/{total_fmt} [{elapsed}]{postfix}"


@dataclass(frozen=True)
class Standing:
    """State of the training after a validation.

    Attributes:
        epoch: epoch, counted from 0 as in `metrics.csv`.
        loss: mean loss over the steps of the epoch so far.
        monitor: name of the metric used for selection.
        value: value of this metric.
        best: best value so far.
        best_epoch: epoch of the best value.
        stops_in: epochs until early stopping without improvement; None without early stopping.
        epochs_left: epochs until `trainer.max_epochs`; None without a maximum.
        seconds: seconds since the previous line.
    """

    epoch: int
    loss: float
    monitor: str
    value: float
    best: float
    best_epoch: int
    stops_in: int | None
    epochs_left: int | None
    seconds: float

    def fields(self) -> tuple[str, ...]:
        """Format the parts of a log line."""
        if self.stops_in == 0:
            stops = "early stopping now"
        elif self.epochs_left == 0:
            stops = "last epoch"
        elif self.stops_in is None:
            stops = "no early stopping"
        else:
            stops = f"early stopping in {self.stops_in} epoch{'s' * (self.stops_in > 1)}"
        best = "this one" if self.best_epoch == self.epoch else f"epoch {self.best_epoch}"
        return (
            f"epoch {self.epoch}",
            f"loss {self.loss:.4f}",
            f"{self.monitor} {self.value:.4f}",
            f"best {self.best:.4f} ({best})",
            stops,
            duration(self.seconds),
        )

    def line(self) -> str:
        """Format the state as an aligned log line."""
        widths = (10, 0, 0, 24, 27, 0)
        return "  ".join(map(str.ljust, self.fields(), widths))


class Progress(Callback):
    """Log one line per validation, and show a progress bar.

    The line is logged at the start of the next epoch or step, because early stopping is decided
    after the other callbacks.

    Args:
        monitor: name of the metric used for selection; larger is better.
        bar: show a progress bar.
    """

    def __init__(self, monitor: str, *, bar: bool = False) -> None:
        self.monitor, self.bar = monitor, bar
        self.best, self.best_epoch = -math.inf, 0
        self._last: Standing | None = None
        self._pending = False
        self._loss, self._steps = torch.zeros(()), 0
        self._clock = 0.0
        self._shown: tqdm[Any] | None = None
        self._ranked: Callable[[], object] = _nothing
        self._held = ExitStack()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value so far."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    # Training

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the previous validation, and reset the bar."""
        self._speak(trainer)
        self._loss, self._steps = torch.zeros((), device=pl_module.device), 0
        self._show(trainer, f"epoch {trainer.current_epoch}", trainer.num_training_batches)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log a validation within the epoch, and restore the bar."""
        if self._pending:
            self._speak(trainer)
            self._show(trainer, f"epoch {trainer.current_epoch}", trainer.num_training_batches)
            if self._shown is not None:
                self._shown.update(batch_idx)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the loss of the step to the mean of the epoch."""
        # Lightning divides the loss by the number of accumulated batches.
        self._loss = self._loss + outputs["loss"].detach() * trainer.accumulate_grad_batches
        self._steps += 1
        if self._shown is not None and self._shown.update():
            self._shown.set_postfix_str(self._postfix(), refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last validation."""
        self._speak(trainer)
        self._hide()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Log the last validation of an interrupted run."""
        self._speak(trainer)
        self._hide()

    # Validation and test

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the progress of ranking."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._speak(trainer)  # for two validations without a step in between
            self._show(trainer, f"epoch {trainer.current_epoch}, validation", _blocks(trainer))
        else:
            self._begin_ranking(trainer, "ranking for validation")

    def on_validation_batch_end(self, *_: Any) -> None:
        """Count a block of users."""
        self._advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the metric; outside training, log it immediately."""
        value, now = trainer.callback_metrics.get(self.monitor), time.perf_counter()
        if trainer.state.fn != TrainerFn.FITTING:
            self._hide()
            if value is not None and trainer.is_global_zero:
                log.info("%s %.4f  %s", self.monitor, value, duration(now - self._clock))
            return
        if value is None or trainer.sanity_checking:
            return
        if value > self.best:
            self.best, self.best_epoch = float(value), trainer.current_epoch
        self._last = Standing(
            epoch=trainer.current_epoch,
            loss=float(self._loss) / max(1, self._steps),
            monitor=self.monitor,
            value=float(value),
            best=self.best,
            best_epoch=self.best_epoch,
            stops_in=None,  # early stopping may not have counted this validation yet
            epochs_left=_epochs_left(trainer),
            seconds=now - self._clock,
        )
        self._clock, self._pending = now, True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the progress of ranking."""
        self._begin_ranking(trainer, "ranking for test")

    def on_test_batch_end(self, *_: Any) -> None:
        """Count a block of users."""
        self._advance()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._hide()

    # Output

    def _speak(self, trainer: Trainer) -> None:
        """Log the last validation, unless it is logged already."""
        if not self._pending or self._last is None:
            return
        self._pending = False
        self._last = replace(self._last, stops_in=_stops_in(trainer))
        if trainer.is_global_zero:
            log.info("%s", self._last.line())

    def _show(self, trainer: Trainer, what: str, total: float) -> None:
        """Create or reset the bar."""
        if not (self.bar and trainer.is_global_zero):
            return
        if self._shown is None:
            self._held.enter_context(logging_redirect_tqdm())
            self._shown = self._held.enter_context(tqdm(bar_format=BAR, leave=False))
        self._shown.set_description_str(what, refresh=False)
        self._shown.set_postfix_str(self._postfix(), refresh=False)
        self._shown.reset(total if math.isfinite(total) else None)

    def _postfix(self) -> str:
        loss = [f"loss {float(self._loss) / self._steps:.4f}"] if self._steps else []
        return "  ".join([*loss, *([] if self._last is None else self._last.fields()[2:5])])

    def _begin_ranking(self, trainer: Trainer, what: str) -> None:
        self._clock = time.perf_counter()
        if trainer.is_global_zero:
            total = _blocks(trainer) if self.bar else None
            self._ranked = self._held.enter_context(working(what, total, "block"))

    def _advance(self) -> None:
        self._ranked()
        if self._shown is not None:
            self._shown.update()

    def _hide(self) -> None:
        """Remove the bar."""
        self._held.close()
        self._shown, self._ranked = None, _nothing


def _nothing() -> None:
    """Do nothing."""


def _blocks(trainer: Trainer) -> int:
    """Return the number of batches of the current validation or test."""
    test = trainer.state.fn == TrainerFn.TESTING
    return int(sum(trainer.num_test_batches if test else trainer.num_val_batches))


def _epochs_left(trainer: Trainer) -> int | None:
    """Return the number of remaining epochs; None without a maximum."""
    most = trainer.max_epochs
    return None if most is None or most < 0 else most - trainer.current_epoch - 1


def _stops_in(trainer: Trainer) -> int | None:
    """Return the epochs until early stopping without improvement; None without early stopping."""
    stopping, every = trainer.early_stopping_callback, trainer.check_val_every_n_epoch
    if stopping is None:
        return None
    left = max(0, stopping.patience - stopping.wait_count)
    return left * (every or 1)


def one_process_speaks() -> None:
    """Log only errors in all processes except the first."""
    if getattr(rank_zero_only, "rank", 0):
        logging.getLogger("mmrec").setLevel(logging.ERROR)
