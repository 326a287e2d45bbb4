"""Evaluation protocol: candidates, masked items, histories and held-out items.

Shapes: I items, N counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from mmrec.config.errors import SettingError
from mmrec.config.literals import Seen, TestHistory
from mmrec.data.corpus import TEST, TRAIN, VAL, Corpus, Interactions, together

Candidates = Literal["all", "cold", "split"]
Part = Literal["val", "test", "test_warm", "test_all"]


@dataclass(frozen=True)
class Evaluation:
    """Settings of an evaluation.

    Attributes:
        cutoffs: lengths of the evaluated lists, in ascending order.
        seen: items that are masked for a user. `train`: training items; `train+val`: training items
            and, at test, also validation items; `none`: no items. None selects `none` for models
            that use histories, and `train` for others. Held-out items are never masked.
        item_groups: shares of the head items (most popular) and of the mid items; the remaining
            items are the tail.
        user_groups: shares of the active users (most training interactions) and of the regular
            users; the remaining users are occasional.
        candidates: items to rank: `all`; `cold`, the cold-start items of validation and test; or
            `split`, the cold-start items of the evaluated split. None selects `cold` for data with
            cold-start items, and `all` for others.
        history: parts that form the sequences of test queries; at validation, it is always `train`.
            It applies only to models that use histories. None selects `train+val` for them, and
            `train` for others.

    Raises:
        SettingError: a setting is invalid.
    """

    cutoffs: tuple[int, ...] = (5, 10, 20, 50)
    seen: Seen | None = None
    item_groups: tuple[float, float] = (0.2, 0.3)
    user_groups: tuple[float, float] = (0.2, 0.3)
    candidates: Candidates | None = None
    history: TestHistory | None = None

    def __post_init__(self) -> None:
        # Settings from YAML are lists.
        object.__setattr__(self, "cutoffs", tuple(self.cutoffs))
        whole = all(type(k) is int and k > 0 for k in self.cutoffs)
        if not (self.cutoffs and whole and list(self.cutoffs) == sorted(set(self.cutoffs))):
            raise SettingError(
                setting="cutoffs",
                value=[*self.cutoffs],
                expected="positive integers in ascending order, for example [5, 10, 20, 50]",
            )
        for name, kind in (("seen", Seen), ("candidates", Candidates), ("history", TestHistory)):
            value, choices = getattr(self, name), get_args(kind)
            if value not in (None, *choices):
                expected = f"one of {', '.join(choices)}"
                raise SettingError(setting=name, value=value, expected=expected)
        for name, shares in (("item_groups", self.item_groups), ("user_groups", self.user_groups)):
            object.__setattr__(self, name, tuple(shares))
            if len(shares) != 2 or min(shares) <= 0 or sum(shares) >= 1:
                raise SettingError(
                    setting=name,
                    value=[*shares],
                    expected="two positive shares with a sum below 1, for example [0.2, 0.3]",
                )

    def resolved(self, needs_history: bool) -> Evaluation:
        """Return a copy with the default values of `seen` and `history` for a model.

        Args:
            needs_history: whether the model uses histories.
        """
        return replace(
            self,
            seen=self.seen or ("none" if needs_history else "train"),
            history=self.history or ("train+val" if needs_history else "train"),
        )

    def candidates_in(self, corpus: Corpus) -> Candidates:
        """Return the kind of candidates for a data set.

        Raises:
            SettingError: `candidates` selects cold-start items, but the data have none.
        """
        if self.candidates is None:
            return "all" if corpus.cold is None else "cold"
        if self.candidates != "all" and corpus.cold is None:
            raise SettingError(
                setting="evaluation.candidates",
                value=self.candidates,
                problem=f"it requires cold-start items, but {corpus.name} has none",
                hint="use data.split=item_cold, or remove the setting",
            )
        return self.candidates

    def card(self, corpus: Corpus) -> dict[str, str]:
        """Return the evaluation settings recorded in results, except the cutoffs."""
        resolved = self.resolved(needs_history=False)
        return {
            "seen": str(resolved.seen),
            "candidates": self.candidates_in(corpus),
            "history": str(resolved.history),
        }


def held_out_in(corpus: Corpus, part: Part) -> Interactions:
    """Return the held-out interactions of a part."""
    if part == "val":
        return corpus.val
    if part == "test":
        return corpus.test
    assert corpus.warm is not None, f"{part} requires cold-start items, but there are none"
    return corpus.warm if part == "test_warm" else together(corpus.test, corpus.warm)


def check_rankable(corpus: Corpus, evaluation: Evaluation) -> None:
    """Check before a run that all parts have enough candidates for the cutoffs.

    Raises:
        SettingError: a cutoff exceeds the number of candidates; the hint has valid cutoffs.
    """
    parts: tuple[Part, ...] = ("val", "test", *beside_test(corpus))
    for part in parts:
        candidates(corpus, part, evaluation)


def beside_test(corpus: Corpus) -> tuple[Part, ...]:
    """Return the additional parts evaluated at test for data with cold-start items."""
    warm = corpus.cold is not None and corpus.warm is not None and len(corpus.warm)
    return ("test_warm", "test_all") if warm else ()


def candidates(corpus: Corpus, part: Part, evaluation: Evaluation) -> Tensor:
    """Return the mask of the candidates of a part: [I] bool.

    Raises:
        SettingError: a cutoff exceeds the number of candidates.
    """
    ranked, what = _ranked(corpus, part, evaluation)
    cutoffs = evaluation.cutoffs
    if cutoffs[-1] > (count := int(ranked.sum())):
        few = [k for k in cutoffs if k < count] or [max(1, count // 2)]
        fits = ",".join(map(str, few))
        raise SettingError(
            setting="evaluation.cutoffs",
            value=[*cutoffs],
            problem=f"the cutoff {cutoffs[-1]} exceeds the {count} {what} of {corpus.name}",
            hint=f"set evaluation.cutoffs=[{fits}] monitor=val/recall@{few[-1]} for a run, or "
            f"cutoffs=[{fits}] for mmrec evaluate",
        )
    return ranked


def _ranked(corpus: Corpus, part: Part, evaluation: Evaluation) -> tuple[Tensor, str]:
    """Return the candidates of a part, and their name for error messages."""
    kind = evaluation.candidates_in(corpus)
    if corpus.cold is not None and part == "test_warm":
        return corpus.cold == TRAIN, "warm items"
    if corpus.cold is None or part == "test_all" or kind == "all":
        return torch.ones(corpus.n_items, dtype=torch.bool), "items"
    if kind == "cold":
        return corpus.cold != TRAIN, "cold-start items"
    of = "val" if part == "val" else "test"
    return corpus.cold == (VAL if of == "val" else TEST), f"cold-start items in {of}"


def seen_interactions(corpus: Corpus, part: Part, seen: Seen | None) -> Interactions:
    """Return the interactions that are masked when ranking.

    Args:
        corpus: data set.
        part: evaluated part.
        seen: masking rule of a resolved evaluation.
    """
    if seen == "none":
        return corpus.train.select(torch.empty(0, dtype=torch.int64))
    if seen == "train" or part == "val":
        return corpus.train
    return together(corpus.train, corpus.val)


def groups(counts: Tensor, shares: tuple[float, float]) -> Tensor:
    """Split into three groups by rank: 0 for the highest counts, then 1, then 2.

    Equal counts are ordered by index.

    Args:
        counts: [N] int64.
        shares: shares of group 0 and of group 1; group sizes are rounded to integers.

    Returns:
        Groups, [N] int64.
    """
    first, second = (round(share * len(counts)) for share in (shares[0], sum(shares)))
    order = counts.argsort(descending=True, stable=True)
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=order.device)
    return (position >= first).long() + (position >= second).long()
