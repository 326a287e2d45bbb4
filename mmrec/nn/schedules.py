"""Schedules of a router's regularisation, temperature, noise and top-k.

After each epoch, a schedule receives the router's statistics (`Observed`) and returns the
parameters of the next epoch (`Routing`). Its state is a dict of plain values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import cos, isfinite, pi
from typing import Any, Literal, NamedTuple, TypeAlias

from mmrec.config.checks import check_at_least, check_choice
from mmrec.config.errors import SettingError

Watch = Literal["pairs", "gates", "load"]
Kept: TypeAlias = int | Sequence[int | None] | None  # top_k: constant, or first and last value
Shape = Literal["linear", "cosine"]


class TooFewExperts(SettingError):
    """Raised if `top_k` of a schedule exceeds the number of experts of the model."""


class Routing(NamedTuple):
    """Parameters of the router in an epoch.

    Attributes:
        coverage: weight of `KL(uniform || mean gate)`, which spreads the load over the experts.
        confidence: weight of the entropy `H_s`, which makes the gates of each pair sparser.
        temperature: temperature of the softmax over experts.
        noise: standard deviation of the noise added to logits in training.
        top_k: number of experts kept per pair (MAMEX: per modality); None keeps all.
    """

    coverage: float
    confidence: float
    temperature: float
    noise: float
    top_k: int | None


class Observed(NamedTuple):
    """Statistics of a router over the training positives of an epoch, normalised to 0..1.

    Attributes:
        pair_entropy: mean entropy H_s of the gates of a pair, divided by log E (or the log of the
            number of experts available to the pair); 0 if each pair uses a single expert.
        gate_entropy: entropy H_m of the mean gates before top-k, divided in the same way.
        load_entropy: entropy of the mean gates after top-k; 1 for an even load.
    """

    pair_entropy: float
    gate_entropy: float
    load_entropy: float


class RouterSchedule(ABC):
    """Interpolate between a first and a last value of each parameter, as `progress` goes 0 to 1.

    Args:
        coverage: first and last weight of the coverage term.
        confidence: first and last weight of the confidence term.
        temperature: first and last temperature.
        noise: first and last standard deviation of the noise.
        top_k: number of experts kept per pair, None for all: one value, or a first and a last
            value, where the last one is used once `progress` is 1.

    Raises:
        SettingError: the number of values is not two, or a value is out of range.
    """

    def __init__(
        self,
        *,
        coverage: Sequence[float],
        confidence: Sequence[float],
        temperature: Sequence[float],
        noise: Sequence[float],
        top_k: Kept,
    ) -> None:
        pairs = {
            "coverage": coverage,
            "confidence": confidence,
            "temperature": temperature,
            "noise": noise,
        }
        for name, pair in pairs.items():
            if len(pair) != 2:
                raise SettingError(
                    setting=f"router_schedule.{name}",
                    value=[*pair],
                    expected="two numbers, the first and the last value",
                )
            if not all(isfinite(x) and x >= 0 for x in pair) or (
                name == "temperature" and min(pair) == 0
            ):
                least = "above 0" if name == "temperature" else "of at least 0"
                raise SettingError(
                    setting=f"router_schedule.{name}",
                    value=[*pair],
                    expected=f"finite values {least}",
                )
        kept = [*top_k] if isinstance(top_k, Sequence) else [top_k, top_k]
        if len(kept) != 2 or any(k is not None and k < 1 for k in kept):
            raise SettingError(
                setting="router_schedule.top_k",
                value=[*top_k] if isinstance(top_k, Sequence) else top_k,
                expected="at least 1, or null for all; or a list of a first and a last value",
            )
        self._pairs, self._kept = pairs, kept
        self.epoch = 0

    @property
    @abstractmethod
    def progress(self) -> float:
        """Progress from 0, the first values, to 1, the last ones."""

    @property
    def stage(self) -> int:
        """Stage of the schedule: 1, and 2 once the parameters start to change."""
        return 1

    @property
    def waits_for(self) -> str | None:
        """Condition for the start of stage 2; None without one, or once it has started."""
        return None

    def routing(self) -> Routing:
        """Return the current parameters."""
        share = self.progress
        now = {name: a + share * (b - a) for name, (a, b) in self._pairs.items()}
        return Routing(**now, top_k=self._kept[share == 1])

    @property
    def most_kept(self) -> int | None:
        """Largest value of `top_k`; None if it is always None."""
        return max((k for k in self._kept if k is not None), default=None)

    def end_epoch(self, observed: Observed) -> None:
        """Advance the schedule by one epoch with its statistics."""
        self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule as plain values."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the schedule."""
        self.epoch = state["epoch"]


class Constant(RouterSchedule):
    """Constant parameters.

    Args:
        coverage: weight of the coverage term.
        confidence: weight of the confidence term.
        temperature: temperature of the gates.
        noise: standard deviation of the noise added to logits in training.
        top_k: number of experts kept per pair; None keeps all.
    """

    def __init__(
        self,
        *,
        coverage: float = 0.0,
        confidence: float = 0.0,
        temperature: float = 1.0,
        noise: float = 0.0,
        top_k: int | None = 3,
    ) -> None:
        super().__init__(
            coverage=(coverage, coverage),
            confidence=(confidence, confidence),
            temperature=(temperature, temperature),
            noise=(noise, noise),
            top_k=top_k,
        )

    @property
    def progress(self) -> float:
        """Always 0."""
        return 0.0


class Ramp(RouterSchedule):
    """Change from the first to the last values over a fixed number of epochs.

    Args:
        start: number of epochs before the ramp starts.
        epochs: length of the ramp in epochs; 0 is a step.
        shape: `linear`, or `cosine`, which changes slowly at the start and the end.
        coverage: first and last weight of the coverage term.
        confidence: first and last weight of the confidence term.
        temperature: first and last temperature.
        noise: first and last standard deviation of the noise.
        top_k: number of experts kept per pair, None for all: one value, or a first and a last
            value. The last one is used from the end of the ramp.
    """

    def __init__(
        self,
        *,
        start: int = 0,
        epochs: int = 50,
        shape: Shape = "linear",
        coverage: Sequence[float] = (1.0, 0.5),
        confidence: Sequence[float] = (0.0, 0.1),
        temperature: Sequence[float] = (2.0, 1.0),
        noise: Sequence[float] = (0.0, 0.0),
        top_k: Kept = (None, 3),
    ) -> None:
        super().__init__(
            coverage=coverage,
            confidence=confidence,
            temperature=temperature,
            noise=noise,
            top_k=top_k,
        )
        check_choice(Shape, "router_schedule", shape=shape)
        check_at_least(0, "router_schedule", start=start, epochs=epochs)
        self.start, self.epochs, self.shape = start, epochs, shape

    @property
    def progress(self) -> float:
        """Progress by the number of completed epochs."""
        share = _share(self.epoch - self.start, self.epochs)
        return share if self.shape == "linear" else (1 - cos(pi * share)) / 2

    @property
    def stage(self) -> int:
        """1 before the ramp starts, 2 after."""
        return 1 if self.epoch < self.start else 2

    @property
    def waits_for(self) -> str | None:
        """The epoch at which the ramp starts; None once it has started."""
        return f"epoch {self.start} (router_schedule.start)" if self.stage == 1 else None


class EntropyTriggered(RouterSchedule):
    """Two stages: dense, nearly equal gates, then sparse gates once their entropy has settled.

    The two stages of MAGNET (https://arxiv.org/abs/2602.20723); the formulas and constants are
    ours. By default, the trigger watches the entropy of the gates of a pair, relative to the first
    epoch:

        `d_t = 1 - H_s(t)`,  `r_t = d_t / d_1`

    where `H_s(t)` is the mean entropy of the gates of a training pair in epoch t, divided by log E.
    For nearly equal gates, `d_t` is proportional to the variance of the logits of a pair divided by
    the squared temperature, so `r_t` does not depend on the temperature. `m_t` is the mean of r
    over the last `window` epochs. Stage 2 starts after the first epoch `t >= earliest` with

        `m_t >= threshold`  and  `|m_t - m_(t - window)| <= tolerance m_t`,

    and at the latest after epoch `latest`.

    With `watch="gates"` or `"load"`, `r_t` is the entropy H_m of the mean gates, before or after
    top-k, and `tolerance` is an absolute difference. In all our runs of MAGNET, H_m is above 0.95
    from the first epoch, so stage 2 starts at `earliest`.

    Args:
        watch: entropy of the gates of `pairs`, of the mean `gates`, or of the `load`.
        threshold: minimum mean of the watched value over a window.
        tolerance: maximum change of this mean between consecutive windows.
        window: length of a window in epochs.
        earliest: minimum number of epochs before stage 2.
        latest: maximum number of epochs before stage 2; None for no limit.
        ramp: number of epochs from the first to the last values; 0 is a step.
        coverage: first and last weight of the coverage term.
        confidence: first and last weight of the confidence term.
        temperature: first and last temperature.
        noise: first and last standard deviation of the noise.
        top_k: number of experts kept per pair, None for all: one value, or a first and a last
            value. The last one is used from the end of the ramp.

    Attributes:
        trigger: number of epochs before stage 2; None in stage 1.
    """

    def __init__(
        self,
        *,
        watch: Watch = "pairs",
        threshold: float = 1.5,
        tolerance: float = 0.1,
        window: int = 5,
        earliest: int = 10,
        latest: int | None = 50,
        ramp: int = 10,
        coverage: Sequence[float] = (1.0, 0.5),
        confidence: Sequence[float] = (0.0, 0.1),
        temperature: Sequence[float] = (2.0, 1.0),
        noise: Sequence[float] = (0.0, 0.0),
        top_k: Kept = (None, 3),
    ) -> None:
        super().__init__(
            coverage=coverage,
            confidence=confidence,
            temperature=temperature,
            noise=noise,
            top_k=top_k,
        )
        check_choice(Watch, "router_schedule", watch=watch)
        check_at_least(1, "router_schedule", window=window)
        check_at_least(0, "router_schedule", threshold=threshold, tolerance=tolerance)
        check_at_least(0, "router_schedule", earliest=earliest, ramp=ramp)
        if watch != "pairs" and threshold > 1:
            raise SettingError(
                setting="router_schedule.threshold",
                value=threshold,
                expected=f"0 to 1, the range of the entropy with router_schedule.watch={watch}",
            )
        if latest is not None and latest < earliest:
            raise SettingError(
                setting="router_schedule.latest",
                value=latest,
                problem=f"it is less than router_schedule.earliest={earliest}",
                hint="set a later epoch, or null for no limit",
            )
        self.watch = watch
        self.threshold, self.tolerance, self.window = threshold, tolerance, window
        self.earliest, self.latest, self.ramp = earliest, latest, ramp
        self.trigger: int | None = None
        self._first: float | None = None  # watched value in the first epoch
        self._watched: list[float] = []  # watched values in the last two windows

    @property
    def progress(self) -> float:
        """Progress by the number of epochs since the trigger."""
        return 0.0 if self.trigger is None else _share(self.epoch - self.trigger, self.ramp)

    @property
    def stage(self) -> int:
        """1 before the trigger, 2 afterwards."""
        return 1 if self.trigger is None else 2

    @property
    def waits_for(self) -> str | None:
        """The earliest epoch or the entropy that stage 2 waits for; None in stage 2."""
        if self.stage == 2:
            return None
        if self.epoch < self.earliest:
            return f"epoch {self.earliest} (router_schedule.earliest)"
        return f"a settled entropy of the {self.watch} (router_schedule.threshold and tolerance)"

    def end_epoch(self, observed: Observed) -> None:
        """Record the watched value, and start stage 2 if it has settled."""
        super().end_epoch(observed)
        now = {
            "pairs": 1 - observed.pair_entropy,
            "gates": observed.gate_entropy,
            "load": observed.load_entropy,
        }[self.watch]
        self._first = now if self._first is None else self._first
        self._watched = [*self._watched, now][-2 * self.window :]
        if self.trigger is not None or self.epoch < self.earliest:
            return
        if self._rests() or (self.latest is not None and self.epoch >= self.latest):
            self.trigger = self.epoch

    def _rests(self) -> bool:
        if self._first is None or len(self._watched) < 2 * self.window:
            return False
        before, now = (
            sum(part) / self.window
            for part in (self._watched[: self.window], self._watched[self.window :])
        )
        if self.watch == "pairs":
            least, most = self.threshold * self._first, self.tolerance * now
        else:
            least, most = self.threshold, self.tolerance
        return now >= least and abs(now - before) <= most

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the trigger and the watched values."""
        changed = {"trigger": self.trigger, "first": self._first, "watched": list(self._watched)}
        return {**super().state_dict(), **changed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state, also of earlier versions without `first`."""
        super().load_state_dict(state)
        self.trigger, self._watched = state["trigger"], list(state["watched"])
        self._first = state.get("first", next(iter(self._watched), None))


def _share(passed: int, of: int) -> float:
    """Return the completed share of a ramp, clipped to 0..1."""
    if of == 0:
        return float(passed >= 0)
    return min(max(passed / of, 0.0), 1.0)
