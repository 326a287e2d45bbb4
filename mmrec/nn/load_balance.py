"""How evenly gates use the experts: entropies for router schedules, and a loss.

N rows, E experts. Some rows may lack some experts: evenness is then relative to equal gates among
the experts that a row has.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12


def entropies(gates: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean entropy of a row's gates, and the entropy of the mean gates.

    Args:
        gates: [N, E], rows that sum to one. Rows with fewer than two experts do not count in H_s.
        even: [N, E], from `even_gates`: equal gates among the experts that a row has.

    Returns:
        H_s, the mean evenness of the rows, and H_m, the evenness of the mean row: scalars. They
        are entropies divided by log E if every row has every expert.
    """
    pair = evenness(gates, even).sum() / choices(even).sum().clamp(min=1)
    return pair, evenness(gates.sum(0), even.sum(0))


def evenness(gates: Tensor, even: Tensor) -> Tensor:
    """Return how close gates p are to even ones q: `1 - KL(p || q) / max_e log(1 / q_e)`, 0..1.

    For uniform q this is the entropy of p divided by log E. For other q, the entropy of p over that
    of q would exceed 1 where a rare expert has more than its share.

    Args:
        gates: [..., E], of any scale.
        even: [..., E], of any scale.

    Returns:
        [...]; 0 where there is only one expert.
    """
    p, q = (x / x.sum(-1, keepdim=True).clamp(min=TINY) for x in (gates, even))
    apart = torch.special.xlogy(p, p.clamp(min=TINY) / q.clamp(min=TINY)).sum(-1)
    most = torch.where(q > 0, -q.clamp(min=TINY).log(), 0.0).amax(-1)
    return torch.where(most > 0, 1 - apart / most.clamp(min=TINY), 0.0)


def choices(even: Tensor) -> Tensor:
    """Return which rows have more than one expert: [N, E] -> [N] bool."""
    return (even > 0).sum(1) > 1


def even_gates(present: Tensor) -> Tensor:
    """Return equal gates among the experts that are present: [N, E] bool -> [N, E].

    Rows without any expert are zero.
    """
    return present / present.sum(1, keepdim=True).clamp(min=1)


def imbalance(gates: Tensor, present: Tensor | None = None) -> Tensor:
    """Return `KL(uniform || mean gate)`: 0 if the experts have equal weight on average.

    Where some rows lack some experts, `uniform` is the mean of equal gates among the experts that
    are present. Otherwise rare experts would take weight from the rows that have both.

    The gradient of this loss is largest for an expert that has almost no weight, where that of the
    entropy vanishes.

    Args:
        gates: [N, E], rows that sum to one.
        present: [N] or [N, E] bool, the experts that a row has; rows without any do not count.
            None: all.
    """
    tiny = torch.finfo(gates.dtype).tiny
    if present is None:
        mean = gates.mean(0)
        return -(len(mean) * mean).clamp(min=tiny).log().mean()
    there = present.view(len(gates), -1).expand_as(gates)
    equal = even_gates(there).to(gates.dtype)  # [N, E]
    count = equal.sum().clamp(min=1)  # modality dropout may leave no row with an expert
    even, mean = equal.sum(0) / count, (gates * there).sum(0) / count
    apart: Tensor = torch.special.xlogy(even, even / mean.clamp(min=tiny)).sum()
    return apart
