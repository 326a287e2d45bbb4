"""What the kinds of planted data share: roles of items, shares, activity, and checks.

Shape legend: U users, I items, M modalities.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Generator, Tensor

from mmrec.config.errors import SettingError

BEGIN, SPAN = 1_500_000_000, 3 * 365 * 86_400  # seconds
FEWEST = 5  # interactions of a user
DOMINANT = "dominant/"

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, eq=False, kw_only=True)
class Roles:
    """The truth about items that every kind of planted data has.

    Attributes:
        role_names: every role; `dominant/<modality>` if this modality alone informs.
        role: [I] int64, an index into role_names.
        informative: [I, M] float32, the share of the item's factors that the modality shows.
        category: [I] int64.
    """

    role_names: tuple[str, ...]
    role: Tensor
    informative: Tensor
    category: Tensor


def deal(shares: Sequence[float], count: int, rng: Generator) -> Tensor:
    """[count] int64: 0, 1, ... in the given shares, exact but for rounding, in random order."""
    edges = (torch.tensor(shares, dtype=torch.float64).cumsum(0)[:-1] * count).round()
    return torch.bucketize(torch.randperm(count, generator=rng), edges, right=True)


def draw_activity(users: int, mean: float, most: int, rng: Generator) -> Tensor:
    """[U] int64: interactions of each user, FEWEST and a log-normal number more."""
    extra = (torch.randn(users, generator=rng) - 0.5).exp() * (mean - FEWEST)  # E exp(z - 1/2) = 1
    return (FEWEST + extra.round().long()).clamp(max=most)


def check_modalities(names: Sequence[str]) -> None:
    """Refuse an empty list of modalities, and a name that is there twice."""
    if not names or len(set(names)) < len(names):
        raise SettingError(
            setting="modalities", value=[*names], expected="one name or more, each once"
        )


def check_names(argument: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a key that is not among the known names."""
    known = tuple(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise SettingError(
                setting=f"{argument}.{name}",
                expected=f"a name of {', '.join(known)}",
                hint=f"did you mean {near[0]}?",
            )


def check_range(argument: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a value outside `low` to `high`, and one that is not finite."""
    if not (low <= value <= high and math.isfinite(value)):
        bounds = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
        raise SettingError(setting=argument, value=value, expected=bounds)


def by_modality(
    argument: str,
    given: Number | Mapping[str, Number],
    names: tuple[str, ...],
    low: float,
    high: float = math.inf,
) -> list[Number]:
    """Return the value of each modality, in their order; one number is the value of all."""
    by_name = given if isinstance(given, Mapping) else dict.fromkeys(names, given)
    check_names(argument, by_name, names)
    for name in names:
        if name not in by_name:
            raise SettingError(
                setting=f"{argument}.{name}", problem="it has no value", hint="add one"
            )
        check_range(f"{argument}.{name}", by_name[name], low, high)
    return [by_name[name] for name in names]
