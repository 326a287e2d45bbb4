"""Base class of models with a scheduled router over experts."""

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


DEAD = 0.01  # an expert is dead with less than this share of an even load


CROWDED, FOR = 0.9, 5  # one expert with this share of the load, for this many epochs: collapsed


class RoutedRecommender(Recommender):
    """Base class of models that route user-item pairs to experts with a schedule.

    A subclass calls `route_loss` with the gates of its training positives, or `observe` if it has
    its own router loss. This class collects the statistics for the schedule, logs them, and stores
    the state of the schedule in checkpoints.

    Attributes:
        experts: names of the experts.
        about_experts: one sentence that explains the names; shown in reports.
        schedule: schedule of the router.

    Args:
        corpus: training interactions and content.
        experts: names of the experts.
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
        """Set the schedule; call it before training.

        Raises:
            TooFewExperts: `top_k` of the schedule exceeds the number of experts.
        """
        top_k = schedule.most_kept
        if top_k is not None and top_k > self.eligible:
            of_what = "in total" if self.eligible == len(self.experts) else "per modality"
            raise TooFewExperts(
                setting="router_schedule.top_k",
                value=top_k,
                problem=f"the model has {self.eligible} expert{'s' * (self.eligible != 1)} "
                f"{of_what} ({', '.join(self.experts[: self.eligible])})",
                hint=f"set it to at most {self.eligible}, or to null to keep all",
            )
        self.schedule = schedule

    @property
    def eligible(self) -> int:
        """Number of experts from which `top_k` are selected."""
        return len(self.experts)

    def pair_gates(self, queries: Queries, items: Tensor) -> Tensor:
        """Return the weight of each expert in the scores of pairs.

        Args:
            queries: P queries.
            items: item of each query, [P] int64.

        Returns:
            Gates after top-k, [P, E].
        """
        raise TypeError(f"{type(self).__name__} must define pair_gates()")

    @torch.no_grad()
    def item_gates(self) -> Tensor:
        """Return the mean gate of each expert over the item's training users: [I, E].

        Items without training interactions get the mean over all pairs. Queries have no histories;
        routed models of sequences must override this method.
        """
        user, item = (x.to(self.device) for x in (self.corpus.train.user, self.corpus.train.item))
        gates = self.pair_gates(Queries(user), item)  # [P, E]
        total = gates.new_zeros(self.corpus.n_items, len(self.experts)).index_add_(0, item, gates)
        count = torch.bincount(item, minlength=self.corpus.n_items).unsqueeze(1)
        return torch.where(count > 0, total / count.clamp(min=1), gates.mean(0))

    @property
    def routing(self) -> Routing:
        """Routing parameters of the current epoch."""
        return self.schedule.routing()

    def route_loss(self, gates: Tensor, load: Tensor) -> Tensor:
        """Return `coverage KL(uniform || mean gate) + confidence H_s`, weighted by the schedule.

        Args:
            gates: gates of training positives before top-k, [N, E].
            load: gates after top-k, [N, E].
        """
        now = self.routing
        return now.coverage * imbalance(gates) + now.confidence * self.observe(gates, load)

    def observe(self, gates: Tensor, load: Tensor, even: Tensor | None = None) -> Tensor:
        """Record the gates of a batch for the schedule and the log.

        Args:
            gates: gates before top-k, [N, E]. Rows without any expert are zero and are ignored.
            load: gates after top-k, [N, E].
            even: equal gates over the experts available to each row, [N, E]; None if all experts
                are available to all rows.

        Returns:
            Mean entropy H_s of the gates of a pair, a scalar; without a gradient if the schedule's
            `confidence` is 0.
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
                log.info("router: stage %d starts at epoch %d", self.schedule.stage, epoch)

    def on_train_epoch_end(self) -> None:
        """Log the statistics of the router."""
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
        """Log if the schedule has not reached its second stage."""
        super().on_train_end()
        waits = self.schedule.waits_for
        if waits and self.trainer.is_global_zero:
            log.info("router: training ended in stage 1; stage 2 waits for %s", waits)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the state of the router schedule."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["router"] = {
            "schedule": self.schedule.state_dict(),
            "observed": None if self._observed is None else self._observed._asdict(),
            "crowded": self._crowded,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the router schedule."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["router"]
        self.schedule.load_state_dict(state["schedule"])
        self._observed = None if state["observed"] is None else Observed(**state["observed"])
        self._crowded = state["crowded"]


def weighs_pairs(model: Recommender) -> bool:
    """Return whether item weights are means over pairs, because the router sees users."""
    return isinstance(model, RoutedRecommender) and not isinstance(model, ContentRecommender)
