"""Checks of the settings of Lightning's trainer.

A run validates all users after whole epochs, keeps the best epoch and tests it once. Trainer
settings that would silently change this, or that have no effect, are rejected.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from mmrec.config.errors import SettingError
from mmrec.config.schema import TARGET, check_value

ENVIRONMENT = "PL_TRAINER_"  # prefix of environment variables with Lightning's defaults
EARLY_STOPPING = "Early stopping conditioned on metric"  # start of an error message of Lightning
SMALL_TRIAL = "use trainer.fast_dev_run=true to try a few batches of each stage"

# By setting: the allowed values, and the hint for other values.
FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "barebones": ((False,), "a run logs metrics and saves checkpoints"),
    "callbacks": ((), "add the callback to the group callbacks: +callbacks.NAME={_target_: ...}"),
    "default_root_dir": ((), "set run_dir, the folder of all files of a run"),
    "enable_autolog_hparams": ((True,), "select trackers with logger=..."),
    "enable_checkpointing": (
        (True,),
        "the best epoch is tested from its checkpoint; trainer.fast_dev_run=true keeps none",
    ),
    "limit_predict_batches": ((1.0,), "runs do not predict; see mmrec.recommend"),
    "limit_test_batches": ((1.0,), f"the test requires all users; {SMALL_TRIAL}"),
    "limit_val_batches": ((1.0,), f"validation requires all users; {SMALL_TRIAL}"),
    "logger": ((), "use the group logger, for example logger=none"),
    "max_steps": ((-1,), "training ends after a whole epoch; set trainer.max_epochs"),
    "min_steps": ((0,), "training ends after a whole epoch; set trainer.min_epochs"),
    "model_registry": ((), "use logger=wandb or logger=mlflow with logger.NAME.artifact=true"),
    "overfit_batches": (
        (0, 0.0),
        "it would validate only some of the users; set trainer.limit_train_batches",
    ),
    "plugins": ((), "set trainer.strategy or trainer.precision"),
    "reload_dataloaders_every_n_epochs": (
        (0,),
        "batches depend only on the seed and the epoch, so reloading has no effect",
    ),
    "use_distributed_sampler": ((False,), "the data module distributes rows over the processes"),
    "val_check_interval": (
        (1.0,),
        "validation runs after whole epochs; set trainer.check_val_every_n_epoch",
    ),
}

# Ranges that libraries do not declare.
RANGES: dict[str, Any] = {
    "trainer.max_epochs": Annotated[int, Ge(-1)],
    "trainer.min_epochs": Annotated[int, Ge(0)] | None,
    "trainer.check_val_every_n_epoch": Annotated[int, Ge(1)],
    "trainer.accumulate_grad_batches": Annotated[int, Ge(1)],
    "trainer.gradient_clip_val": Annotated[float, Gt(0)] | None,
    "trainer.gradient_clip_algorithm": Literal["norm", "value"] | None,
    "trainer.limit_train_batches": Annotated[float, Gt(0)] | None,
    "trainer.num_sanity_val_steps": Annotated[int, Ge(-1)] | None,
    "trainer.log_every_n_steps": Annotated[int, Ge(0)] | None,
    "trainer.fast_dev_run": bool | Annotated[int, Ge(0)],
    "trainer.num_nodes": Annotated[int, Ge(1)],
    "trainer.devices": Annotated[int, Ge(-1)] | str | list[Annotated[int, Ge(0)]],
    "trainer.profiler": Literal["simple", "advanced", "pytorch"] | None,
    "trainer.strategy": Literal[
        "auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"
    ],
    "optimizer.lr": Annotated[float, Ge(0)],
    "optimizer.eps": Annotated[float, Ge(0)],
    "optimizer.weight_decay": Annotated[float, Ge(0)],
}


def check_switches(plain: Mapping[str, Any]) -> None:
    """Check the settings of the trainer and the ranges of optimizer settings.

    Args:
        plain: resolved configuration.

    Raises:
        SettingError: a setting is not supported or out of range.
    """
    for name in sorted(os.environ):
        if name.startswith(ENVIRONMENT):
            setting = name.removeprefix(ENVIRONMENT).lower()
            raise SettingError(
                setting=name,
                problem="this environment variable would change runs without a record in "
                "config.yaml",
                hint=f"unset it, and set trainer.{setting}= instead",
            )
    trainer = plain["trainer"]
    for name, (allowed, instead) in FIXED.items():
        value = trainer.get(name)
        if value is not None and not any(type(value) is type(x) and value == x for x in allowed):
            raise SettingError(
                setting=f"trainer.{name}", value=value, problem="not supported", hint=instead
            )
    for setting, hint in RANGES.items():
        group, _, name = setting.partition(".")
        value = plain[group].get(name, hint)
        if value is not hint and not (isinstance(value, Mapping) and TARGET in value):
            check_value(hint, value, setting)
    if trainer.get("max_epochs") in (None, 0):
        raise SettingError(
            setting="trainer.max_epochs",
            value=trainer.get("max_epochs"),
            expected="at least 1, or -1 to train until early stopping",
        )
    if trainer.get("gradient_clip_algorithm") and trainer.get("gradient_clip_val") is None:
        raise SettingError(
            setting="trainer.gradient_clip_algorithm",
            value=trainer["gradient_clip_algorithm"],
            problem="it has no effect without trainer.gradient_clip_val",
            hint="set both",
        )
    if trainer["max_epochs"] == -1 and not _stops(plain):
        raise SettingError(
            setting="trainer.max_epochs",
            value=-1,
            problem="training never ends without callbacks.early_stopping or trainer.max_time",
            hint="set one of the two",
        )


def _stops(plain: Mapping[str, Any]) -> bool:
    return bool(
        plain["trainer"].get("max_time")
        or plain["trainer"].get("fast_dev_run")
        or any(node and TARGET in node for node in plain["callbacks"].values())
    )


def partial(trainer: Mapping[str, Any]) -> list[str]:
    """Return the settings that restrict a run to a part of the data.

    Args:
        trainer: resolved settings of the trainer.

    Returns:
        Settings as overrides, for example `trainer.limit_train_batches=3`; empty for a full run.
    """
    limit = trainer.get("limit_train_batches")
    whole = limit is None or (type(limit) is float and limit == 1)
    trial = trainer.get("fast_dev_run")
    found = {"fast_dev_run": trial} if trial else {} if whole else {"limit_train_batches": limit}
    return [f"trainer.{name}={str(value).lower()}" for name, value in found.items()]


def is_refusal(error: BaseException) -> bool:
    """Return whether an error means that Lightning rejects a setting."""
    return type(error).__name__ == "MisconfigurationException" or EARLY_STOPPING in str(error)


def setting_error(
    error: BaseException, node: Mapping[str, Any], path: str = "trainer"
) -> SettingError:
    """Convert an error of Lightning to a `SettingError` with the name of the setting.

    Args:
        error: error raised by Lightning for the settings.
        node: settings.
        path: path of the settings.
    """
    text = " ".join(str(error).split())
    if EARLY_STOPPING in text:
        return SettingError(setting="callbacks", problem=text)
    named = [name for name in node if re.search(rf"\b{re.escape(str(name))}\b", text)]
    named = named or [name for name in ("accelerator", "devices", "strategy") if name in node]
    hint = "use trainer=auto to select available hardware" if "accelerator" in named else None
    if not named:
        return SettingError(setting=path, problem=text)
    if len(named) == 1:
        value = node[named[0]]
        return SettingError(setting=f"{path}.{named[0]}", value=value, problem=text, hint=hint)
    values = {name: node[name] for name in named}
    return SettingError(setting=path, value=values, problem=text, hint=hint)
