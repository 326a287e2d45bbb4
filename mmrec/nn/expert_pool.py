"""A pool of linear experts for several channels, with a gate for each channel.

C channels, N rows, D dim, K experts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmrec.nn.gates import at_least_float32, sparse_softmax

Pool = Literal["shared", "separate"]
PoolGate = Literal["linear", "attention"]


class ExpertPool(nn.Module):
    """Mix the outputs of experts with the gate of each channel.

    The output of channel c is `sum_k g_ck (W_k x_c + b_k)`, with `g_c = softmax(logits_c)`:

    - `linear`: `logits_c = V_c x_c + a_c`.
    - `attention`: `logits_ck = <Q_c x_c, key_k> / sqrt(D)`, a query against a key of each expert.

    Args:
        channels: C.
        dim: D.
        experts: K.
        pool: `shared`: all channels have the same experts and keys; `separate`: each its own.
        gate: `linear` or `attention`.
        top_k: experts that a row keeps; None: all.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        experts: int,
        *,
        pool: Pool = "shared",
        gate: PoolGate = "linear",
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        pools = 1 if pool == "shared" else channels
        self.gate, self.top_k = gate, top_k
        self.weight = nn.Parameter(torch.empty(pools, experts * dim, dim))
        self.bias = nn.Parameter(torch.zeros(pools, experts, dim))
        self.query = nn.Parameter(
            torch.empty(channels, dim, dim if gate == "attention" else experts)
        )
        drawn = [self.weight, self.query]
        if gate == "attention":
            self.key = nn.Parameter(torch.empty(pools, dim, experts))
            drawn.append(self.key)
        else:
            self.query_bias = nn.Parameter(torch.zeros(channels, 1, experts))
        for weight in drawn:
            nn.init.uniform_(weight, -(dim**-0.5), dim**-0.5)  # as of nn.Linear

    def gates(self, x: Tensor) -> Tensor:
        """Return the weight of each expert: [C, N, D] -> [C, N, K]; rows sum to one."""
        logits = x @ self.query
        if self.gate == "attention":
            logits = logits @ self.key / x.shape[-1] ** 0.5
        else:
            logits = logits + self.query_bias
        return sparse_softmax(at_least_float32(logits), self.top_k, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the experts: [C, N, D] -> [C, N, D]."""
        gates = self.gates(x).to(x.dtype)
        # sum_k g_k W_k x is one product: [W_1, ..., W_K] with [g_1 x, ..., g_K x].
        spread = (gates.unsqueeze(-1) * x.unsqueeze(-2)).flatten(2)  # [C, N, K D]
        mixed: Tensor = spread @ self.weight + gates @ self.bias
        return mixed
