"""Training with model selection on validation, and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec.config.errors import SettingError
from mmrec.config.switches import is_refusal, setting_error

if TYPE_CHECKING:
    from lightning import Trainer

    from mmrec.data import InteractionData
    from mmrec.models import Recommender
    from mmrec.training.callbacks import Checkpoints, Timing


def train_and_select(
    trainer: Trainer,
    model: Recommender,
    data: InteractionData,
    checkpoint: Path | None,
    checkpoints: Checkpoints,
    timing: Timing,
    result: dict[str, Any],
    plain: Mapping[str, Any],
) -> Path | None:
    """Train a model and select the best epoch; closed-form models are only validated.

    Args:
        trainer: trainer of `build_trainer`.
        model: model to train.
        data: data module.
        checkpoint: checkpoint to resume from; None starts a new training.
        checkpoints: callback of `build_trainer` that stores the best epoch.
        timing: callback of `build_trainer` that measures the training time.
        result: result of the run; seconds, epochs and metrics of closed-form models are added.
        plain: resolved configuration.

    Returns:
        Path of the best checkpoint; None to use the current weights.

    Raises:
        SettingError: no epoch was validated, or Lightning rejects a setting.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    trial = checkpoints not in trainer.checkpoint_callbacks  # fast_dev_run
    if not model.closed_form:
        try:
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except (MisconfigurationException, RuntimeError) as error:
            if not is_refusal(error):
                raise
            raise setting_error(error, plain["trainer"]) from error
        finally:
            result["seconds"]["fit"] = timing.fit()
            # Lightning counts an epoch after its hooks, which may have selected it already.
            chosen = -1 if checkpoints.best_epoch is None else checkpoints.best_epoch
            result["epochs"] = max(trainer.current_epoch, chosen + 1)
        if not trial and checkpoints.best_epoch is None:
            raise SettingError(
                setting="trainer.max_epochs",
                value=plain["trainer"]["max_epochs"],
                problem="no validation ran, so no epoch can be selected",
                hint="increase it, or decrease trainer.check_val_every_n_epoch",
            )
        if not trial:
            return checkpoints.best
    result["metrics"] = rank(trainer, trainer.validate, model, data, None)
    if not trial:
        trainer.save_checkpoint(checkpoints.best, weights_only=True)
    return None


def rank(
    trainer: Trainer,
    loop: Callable[..., Any],
    model: Recommender,
    data: InteractionData,
    checkpoint: Path | None,
) -> dict[str, float]:
    """Evaluate a model.

    Args:
        trainer: trainer of the run.
        loop: method of the trainer, `validate` or `test`.
        model: model to evaluate.
        data: data module.
        checkpoint: checkpoint with the weights to evaluate; None uses the current weights.

    Returns:
        Metrics by name, for example `test/recall@20`.
    """
    loop(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(("val/", "test"))
    }
