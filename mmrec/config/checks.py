"""Checks of settings; errors have the full name of the setting."""

from __future__ import annotations

from math import isfinite
from typing import get_args

from mmrec.config.errors import SettingError


def check_at_least(least: float, group: str = "model", /, **settings: float) -> None:
    """Check that values are finite and not less than a minimum.

    Args:
        least: minimum value.
        group: group of the settings.
        settings: values by name.

    Raises:
        SettingError: a value is invalid.
    """
    for name, value in settings.items():
        if not (isfinite(value) and value >= least):
            raise SettingError(
                setting=f"{group}.{name}",
                value=value,
                expected=f"a finite number of at least {least}",
            )


def check_share(*, whole: bool = True, **settings: float) -> None:
    """Check that values are in [0, 1], or in [0, 1).

    Args:
        whole: whether 1 is allowed.
        settings: values of a model's settings by name.

    Raises:
        SettingError: a value is invalid.
    """
    for name, value in settings.items():
        if not (0 <= value <= 1 and (whole or value < 1)):
            end = "1" if whole else "below 1"
            raise SettingError(
                setting=f"model.{name}", value=value, expected=f"a number from 0 to {end}"
            )


def check_choice(choices: object, group: str = "model", /, **settings: str) -> None:
    """Check that values are among the choices.

    Args:
        choices: a `Literal` type with the choices.
        group: group of the settings.
        settings: values by name.

    Raises:
        SettingError: a value is invalid.
    """
    for name, value in settings.items():
        if value not in get_args(choices):
            raise SettingError(
                setting=f"{group}.{name}",
                value=value,
                expected=f"one of {', '.join(get_args(choices))}",
            )
