"""A sparse mixture of linear experts over frozen features.

Shapes: N rows, F features, E experts, D output size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mmrec.nn.gates import at_least_float32, sparse_softmax


class Mixed(NamedTuple):
    """Output and gates of a mixture."""

    rows: Tensor  # [N, D]
    full: Tensor  # [N, E] gates before top-k
    kept: Tensor  # [N, E] gates after top-k


class SparseMixture(nn.Module):
    """Sparse mixture `y = sum_e g_e (W_e x + b_e)`, with g the top-k softmax of `V x + c`.

    With top-k, each expert is applied only to the rows that keep it. On a CPU, this takes 40 to
    80 % of the time of all experts on all rows (experiments/benchmarks).

    Args:
        width: number of features F.
        dim: output size D.
        experts: number of experts E.
    """

    def __init__(self, width: int, dim: int, experts: int) -> None:
        super().__init__()
        self.dim, self.experts = dim, experts
        self.expert = nn.Linear(width, experts * dim)
        self.gate = nn.Linear(width, experts)

    def forward(
        self,
        x: Tensor,
        present: Tensor | None = None,
        *,
        top_k: int | None,
        temperature: float = 1.0,
        noise: float = 0.0,
    ) -> Mixed:
        """Apply the mixture.

        Args:
            x: features, [N, F], without a gradient.
            present: mask of the rows, [N] bool; absent rows keep no expert, and their output is
                zero. None marks all as present.
            top_k: number of experts kept per row; None keeps all.
            temperature: temperature of the gates.
            noise: standard deviation of the noise added to logits.
        """
        logits = at_least_float32(self.gate(x))
        if noise:
            logits = logits + noise * torch.randn_like(logits)
        logits = logits / temperature
        kept = sparse_softmax(logits, top_k, dim=-1)
        if present is not None:
            kept = kept * present.unsqueeze(1)
        few = top_k is not None and top_k < self.experts
        rows = self.one_by_one(x, kept) if few else self.all_at_once(x, kept)
        return Mixed(rows, logits.softmax(-1), kept)

    def all_at_once(self, x: Tensor, gates: Tensor) -> Tensor:
        """Apply all experts to all rows: [N, F] and [N, E] -> [N, D]."""
        made = self.expert(x).unflatten(1, (self.experts, self.dim))  # [N, E, D]
        return torch.einsum("ne,ned->nd", gates, made)

    def one_by_one(self, x: Tensor, gates: Tensor) -> Tensor:
        """Apply each expert to the rows that keep it: [N, F] and [N, E] -> [N, D]."""
        found = x.new_zeros(len(x), self.dim)
        each = zip(
            torch.split(self.expert.weight, self.dim),
            torch.split(self.expert.bias, self.dim),
            gates.unbind(1),
            strict=True,
        )
        for weight, bias, gate in each:
            rows = gate.nonzero().squeeze(1)
            some = x.index_select(0, rows)  # four times as fast as x[rows]
            made = gate.index_select(0, rows).unsqueeze(1) * linear(some, weight, bias)
            found.index_add_(0, rows, made.to(found.dtype))  # half precision under autocast
        return found
