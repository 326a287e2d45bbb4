"""From the words of a command to what Optuna draws from, and back.

The grammar is Hydra's. `range(1, 4)` is 1, 2, 3, as in Python and in Hydra's own multirun;
`interval(1, 4)` draws any number between, `int(interval(1, 4))` whole ones with both ends.
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
    """The words that say where Hydra is to put a run of a multirun."""
    return [f"hydra.sweep.dir={quoted(str(folder))}", f"hydra.sweep.subdir={quoted(subdir)}"]


@dataclass(frozen=True)
class Space:
    """What a search varies, and what it leaves alone.

    Attributes:
        distributions: of each setting that varies.
        fixed: words of the command that are the same in every trial.
    """

    distributions: dict[str, BaseDistribution]
    fixed: list[str]

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """The words that run a trial, whose settings may be more than the space's."""
        names = dict.fromkeys([*self.distributions, *params])
        return [*self.fixed, *(as_text(f"{name}={params[name]}") for name in names)]

    def edges(self) -> dict[str, list[Any]]:
        """For each setting that varies, the values that would be wrong first."""
        return {name: _edges(found) for name, found in self.distributions.items()}

    def grid(self) -> dict[str, list[Any]]:
        """Every value of each setting.

        Raises:
            SettingError: there is no end to them.
        """
        return {name: _values(name, found) for name, found in self.distributions.items()}


def parse(
    params: Mapping[str, Any] | None, arguments: Iterable[str], loader: ConfigLoader | None
) -> Space:
    """Read a space.

    Args:
        params: words by setting, as in a file.
        arguments: words of the command line, which come after those. Words that configure the
            search or grid are no part of its space.
        loader: knows the groups that `glob()` looks into.

    Raises:
        SettingError: an interval or range is empty or reversed, or a tag unknown.
        HydraException: a word is not in Hydra's grammar.
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
    """Whether a trial may have the value."""
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
    """A value of a configuration as `choice()` has it: numbers as they are, all else as words."""
    if isinstance(value, bool | int | float):
        return value
    return Override._get_value_element_as_str(value)  # what Hydra itself makes of choices


def _word(value: Any) -> str:
    """A value from a file: text is in the grammar already."""
    return value if isinstance(value, str) else str(as_word(value))


def _distribution(key: str, override: Override) -> BaseDistribution:
    value = override.value()
    refused = partial(SettingError, setting=key, value=override.get_value_string())
    unknown = set(getattr(value, "tags", ())) - {"log"}
    if unknown:
        raise refused(problem="the only tag is log", hint="as tag(log, interval(1e-4, 1e-1))")
    if isinstance(value, IntervalSweep):
        return _interval(value, refused)
    if isinstance(value, RangeSweep):
        return _range(value, refused)
    try:
        choices = [_choice(key, choice) for choice in override.sweep_iterator(Transformer.identity)]
    except HydraException as error:
        raise refused(problem=str(error)) from None
    if not choices:
        raise refused(problem="there is nothing to choose from")
    if len({(isinstance(choice, bool), choice) for choice in choices}) > len({*choices}):
        raise refused(problem="true equals 1 and false equals 0 in a search", hint="leave one out")
    return CategoricalDistribution(list(dict.fromkeys(choices)))


def _choice(key: str, value: Any) -> Any:
    """A choice as `as_word` has it; the words of a trial quote text that looks like a number."""
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
        raise refused(problem="an interval with tag log begins above 0")
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
            hint="range(1, 4) is 1, 2, 3, and range(3, 0, -1) is 3, 2, 1",
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
        return [low, low + 0.3821 * (high - low), high]  # 1.0 passes for a whole number
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
