"""Routers: which experts a pair of user and item is given to.

C channels, E experts, D dim, B users, I items.
"""

from __future__ import annotations

import functools
import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

Sees = Literal["pair", "user", "item", "all", "nothing"]
Side = Literal["user", "item"]
TINY = 1e-12


class Terms(NamedTuple):
    """What a side brings to the router's logits."""

    bias: Tensor | None  # [N, E]; None where the side brings none
    channels: Tensor  # [C, N, D] unit vectors; [0, N, 1] if the router does not see the pair

    def rows(self, index: Tensor | slice) -> Terms:
        """Those of some users or items."""
        return Terms(None if self.bias is None else self.bias[index], self.channels[:, index])


class PairRouter(nn.Module):
    """Logits that are linear in how well user and item agree in each channel.

    `l_e(u, i) = sum_c A_ec cos(h_u^c, h_i^c) + p_e . h_u + q_e . h_i + b_e`; what it `sees` says
    which terms there are. The logits of all pairs are a few matrix products.

    Args:
        weights: [E, C], what each expert takes of each channel: where A begins, so that a pair
            which agrees in a channel is given to the experts that look at it.
        dim: D.
        sees: the agreement of the `pair`; the `user` or the `item`; `all` three; or `nothing`, and
            then all gates are equal.
        sharpness: A begins at this times `weights`, less their mean over the experts.
    """

    agree: Tensor

    def __init__(
        self,
        weights: Tensor,
        dim: int,
        *,
        sees: Sees = "pair",
        sharpness: float = 5.0,
    ) -> None:
        super().__init__()
        self.experts, channels = weights.shape
        self.sees_pair = sees in ("pair", "all")
        width = channels * dim
        sides = [side for side in ("user", "item") if sees in (side, "all")]
        self.sides = nn.ModuleDict({s: nn.Linear(width, self.experts, bias=False) for s in sides})
        for parameter in self.sides.parameters():
            nn.init.zeros_(parameter)
        self.bias = nn.Parameter(torch.zeros(self.experts)) if sees != "nothing" else None
        if self.sees_pair:
            self.agree = nn.Parameter(sharpness * (weights - weights.mean(0)))
        else:
            self.register_buffer("agree", torch.zeros(self.experts, 0), persistent=False)

    def terms(self, side: Side, channels: Tensor) -> Terms:
        """What one side brings, computed once for each user or item: [C, N, D]."""
        flat = channels.transpose(0, 1).flatten(1)  # [N, CD]
        bias = self.sides[side](flat) if side in self.sides else None
        if side == "item":
            bias = flat.new_zeros(len(flat), self.experts) if bias is None else bias
            bias = bias if self.bias is None else bias + self.bias
        if not self.sees_pair:
            return Terms(bias, flat.new_zeros(0, len(flat), 1))
        return Terms(bias, normalize(channels, dim=-1))

    def weights(self) -> Tensor:
        """Weight of the agreement in each channel in each logit: [E, C]."""
        return self.agree

    def pairs(self, user: Terms, item: Terms) -> Tensor:
        """Logits of B users, each with L items of its own (BL of them): [B, L, E]."""
        assert item.bias is not None
        size = user.channels.shape[1]
        logits = item.bias.view(size, -1, self.experts)
        if user.bias is not None:
            logits = user.bias.unsqueeze(1) + logits
        if not self.sees_pair:
            return logits
        several = item.channels.view(len(item.channels), size, -1, item.channels.shape[-1])
        agreement = (user.channels.unsqueeze(2) * several).sum(-1).movedim(0, -1)  # [B, L, C]
        return torch.matmul(agreement, self.agree.T).add(logits)

    def block(self, user: Terms, item: Terms) -> Tensor:
        """Logits of every user with every item, with gradients: [E, B, M]."""
        agreement = user.channels @ item.channels.mT  # [C, B, M]
        logits = (self.agree @ agreement.flatten(1)).view(-1, *agreement.shape[1:])
        for bias, dim in ((user.bias, 2), (item.bias, 1)):
            if bias is not None:
                logits = logits + bias.T.unsqueeze(dim)
        return logits

    @torch.no_grad()
    def scaled(self, user: Terms, item: Terms, temperature: float) -> tuple[Terms, Terms, Tensor]:
        """What `ranking` takes, with logits over a temperature."""
        user, item = (
            t if t.bias is None else t._replace(bias=t.bias / temperature) for t in (user, item)
        )
        return user, item, self.weights() / temperature


def cross(user: Terms, item: Terms, weights: Tensor) -> list[Tensor]:
    """Logits of every user with every item, expert by expert.

    A matrix product with so few rows as channels is slow: agreement is added plane by plane.

    Args:
        user: of B users.
        item: of I items.
        weights: [E, C].

    Returns:
        E of [B, I].
    """
    agreement = (user.channels @ item.channels.mT).unbind()  # C of [B, I]
    assert item.bias is not None
    found = []
    for e, right in enumerate(item.bias.T.contiguous()):
        logit = right.expand(user.channels.shape[1], -1)
        if user.bias is not None:
            logit = logit + user.bias[:, e : e + 1]
        for c, (plane, weight) in enumerate(zip(agreement, weights[e], strict=True)):
            # The first sum is a new plane: one of the bias alone would be a pass more.
            new = c == 0 and user.bias is None
            logit = logit.addcmul(plane, weight) if new else logit.addcmul_(plane, weight)
        found.append(logit.contiguous())
    return found


def ranking(
    user: Terms,
    item: Terms,
    weights: Tensor,
    users: Tensor,
    items: Tensor,
    top_k: int | None,
) -> Tensor:
    """What a router and its experts score every user with every item.

    Args:
        user: of B users.
        item: of I items.
        weights: [E, C], of agreement.
        users: [E, B, D], of the experts.
        items: [E, I, D].
        top_k: experts that count; None for all.

    Returns:
        [B, I].
    """
    return mixture(cross(user, item, weights), (users @ items.mT).unbind(), top_k)


@functools.cache
def fused_ranking() -> Callable[..., Tensor]:
    """`ranking` in one pass over memory instead of a hundred: torch compiles it at its first use.

    Raises:
        ValueError: there is nothing to compile it with.
    """
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    missing = [] if any(map(shutil.which, compilers)) else [f"no {' or '.join(compilers)}"]
    missing += [] if headers.exists() else [f"no {headers}"]
    if missing and not torch.cuda.is_available():
        raise ValueError(
            "model.fused=true needs a C++ compiler and Python's headers, and there is "
            f"{' and '.join(missing)}; install them, or leave it false"
        )
    return torch.compile(ranking, dynamic=True)


def sparse_softmax(logits: Tensor, top_k: int | None, dim: int) -> Tensor:
    """Softmax over the `top_k` largest logits, zero elsewhere; over all if None.

    Of equal logits at the edge all are kept.
    """
    if top_k is not None and top_k < logits.shape[dim]:
        edge = logits.topk(top_k, dim).values.select(dim, -1).unsqueeze(dim)
        logits = logits.masked_fill(logits < edge, -torch.inf)
    return logits.softmax(dim)


def mixture(logits: Sequence[Tensor], scores: Sequence[Tensor], top_k: int | None) -> Tensor:
    """`sum_e g_e s_e` with `g = sparse_softmax(logits)`, plane by plane, without making g.

    In place, since fresh planes cost a quarter of the time: for rankings, not for training.

    Args:
        logits: E of the same shape; what they hold is lost.
        scores: E of that shape, of the experts.
        top_k: experts that count; None for all.

    Returns:
        Of that shape.
    """
    largest, edge = _largest(logits, top_k)
    total, mixed = torch.zeros_like(largest), torch.zeros_like(largest)
    for logit, score in zip(logits, scores, strict=True):
        weight = (logit - largest).exp_()
        if edge is not None:
            weight.mul_(logit.ge_(edge))
        total.add_(weight)
        mixed.addcmul_(weight, score)
    return mixed.div_(total)


def block_mixture(logits: Tensor, scores: Tensor, top_k: int | None) -> tuple[Tensor, Tensor]:
    """The same for training: with gradients, which need gates and scores alone to be kept.

    Args:
        logits: [E, B, M].
        scores: [E, B, M], of the experts.
        top_k: experts that count; None for all.

    Returns:
        [B, M] mixed scores, and [E, B, M] gates, through which no gradient flows.
    """
    mixed, gates = _BlockMixture.apply(logits, scores, top_k)  # type: ignore[no-untyped-call]
    return mixed, gates


class _BlockMixture(torch.autograd.Function):
    """`m = sum_e g_e s_e`; `dm/ds_e = g_e`, `dm/dl_e = g_e (s_e - m)`."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, scores: Tensor, top_k: int | None
    ) -> tuple[Tensor, Tensor]:
        largest, edge = _largest(logits.unbind(), top_k)
        gates = (logits - largest).exp_()
        if edge is not None:
            gates.masked_fill_(logits < edge, 0.0)
        gates.div_(gates.sum(0))
        mixed = torch.zeros_like(largest)
        for gate, score in zip(gates, scores, strict=True):
            mixed.addcmul_(gate, score)
        ctx.save_for_backward(gates, scores, mixed)
        ctx.mark_non_differentiable(gates)
        ctx.set_materialize_grads(False)  # of gates there is none, and it would be as large
        return mixed, gates

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, _: None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        if grad is None:
            return None, None, None
        gates, scores, mixed = ctx.saved_tensors
        of_scores = gates * grad
        return (scores - mixed).mul_(of_scores), of_scores, None


def _largest(planes: Sequence[Tensor], k: int | None) -> tuple[Tensor, Tensor | None]:
    """The largest, and the k-th largest if k leaves any out.

    A sorted insertion of whole planes: topk would sort each place's handful of values by itself.
    """
    everything = k is None or k >= len(planes)
    ranks = 1 if k is None or everything else k
    best: list[Tensor] = []
    for plane in planes:
        for rank, known in enumerate(best):
            best[rank] = torch.maximum(known, plane)
            if rank < ranks - 1:  # what falls out of the last rank is not needed
                plane = torch.minimum(known, plane)
        if len(best) < ranks:
            best.append(plane)
    return best[0], None if everything else best[-1]


def entropies(gates: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
    """How undecided the router is for a pair, and how evenly it uses the experts.

    Args:
        gates: [N, E], rows that sum to one; those with one expert, or none, decide nothing, and
            do not count for H_s.
        even: the same of `even_gates`: all equal, among the experts that a row has.

    Returns:
        H_s, the mean of the rows' evenness, and H_m, that of the mean row: scalars, and entropies
        over log E where nothing is lacking.
    """
    pair = evenness(gates, even).sum() / choices(even).sum().clamp(min=1)
    return pair, evenness(gates.sum(0), even.sum(0))


def single(logits: Tensor) -> Tensor:
    """Logits of gates, whose shares and logs half precision has too few digits for."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def evenness(gates: Tensor, even: Tensor) -> Tensor:
    """How near gates p are to even ones q: `1 - KL(p || q) / max_e log(1 / q_e)`, 0..1.

    Where q is uniform that is the entropy of p over log E. An entropy over that of another q would
    be above 1 where a rare expert has more than its share.

    Args:
        gates: [..., E], of any scale.
        even: [..., E], of any scale.

    Returns:
        [...]; 0 where there is but one expert.
    """
    p, q = (x / x.sum(-1, keepdim=True).clamp(min=TINY) for x in (gates, even))
    apart = torch.special.xlogy(p, p.clamp(min=TINY) / q.clamp(min=TINY)).sum(-1)
    most = torch.where(q > 0, -q.clamp(min=TINY).log(), 0.0).amax(-1)
    return torch.where(most > 0, 1 - apart / most.clamp(min=TINY), 0.0)


def choices(even: Tensor) -> Tensor:
    """Which rows have more than one expert, and so something to decide: [N, E] -> [N] bool."""
    return (even > 0).sum(1) > 1


def even_gates(present: Tensor) -> Tensor:
    """Equal gates among what is there: [N, E] bool -> [N, E]; rows without anything are zero."""
    return present / present.sum(1, keepdim=True).clamp(min=1)


def imbalance(gates: Tensor, present: Tensor | None = None) -> Tensor:
    """`KL(uniform || mean gate)`: 0 where the experts weigh the same in the mean.

    Where some rows lack some experts, the mean is held to that of gates which are equal among what
    is there: held to equal ones, it would take a rare expert's share from those who have both.

    The gradient of `1 - H_m` for the logit of an expert that is nearly gone vanishes with its
    share; that of this is largest there.

    Args:
        gates: [N, E], rows that sum to one.
        present: [N] or [N, E] bool, what the rows have; rows without anything do not count. None:
            everything.
    """
    tiny = torch.finfo(gates.dtype).tiny
    if present is None:
        mean = gates.mean(0)
        return -(len(mean) * mean).clamp(min=tiny).log().mean()
    there = present.view(len(gates), -1).expand_as(gates)
    equal = even_gates(there).to(gates.dtype)  # [N, E]
    count = equal.sum().clamp(min=1)  # a batch may have hidden it from all
    even, mean = equal.sum(0) / count, (gates * there).sum(0) / count
    apart: Tensor = torch.special.xlogy(even, even / mean.clamp(min=tiny)).sum()
    return apart
