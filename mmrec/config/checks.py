"""Checks of settings; errors name the setting as it is typed."""

from __future__ import annotations

from math import isfinite
from typing import get_args

from mmrec.config.errors import SettingError


def check_at_least(least: float, group: str = "model", /, **settings: float) -> None:
    """Refuse a value that is smaller, infinite or NaN.

    Args:
        least: smallest value that is allowed.
        group: that the settings are of.
        settings: by name.

    Raises:
        SettingError: names the first that is not allowed.
    """
    for name, value in settings.items():
        if not (isfinite(value) and value >= least):
            raise SettingError(
                setting=f"{group}.{name}",
                value=value,
                expected=f"a finite number of at least {least}",
            )


def check_share(*, whole: bool = True, **settings: float) -> None:
    """Refuse a value that is not a share.

    Args:
        whole: 1 is allowed.
        settings: of a model, by name.

    Raises:
        SettingError: names the first that is not allowed.
    """
    for name, value in settings.items():
        if not (0 <= value <= 1 and (whole or value < 1)):
            end = "1" if whole else "below 1"
            raise SettingError(
                setting=f"model.{name}", value=value, expected=f"a share from 0 to {end}"
            )


def check_choice(choices: object, group: str = "model", /, **settings: str) -> None:
    """Refuse a value that is not one of the choices.

    Args:
        choices: a `Literal`.
        group: that the settings are of.
        settings: by name.

    Raises:
        SettingError: names the first that is not allowed.
    """
    for name, value in settings.items():
        if value not in get_args(choices):
            raise SettingError(
                setting=f"{group}.{name}",
                value=value,
                expected=f"one of {', '.join(get_args(choices))}",
            )
