"""How a router's regularisation, temperature, noise and top-k move during training.

A schedule is told once an epoch what the router did (`Observed`) and says what holds in the next
epoch (`Routing`). It is a plain object; its state is a dict of plain values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import cos, isfinite, pi
from typing import Any, Literal, NamedTuple, TypeAlias

from mmrec.config.checks import check_at_least, check_choice
from mmrec.config.errors import SettingError

Watch = Literal["pairs", "gates", "load"]
Kept: TypeAlias = int | Sequence[int | None] | None  # experts: throughout, or first and last
Shape = Literal["linear", "cosine"]


class TooFewExperts(SettingError):
    """A schedule keeps more experts than a model has on its data."""


class Routing(NamedTuple):
    """What holds for an epoch.

    Attributes:
        coverage: weight of `KL(uniform || mean gate)`, which spreads the load over the experts.
        confidence: weight of `H_s`, which makes the router decide for each pair.
        temperature: of the gates' softmax.
        noise: standard deviation of what is added to logits in training.
        top_k: experts that a pair keeps, in MAMEX of each modality; None for all.
    """

    coverage: float
    confidence: float
    temperature: float
    noise: float
    top_k: int | None


class Observed(NamedTuple):
    """What a router did in an epoch, on its training positives.

    Attributes:
        pair_entropy: H_s, mean entropy of a pair's gates over log E, or of what the pair has of
            experts; 0..1, 0 is decided.
        gate_entropy: H_m, entropy of the mean gates, likewise, before experts are left out; 0..1.
        load_entropy: the same after that: 1 is evenly used.
    """

    pair_entropy: float
    gate_entropy: float
    load_entropy: float


class RouterSchedule(ABC):
    """From a first setting to a second one, as `progress` goes from 0 to 1.

    Args:
        coverage: first and last weight of the coverage term.
        confidence: first and last weight of the confidence term.
        temperature: first and last.
        noise: first and last.
        top_k: number of experts kept per pair, None for all: one value for the whole training, or
            two, of which the second replaces the first once `progress` is 1.

    Raises:
        SettingError: not two values, or a value out of range.
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
                    expected="its first and last value",
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
                expected="1 or more, or null for all; or two of these, first and last",
            )
        self._pairs, self._kept = pairs, kept
        self.epoch = 0

    @property
    @abstractmethod
    def progress(self) -> float:
        """0 at the first setting, 1 at the last."""

    @property
    def stage(self) -> int:
        """1, and 2 once the setting begins to move."""
        return 1

    @property
    def waits_for(self) -> str | None:
        """What a second stage waits for, if there is to be one and it has not begun."""
        return None

    def routing(self) -> Routing:
        """What holds now."""
        share = self.progress
        now = {name: a + share * (b - a) for name, (a, b) in self._pairs.items()}
        return Routing(**now, top_k=self._kept[share == 1])

    @property
    def most_kept(self) -> int | None:
        """Largest number of experts that a pair is to keep, apart from all."""
        return max((k for k in self._kept if k is not None), default=None)

    def end_epoch(self, observed: Observed) -> None:
        """Take notice of an epoch."""
        self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """All that an epoch has changed, as plain values."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.epoch = state["epoch"]


class Constant(RouterSchedule):
    """One setting for ever: coverage alone, confidence alone, both, or none.

    Args:
        coverage: weight of the coverage term.
        confidence: weight of the confidence term.
        temperature: of the gates.
        noise: of the logits in training.
        top_k: experts that a pair keeps; None for all.
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
        """None."""
        return 0.0


class Ramp(RouterSchedule):
    """From the first setting to the last by time alone.

    Args:
        start: epochs before it begins to move.
        epochs: that it takes; 0 is a step.
        shape: `linear`, or `cosine`, which begins and ends gently.
        coverage: first and last weight of the coverage term.
        confidence: first and last weight of the confidence term.
        temperature: first and last.
        noise: first and last.
        top_k: number of experts kept per pair, None for all: one value, or first and last. The
            last one holds from the end of the ramp.
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
        """By the number of epochs that have passed."""
        share = _share(self.epoch - self.start, self.epochs)
        return share if self.shape == "linear" else (1 - cos(pi * share)) / 2

    @property
    def stage(self) -> int:
        """1 before it begins to move, 2 after."""
        return 1 if self.epoch < self.start else 2

    @property
    def waits_for(self) -> str | None:
        """The epoch that was asked for."""
        return f"epoch {self.start} (router_schedule.start)" if self.stage == 1 else None


class EntropyTriggered(RouterSchedule):
    """Dense, nearly equal gates first; sharper gates of few experts once the gates have settled.

    MAGNET's two stages (https://arxiv.org/abs/2602.20723); the formulas and numbers are ours. By
    default the trigger watches the entropy of a pair's gates, relative to the first epoch:

        `d_t = 1 - H_s(t)`,  `r_t = d_t / d_1`

    where `H_s(t)` is the mean entropy of a training pair's gates in epoch t over log E, so `d_t`
    is how decided these gates are. Where gates are nearly equal, `d_t` is proportional to the
    variance of a pair's logits over the squared temperature, so `r_t` does not depend on the
    temperature. `m_t` is the mean of r over the last `window` epochs. Stage 2 begins after the
    first epoch t that is not before `earliest` with

        `m_t >= threshold`  and  `|m_t - m_(t - window)| <= tolerance m_t`,

    in words: pairs are at least `threshold` times as decided as in the first epoch, and since the
    window before this has changed by at most a share of `tolerance`. In any case it begins after
    epoch `latest`.

    With `watch=gates` or `load`, `r_t` is the entropy H_m of the mean gates, before or after the
    cut to top-k, and `tolerance` is a difference, not a share. H_m is above .95 from the first
    epoch in all our runs of MAGNET, so that it triggers at `earliest`.

    Args:
        watch: entropy of a pair's gates (`pairs`), of the mean `gates`, or of the `load`.
        threshold: least mean of the watched value over a window.
        tolerance: largest change of this mean from window to window.
        window: number of epochs.
        earliest: number of epochs before which stage 2 does not begin.
        latest: number of epochs after which it begins in any case; None for never.
        ramp: number of epochs from the first setting to the last; 0 is a step.
        coverage: first and last weight of the coverage term.
        confidence: first and last weight of the confidence term.
        temperature: first and last.
        noise: first and last.
        top_k: number of experts kept per pair, None for all: one value, or first and last. The
            last one holds from the end of the ramp, when gates are sharpest.

    Attributes:
        trigger: number of epochs after which stage 2 began; None before.
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
                expected=f"0 to 1, as router_schedule.watch={watch} is an entropy",
            )
        if latest is not None and latest < earliest:
            raise SettingError(
                setting="router_schedule.latest",
                value=latest,
                problem=f"it is before router_schedule.earliest={earliest}",
                hint="give a later epoch, or null for never",
            )
        self.watch = watch
        self.threshold, self.tolerance, self.window = threshold, tolerance, window
        self.earliest, self.latest, self.ramp = earliest, latest, ramp
        self.trigger: int | None = None
        self._first: float | None = None  # watched value of the first epoch
        self._watched: list[float] = []  # of the last two windows

    @property
    def progress(self) -> float:
        """By the number of epochs since the trigger."""
        return 0.0 if self.trigger is None else _share(self.epoch - self.trigger, self.ramp)

    @property
    def stage(self) -> int:
        """1 before the trigger, 2 after."""
        return 1 if self.trigger is None else 2

    @property
    def waits_for(self) -> str | None:
        """The first epoch that may trigger it, or what it watches."""
        if self.stage == 2:
            return None
        if self.epoch < self.earliest:
            return f"epoch {self.earliest} (router_schedule.earliest)"
        return f"the entropy of the {self.watch} to rest (router_schedule.threshold, tolerance)"

    def end_epoch(self, observed: Observed) -> None:
        """Begin stage 2 if it is time."""
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
        """Epoch, trigger, and the values that it looks at."""
        changed = {"trigger": self.trigger, "first": self._first, "watched": list(self._watched)}
        return {**super().state_dict(), **changed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, also in earlier versions, which had no `first`."""
        super().load_state_dict(state)
        self.trigger, self._watched = state["trigger"], list(state["watched"])
        self._first = state.get("first", next(iter(self._watched), None))


def _share(passed: int, of: int) -> float:
    """0 before the start, 1 at the end and after."""
    if of == 0:
        return float(passed >= 0)
    return min(max(passed / of, 0.0), 1.0)
