"""Learning rate schedules: classes of PyTorch, stepped after each epoch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le
from hydra.utils import get_object, instantiate

from mmrec.config.errors import SettingError
from mmrec.config.schema import TARGET, check_value

if TYPE_CHECKING:
    from mmrec.models import Recommender

GROUP = "lr_schedule"
PACKAGE = "torch.optim.lr_scheduler"
RANGES: dict[str, Any] = {  # PyTorch declares no ranges
    "T_max": Annotated[int, Ge(1)],
    "eta_min": Annotated[float, Ge(0)],
    "gamma": Annotated[float, Gt(0), Le(1)],
    "step_size": Annotated[int, Ge(1)],
    "start_factor": Annotated[float, Gt(0), Le(1)],
    "end_factor": Annotated[float, Gt(0), Le(1)],
    "total_iters": Annotated[int, Ge(1)],
}


def check_lr_schedule(plain: Mapping[str, Any]) -> None:
    """Check the settings of `lr_schedule`.

    Args:
        plain: resolved configuration, with or without `lr_schedule`.

    Raises:
        SettingError: the schedule cannot be stepped by epoch, or a setting is invalid.
    """
    from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

    node = plain.get(GROUP)
    if node is None:
        return
    target, name = get_object(node[TARGET]), f"{GROUP}.{TARGET}"
    if not (isinstance(target, type) and issubclass(target, LRScheduler)):
        raise SettingError(
            setting=name,
            value=node[TARGET],
            expected=f"a class of {PACKAGE}, for example {PACKAGE}.StepLR",
        )
    if issubclass(target, ReduceLROnPlateau):
        raise SettingError(
            setting=name,
            value=node[TARGET],
            problem="it depends on a metric, but schedules may depend only on the epoch",
            hint=f"use another class of {PACKAGE}",
        )
    for key, parameter in [*inspect.signature(target).parameters.items()][1:]:  # 0: optimizer
        if parameter.default is parameter.empty and key not in node:
            raise SettingError(
                setting=f"{GROUP}.{key}", problem=f"it is missing; {node[TARGET]} requires a value"
            )
    if "last_epoch" in node:
        raise SettingError(
            setting=f"{GROUP}.last_epoch",
            value=node["last_epoch"],
            problem="a resumed run restores the schedule from its checkpoint",
            hint="remove the setting",
        )
    if node.get("T_max") == plain["trainer"].get("max_epochs") == -1:
        raise SettingError(
            setting=f"{GROUP}.T_max",
            value=-1,
            problem="trainer.max_epochs=-1 does not define the number of epochs",
            expected="the number of epochs until the lowest learning rate",
            hint=f"for example {GROUP}.T_max=100",
        )
    for key, hint in RANGES.items():
        if key in node:
            check_value(hint, node[key], f"{GROUP}.{key}")
    lr = plain["optimizer"].get("lr")
    if lr is not None and node.get("eta_min", 0) > lr:
        raise SettingError(
            setting=f"{GROUP}.eta_min",
            value=node["eta_min"],
            expected=f"at most optimizer.lr={lr}, the initial learning rate",
        )


def give_lr_schedule(model: Recommender, plain: Mapping[str, Any]) -> None:
    """Assign the schedule of the configuration to a model.

    Args:
        model: model to train.
        plain: resolved configuration.

    Raises:
        SettingError: the model has a closed-form solution.
    """
    node = plain.get(GROUP)
    if not node:
        return
    if model.closed_form:
        raise SettingError(
            setting=GROUP,
            problem=f"{type(model).__name__} has a closed-form solution and no learning rate",
            hint="remove the setting",
        )
    model.lr_schedule = instantiate(node, _convert_="all")
