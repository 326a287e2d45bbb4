"""Load balance of experts: entropies for router schedules, and a loss.

Some rows may lack some experts. Evenness is then relative to equal gates over the experts that are
available to a row.

Shapes: N rows, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12


def entropies(gates: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean entropy of the gates of a row, and the entropy of the mean gates.

    Args:
        gates: gates [N, E] with rows that sum to 1. H_s ignores rows with fewer than two experts.
        even: equal gates over the experts available to each row, [N, E]; see `even_gates`.

    Returns:
        The mean evenness of rows H_s, and the evenness of the mean row H_m. Both are scalars, equal
        to entropies divided by log E if all experts are available to all rows.
    """
    pair = evenness(gates, even).sum() / choices(even).sum().clamp(min=1)
    return pair, evenness(gates.sum(0), even.sum(0))


def evenness(gates: Tensor, even: Tensor) -> Tensor:
    """Return the evenness of gates p relative to q: `1 - KL(p || q) / max_e log(1 / q_e)`.

    For uniform q, this is the entropy of p divided by log E. For other q, a ratio of entropies
    could exceed 1, if a rare expert has more than its share.

    Args:
        gates: p, [..., E], of any scale.
        even: q, [..., E], of any scale.

    Returns:
        Evenness in [0, 1], [...]; 0 with a single expert.
    """
    p, q = (x / x.sum(-1, keepdim=True).clamp(min=TINY) for x in (gates, even))
    apart = torch.special.xlogy(p, p.clamp(min=TINY) / q.clamp(min=TINY)).sum(-1)
    most = torch.where(q > 0, -q.clamp(min=TINY).log(), 0.0).amax(-1)
    return torch.where(most > 0, 1 - apart / most.clamp(min=TINY), 0.0)


def choices(even: Tensor) -> Tensor:
    """Return the mask of rows with more than one expert: [N, E] -> [N] bool."""
    return (even > 0).sum(1) > 1


def even_gates(present: Tensor) -> Tensor:
    """Return equal gates over the present experts: [N, E] bool -> [N, E].

    Rows without any expert are zero.
    """
    return present / present.sum(1, keepdim=True).clamp(min=1)


def imbalance(gates: Tensor, present: Tensor | None = None) -> Tensor:
    """Return `KL(uniform || mean gate)`: 0 if the experts have equal weight on average.

    If rows lack some experts, `uniform` is replaced by the mean of equal gates over the present
    experts. Otherwise, rare experts would attract more than an equal share of their rows.

    The gradient is largest for experts with almost no weight, where the gradient of the entropy
    vanishes.

    Args:
        gates: gates [N, E] with rows that sum to 1.
        present: mask of the experts, [N] or [N, E] bool; rows without any expert are ignored. None
            marks all as present.

    Returns:
        A scalar.
    """
    tiny = torch.finfo(gates.dtype).tiny
    if present is None:
        mean = gates.mean(0)
        return -(len(mean) * mean).clamp(min=tiny).log().mean()
    there = present.view(len(gates), -1).expand_as(gates)
    equal = even_gates(there).to(gates.dtype)  # [N, E]
    count = equal.sum().clamp(min=1)  # there may be no row with an expert
    even, mean = equal.sum(0) / count, (gates * there).sum(0) / count
    apart: Tensor = torch.special.xlogy(even, even / mean.clamp(min=tiny)).sum()
    return apart
