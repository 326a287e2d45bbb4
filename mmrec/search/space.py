"""Convert overrides to Optuna distributions, and parameters of a trial to overrides.

The grammar is Hydra's. `range(1, 4)` has the values 1, 2, 3, as in Python and in Hydra's own
multirun. `interval(1, 4)` draws real numbers, `int(interval(1, 4))` integers including both ends.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from mmrec.config.errors import SettingError
from mmrec.config.words import as_text, is_text, quoted, refuse_numbers, spelled_out

MULTIRUN_WORD = re.compile(r"[~+]*(?:sweep|grid)(?:[./@=]|$)")


def place(folder: Path, subdir: str) -> list[str]:
    """Return the overrides that set the folder of a run in a multirun."""
    return [f"hydra.sweep.dir={quoted(str(folder))}", f"hydra.sweep.subdir={quoted(subdir)}"]


@dataclass(frozen=True)
class Space:
    """Search space.

    Attributes:
        distributions: distribution of each setting that varies.
        fixed: overrides that all trials share.
    """

    distributions: dict[str, BaseDistribution]
    fixed: list[str]

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a trial; `params` may contain settings outside the space."""
        names = dict.fromkeys([*self.distributions, *params])
        return [*self.fixed, *(as_text(f"{name}={params[name]}") for name in names)]

    def edges(self) -> dict[str, list[Any]]:
        """Return the values to check for each setting that varies: bounds, or all choices."""
        return {name: _edges(found) for name, found in self.distributions.items()}

    def grid(self) -> dict[str, list[Any]]:
        """Return all values of each setting.

        Raises:
            SettingError: a setting has a continuous or logarithmic range.
        """
        return {name: _values(name, found) for name, found in self.distributions.items()}


def parse(
    params: Mapping[str, Any] | None, arguments: Iterable[str], loader: ConfigLoader | None
) -> Space:
    """Parse a search space.

    Args:
        params: values by setting, from a configuration file.
        arguments: overrides on the command line, which take precedence. Overrides of the search or
            grid itself are ignored.
        loader: resolves `glob()` in configuration groups.

    Raises:
        SettingError: an interval or range is empty or reversed, or a tag is unknown.
        HydraException: an override does not follow Hydra's grammar.
    """
    refuse_numbers(params or {})
    words = [
        spelled_out(as_text(f"{name}={_word(value)}")) for name, value in (params or {}).items()
    ]
    words += [word for word in arguments if not MULTIRUN_WORD.match(word)]
    chosen: dict[str, Override] = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides(words):
        chosen.pop(override.get_key_element(), None)
        chosen[override.get_key_element()] = override
    return Space(
        {key: _distribution(key, o) for key, o in chosen.items() if o.is_sweep_override()},
        [str(o.input_line) for o in chosen.values() if not o.is_sweep_override()],
    )


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a value lies in a distribution."""
    match distribution:
        case CategoricalDistribution():
            return value in distribution.choices
        case IntDistribution() | FloatDistribution():
            if isinstance(value, bool) or not isinstance(value, int | float):
                return False
            if not distribution.low <= value <= distribution.high:
                return False
            if distribution.step is None:
                return True
            steps = Decimal(str(value)) - Decimal(str(distribution.low))
            return steps % Decimal(str(distribution.step)) == 0
    return False


def as_word(value: Any) -> Any:
    """Convert a configuration value to a choice: numbers stay numbers, the rest becomes text."""
    if isinstance(value, bool | int | float):
        return value
    return Override._get_value_element_as_str(value)  # as Hydra formats choices


def _word(value: Any) -> str:
    """Convert a value from a file to an override; text is already in Hydra's grammar."""
    return value if isinstance(value, str) else str(as_word(value))


def _distribution(key: str, override: Override) -> BaseDistribution:
    value = override.value()
    refused = partial(SettingError, setting=key, value=override.get_value_string())
    unknown = set(getattr(value, "tags", ())) - {"log"}
    if unknown:
        raise refused(
            problem="unknown tag", hint="use log, for example tag(log, interval(1e-4, 1e-1))"
        )
    if isinstance(value, IntervalSweep):
        return _interval(value, refused)
    if isinstance(value, RangeSweep):
        return _range(value, refused)
    try:
        choices = [_choice(key, choice) for choice in override.sweep_iterator(Transformer.identity)]
    except HydraException as error:
        raise refused(problem=str(error)) from None
    if not choices:
        raise refused(problem="there are no choices")
    if len({(isinstance(choice, bool), choice) for choice in choices}) > len({*choices}):
        raise refused(problem="true equals 1 and false equals 0 in a search", hint="remove one")
    return CategoricalDistribution(list(dict.fromkeys(choices)))


def _choice(key: str, value: Any) -> Any:
    """Convert a choice with `as_word`, without the quotes of text that looks like a number."""
    if isinstance(value, QuotedString) and is_text(key.lstrip("+")):
        value = value.text
    return as_word(value)


def _interval(value: IntervalSweep, refused: partial[SettingError]) -> BaseDistribution:
    low, high, log = value.start, value.end, "log" in value.tags
    assert low is not None
    assert high is not None
    if not low < high:
        wrong = "empty" if low == high else "reversed"
        raise refused(problem=f"the interval is {wrong}", hint="give interval(low, high)")
    if log and low <= 0:
        raise refused(problem="the lower end of a log interval must be above 0")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(value: RangeSweep, refused: partial[SettingError]) -> BaseDistribution:
    ends = (value.start, value.stop, value.step)
    start, stop, step = (Decimal(str(end)) for end in ends)
    count = 0 if step == 0 else max(0, math.ceil((stop - start) / step))
    if count == 0:
        raise refused(
            problem="the range is empty",
            hint="range(1, 4) has the values 1, 2, 3; range(3, 0, -1) has 3, 2, 1",
        )
    low, high = sorted((start, start + (count - 1) * step))
    if all(isinstance(end, int) for end in ends):
        return IntDistribution(int(low), int(high), step=int(abs(step)))
    return FloatDistribution(float(low), float(high), step=float(abs(step)))


def _edges(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    if distribution.step is None:
        return [
            low,
            low + 0.3821 * (high - low),
            high,
        ]  # one non-integer value: 1.0 is accepted as an integer
    return [low, high]


def _values(name: str, distribution: BaseDistribution) -> list[Any]:
    match distribution:
        case CategoricalDistribution():
            return list(distribution.choices)
        case IntDistribution(log=False):
            return list(range(distribution.low, distribution.high + 1, distribution.step))
        case FloatDistribution(step=float()):
            low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
            count = int((Decimal(str(distribution.high)) - low) / step) + 1
            return [float(low + place * step) for place in range(count)]
    raise SettingError(
        setting=name,
        problem="a grid needs values, not an interval",
        hint=f"give {name}=choice(...) or range(...)",
    )
