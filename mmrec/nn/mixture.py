"""A sparse mixture of linear experts over fixed features.

N rows, F features, E experts, D dim.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mmrec.nn.gates import at_least_float32, sparse_softmax


class Mixed(NamedTuple):
    """What a mixture makes of rows, and by whom."""

    rows: Tensor  # [N, D]
    full: Tensor  # [N, E] gates of all experts
    kept: Tensor  # [N, E] the same after the cut


class SparseMixture(nn.Module):
    """`y = sum_e g_e (W_e x + b_e)`, `g` the softmax over the largest logits of `V x + c`.

    Where the cut leaves experts out, each sees the rows that keep it and no others: on a CPU that
    takes .4 to .8 of the time of all experts for all rows (experiments/benchmarks).

    Args:
        width: F.
        dim: D.
        experts: E.
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
        """Adapt rows.

        Args:
            x: [N, F], without a gradient.
            present: [N] bool; other rows keep no expert, and become zero. None: all are.
            top_k: experts that a row keeps; None for all.
            temperature: of the gates.
            noise: standard deviation of what is added to logits.
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
        """Every expert sees every row: [N, F] and [N, E] -> [N, D]."""
        made = self.expert(x).unflatten(1, (self.experts, self.dim))  # [N, E, D]
        return torch.einsum("ne,ned->nd", gates, made)

    def one_by_one(self, x: Tensor, gates: Tensor) -> Tensor:
        """Every expert sees the rows that keep it: [N, F] and [N, E] -> [N, D]."""
        found = x.new_zeros(len(x), self.dim)
        each = zip(
            torch.split(self.expert.weight, self.dim),
            torch.split(self.expert.bias, self.dim),
            gates.unbind(1),
            strict=True,
        )
        for weight, bias, gate in each:
            rows = gate.nonzero().squeeze(1)
            some = x.index_select(0, rows)  # a quarter of the time of x[rows]
            made = gate.index_select(0, rows).unsqueeze(1) * linear(some, weight, bias)
            found.index_add_(0, rows, made.to(found.dtype))  # autocast makes halves
        return found
