"""The evaluation protocol: candidates, masked items, histories and held-out items.

I items, N counts.
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
        cutoffs: lengths of the lists that are judged, rising.
        seen: what is no candidate. `train`: the user's train items; `train+val`: at test the
            validation items as well; `none`: nothing, the whole catalogue is ranked. None: `none`
            for a model that reads histories, else `train`. A held-out item is always a candidate.
        item_groups: share of the items that are head (most popular), and mid; the rest is tail.
        user_groups: share of the users that are active (the most train interactions), and regular;
            the rest is occasional.
        candidates: `all` items; the `cold` ones, of validation and test together; or those of the
            `split` that is judged. None: the cold ones where there are any, else all.
        history: parts that the sequence of a test query is made of; at validation it is made of
            train. Other models than those that read histories know train only, whatever this says.
            None: `train+val` for a model that reads histories, else `train`.

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
        # YAML has lists only.
        object.__setattr__(self, "cutoffs", tuple(self.cutoffs))
        whole = all(type(k) is int and k > 0 for k in self.cutoffs)
        if not (self.cutoffs and whole and list(self.cutoffs) == sorted(set(self.cutoffs))):
            raise SettingError(
                setting="cutoffs",
                value=[*self.cutoffs],
                expected="whole numbers above 0 in rising order, as [5, 10, 20, 50]",
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
                    expected="two shares above 0 that leave something for a third, as [0.2, 0.3]",
                )

    def resolved(self, needs_history: bool) -> Evaluation:
        """Return the evaluation with the defaults of `seen` and `history` for a model.

        Args:
            needs_history: whether the model reads histories.
        """
        return replace(
            self,
            seen=self.seen or ("none" if needs_history else "train"),
            history=self.history or ("train+val" if needs_history else "train"),
        )

    def candidates_in(self, corpus: Corpus) -> Candidates:
        """What is ranked.

        Raises:
            SettingError: cold items, where there are none.
        """
        if self.candidates is None:
            return "all" if corpus.cold is None else "cold"
        if self.candidates != "all" and corpus.cold is None:
            raise SettingError(
                setting="evaluation.candidates",
                value=self.candidates,
                problem=f"it ranks cold items, and {corpus.name} has none",
                hint="choose data.split=item_cold, or leave the setting out",
            )
        return self.candidates

    def card(self, corpus: Corpus) -> dict[str, str]:
        """Return the settings that a result records about its evaluation, apart from cutoffs."""
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
    assert corpus.warm is not None, f"{part} stands beside cold items, and there are none"
    return corpus.warm if part == "test_warm" else together(corpus.test, corpus.warm)


def check_rankable(corpus: Corpus, evaluation: Evaluation) -> None:
    """Refuse cutoffs beyond what any part ranks: before a run, and not when it comes to its test.

    Raises:
        SettingError: names the cutoff, and those that fit.
    """
    parts: tuple[Part, ...] = ("val", "test", *beside_test(corpus))
    for part in parts:
        candidates(corpus, part, evaluation)


def beside_test(corpus: Corpus) -> tuple[Part, ...]:
    """What is judged beside cold items."""
    warm = corpus.cold is not None and corpus.warm is not None and len(corpus.warm)
    return ("test_warm", "test_all") if warm else ()


def candidates(corpus: Corpus, part: Part, evaluation: Evaluation) -> Tensor:
    """What a part ranks: [I] bool.

    Raises:
        SettingError: fewer items than a cutoff.
    """
    ranked, what = _ranked(corpus, part, evaluation)
    cutoffs = evaluation.cutoffs
    if cutoffs[-1] > (count := int(ranked.sum())):
        few = [k for k in cutoffs if k < count] or [max(1, count // 2)]
        fits = ",".join(map(str, few))
        raise SettingError(
            setting="evaluation.cutoffs",
            value=[*cutoffs],
            problem=f"{cutoffs[-1]} is larger than the {what} of {corpus.name}, {count} items",
            hint=f"leave it out, as evaluation.cutoffs=[{fits}] monitor=val/recall@{few[-1]} of a "
            f"run, or cutoffs=[{fits}] of evaluate",
        )
    return ranked


def _ranked(corpus: Corpus, part: Part, evaluation: Evaluation) -> tuple[Tensor, str]:
    """What a part ranks, and what that is called."""
    kind = evaluation.candidates_in(corpus)
    if corpus.cold is not None and part == "test_warm":
        return corpus.cold == TRAIN, "warm items"
    if corpus.cold is None or part == "test_all" or kind == "all":
        return torch.ones(corpus.n_items, dtype=torch.bool), "catalogue"
    if kind == "cold":
        return corpus.cold != TRAIN, "cold candidates"
    of = "val" if part == "val" else "test"
    return corpus.cold == (VAL if of == "val" else TEST), f"cold candidates in {of}"


def seen_interactions(corpus: Corpus, part: Part, seen: Seen | None) -> Interactions:
    """Return the interactions that are masked when a part is ranked.

    Args:
        corpus: what is ranked.
        part: whose users rank.
        seen: of a resolved evaluation.
    """
    if seen == "none":
        return corpus.train.select(torch.empty(0, dtype=torch.int64))
    if seen == "train" or part == "val":
        return corpus.train
    return together(corpus.train, corpus.val)


def groups(counts: Tensor, shares: tuple[float, float]) -> Tensor:
    """Cuts by rank into three: 0 for the highest counts, then 1, then 2.

    Equal counts are ordered by index.

    Args:
        counts: [N] int64.
        shares: of the N, those in group 0 and those in group 1; rounded to whole numbers.

    Returns:
        [N] int64.
    """
    first, second = (round(share * len(counts)) for share in (shares[0], sum(shares)))
    order = counts.argsort(descending=True, stable=True)
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=order.device)
    return (position >= first).long() + (position >= second).long()
