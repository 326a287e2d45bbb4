"""What settings can be; the errors name the setting as a user writes it."""

from __future__ import annotations

from math import isfinite
from typing import get_args


def check_at_least(least: float, group: str = "model", /, **settings: float) -> None:
    """Refuse what is smaller, infinite or NaN.

    Args:
        least: smallest value that is allowed.
        group: that the settings are of.
        settings: by name.

    Raises:
        ValueError: names the first that cannot be.
    """
    for name, value in settings.items():
        if not (isfinite(value) and value >= least):
            raise ValueError(f"{group}.{name} is {value}; give a finite number of at least {least}")


def check_share(*, whole: bool = True, **settings: float) -> None:
    """Refuse what is not a share of something.

    Args:
        whole: 1 is allowed.
        settings: of a model, by name.

    Raises:
        ValueError: names the first that cannot be.
    """
    for name, value in settings.items():
        if not (0 <= value <= 1 and (whole or value < 1)):
            end = "1" if whole else "below 1"
            raise ValueError(f"model.{name} is {value}; give a share from 0 to {end}")


def check_choice(choices: object, group: str = "model", /, **settings: str) -> None:
    """Refuse what is none of the choices.

    Args:
        choices: a `Literal`.
        group: that the settings are of.
        settings: by name.

    Raises:
        ValueError: names the first that cannot be.
    """
    for name, value in settings.items():
        if value not in get_args(choices):
            raise ValueError(
                f"{group}.{name} is {value}; choose one of {', '.join(get_args(choices))}"
            )
