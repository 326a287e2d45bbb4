"""Training with selection on validation, and evaluation."""

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
    """Train, if there is anything to train, and validate.

    Args:
        trainer: of `build_trainer`, as `checkpoints` and `timing`.
        model: to be trained.
        data: to train on.
        checkpoint: to resume from; None: from the start.
        checkpoints: knows the best epoch.
        timing: knows the seconds of training.
        result: gets seconds and epochs, and the metrics of what is not trained.
        plain: the resolved configuration.

    Returns:
        The best checkpoint; None: the model as it is.

    Raises:
        SettingError: no epoch was validated, or Lightning refuses a setting.
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
            # Lightning counts an epoch after its hooks; one that they have chosen counts already.
            chosen = -1 if checkpoints.best_epoch is None else checkpoints.best_epoch
            result["epochs"] = max(trainer.current_epoch, chosen + 1)
        if not trial and checkpoints.best_epoch is None:
            raise SettingError(
                setting="trainer.max_epochs",
                value=plain["trainer"]["max_epochs"],
                problem="no validation ran, so no epoch can be selected",
                hint="raise it, or lower trainer.check_val_every_n_epoch",
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
    """Evaluate once.

    Args:
        trainer: to evaluate with.
        loop: its `validate` or `test`.
        model: to be evaluated.
        data: with the users of both.
        checkpoint: whose weights are evaluated; None: those that the model has.

    Returns:
        Metrics by name, for example `test/recall@20`.
    """
    loop(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(("val/", "test"))
    }
