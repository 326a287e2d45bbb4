"""Base class of models with a router over experts that follows a schedule."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmrec.data import Queries, TrainingView
from mmrec.models.base import Recommender
from mmrec.models.content import ContentRecommender
from mmrec.nn import choices, entropies, evenness, imbalance
from mmrec.nn.schedules import Constant, Observed, RouterSchedule, Routing, TooFewExperts

log = logging.getLogger(__name__)


DEAD = 0.01  # of the load, where it is shared evenly: with less an expert is as good as gone


CROWDED, FOR = 0.9, 5  # of the load, and epochs: a router that has collapsed, if data allow others


class RoutedRecommender(Recommender):
    """A model whose router shares pairs out among experts, under a schedule.

    It calls `route_loss` on the gates of its training positives, or `observe` if it has terms of
    its own; the rest is done here: what the schedule observes, what is logged, what a checkpoint
    must hold.

    Attributes:
        experts: their names.
        about_experts: what these mean, in a sentence.
        schedule: of the router.

    Args:
        corpus: what the model learns from.
        experts: names.
    """

    about_experts = ""

    def __init__(self, corpus: TrainingView, experts: Sequence[str]) -> None:
        super().__init__(corpus)
        self.experts = tuple(experts)
        self.schedule: RouterSchedule = Constant(top_k=None)
        self._observed: Observed | None = None
        self._crowded = 0
        self._gates: list[Tensor] = []

    def route_by(self, schedule: RouterSchedule) -> None:
        """Take another schedule, before a trainer runs.

        Raises:
            TooFewExperts: it keeps more than there are.
        """
        top_k = schedule.most_kept
        if top_k is not None and top_k > self.eligible:
            of_what = "in all" if self.eligible == len(self.experts) else "of each modality"
            raise TooFewExperts(
                setting="router_schedule.top_k",
                value=top_k,
                problem=f"the model has {self.eligible} expert{'s' * (self.eligible != 1)} "
                f"{of_what} ({', '.join(self.experts[: self.eligible])})",
                hint="give at most as many, or null for all",
            )
        self.schedule = schedule

    @property
    def eligible(self) -> int:
        """Experts that compete with each other, of which `top_k` stay."""
        return len(self.experts)

    def pair_gates(self, queries: Queries, items: Tensor) -> Tensor:
        """Return what each expert weighs in the scores of pairs.

        Args:
            queries: P of them.
            items: [P] int64, one for each query.

        Returns:
            [P, E].
        """
        raise TypeError(f"{type(self).__name__} must define pair_gates()")

    @torch.no_grad()
    def item_gates(self) -> Tensor:
        """The mean over an item's train users of what each expert weighs: [I, E].

        An item that nobody has in train gets the mean of all pairs. The queries have no histories:
        a routed model of sequences overrides this method.
        """
        user, item = (x.to(self.device) for x in (self.corpus.train.user, self.corpus.train.item))
        gates = self.pair_gates(Queries(user), item)  # [P, E]
        total = gates.new_zeros(self.corpus.n_items, len(self.experts)).index_add_(0, item, gates)
        count = torch.bincount(item, minlength=self.corpus.n_items).unsqueeze(1)
        return torch.where(count > 0, total / count.clamp(min=1), gates.mean(0))

    @property
    def routing(self) -> Routing:
        """What holds in this epoch."""
        return self.schedule.routing()

    def route_loss(self, gates: Tensor, load: Tensor) -> Tensor:
        """`coverage KL(uniform || mean gate) + confidence H_s`, as the schedule weighs them.

        Args:
            gates: [N, E] of training positives, before experts are left out.
            load: [N, E], the same after that.
        """
        now = self.routing
        return now.coverage * imbalance(gates) + now.confidence * self.observe(gates, load)

    def observe(self, gates: Tensor, load: Tensor, even: Tensor | None = None) -> Tensor:
        """Note what the router does, for its schedule and the log; arguments as for `route_loss`.

        Args:
            gates: as of `route_loss`; rows that have no expert are zero, and do not count.
            load: as of `route_loss`.
            even: [N, E], equal gates, where some rows lack some experts; None: nothing lacks any.

        Returns:
            H_s, a scalar; without a gradient where the schedule gives it no weight.
        """
        if even is None:
            even = torch.full_like(gates, 1 / len(self.experts))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.routing.confidence > 0):
            pair_entropy, _ = entropies(gates, even)
        count = choices(even).sum(0, keepdim=True).to(gates.dtype)
        seen = torch.cat([count, count * pair_entropy, gates.sum(0), load.sum(0), even.sum(0)])
        self._gates.append(seen.detach())
        return pair_entropy

    def start_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Advance the router schedule with the statistics of the previous epoch."""
        super().start_epoch(epoch, generator)
        self._gates = []
        if self._observed is not None:
            stage = self.schedule.stage
            self.schedule.end_epoch(self._observed)
            self._observed = None
            if self.schedule.stage != stage and self.trainer.is_global_zero:
                log.info("router: stage %d from epoch %d on", self.schedule.stage, epoch)

    def on_train_epoch_end(self) -> None:
        """Log what the router did."""
        super().on_train_epoch_end()
        if not self._gates:
            return
        total = self.trainer.strategy.reduce(torch.stack(self._gates).sum(0), reduce_op="sum")
        count, width = total[0], len(self.experts)
        gates, load, even = total[2:].split(width)
        self._observed = Observed(
            pair_entropy=float(total[1] / count.clamp(min=1)),
            gate_entropy=float(evenness(gates, even)),
            load_entropy=float(evenness(load, even)),
        )
        share, due = (x / x.sum().clamp(min=1) for x in (load, even))
        dead = share < DEAD * width * due
        largest = int(share.argmax())
        crowded = share[largest] > CROWDED and share[largest] - due[largest] > 1 - CROWDED
        now = self.routing
        self.log_dict(
            {
                "router/stage": float(self.schedule.stage),
                "router/coverage": now.coverage,
                "router/confidence": now.confidence,
                "router/temperature": now.temperature,
                "router/pair_entropy": self._observed.pair_entropy,
                "router/gate_entropy": self._observed.gate_entropy,
                "router/load_entropy": self._observed.load_entropy,
                "router/largest_load": float(share[largest]),
                "router/smallest_load": float(share.min()),
                "router/dead": float(dead.float().mean()),
                **dict(zip((f"load/{x}" for x in self.experts), share.tolist(), strict=True)),
            }
        )
        self._crowded = self._crowded + 1 if crowded else 0
        if self._crowded == FOR and width > 1 and self.trainer.is_global_zero:
            log.warning(
                "router: expert %s has had more than %.0f %% of the load for %d epochs; raise "
                "router_schedule.coverage or temperature, or lower router_schedule.confidence",
                self.experts[largest],
                100 * CROWDED,
                FOR,
            )

    def on_train_end(self) -> None:
        """Say that a second stage has not begun, where there was to be one."""
        super().on_train_end()
        waits = self.schedule.waits_for
        if waits and self.trainer.is_global_zero:
            log.info("router: ended in stage 1; the second waits for %s", waits)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Where the router's schedule stands, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["router"] = {
            "schedule": self.schedule.state_dict(),
            "observed": None if self._observed is None else self._observed._asdict(),
            "crowded": self._crowded,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["router"]
        self.schedule.load_state_dict(state["schedule"])
        self._observed = None if state["observed"] is None else Observed(**state["observed"])
        self._crowded = state["crowded"]


def weighs_pairs(model: Recommender) -> bool:
    """Whether what an item weighs is a mean over the pairs that it is in; without any, over all."""
    return isinstance(model, RoutedRecommender) and not isinstance(model, ContentRecommender)
