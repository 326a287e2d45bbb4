"""A pool of linear experts for several channels, with one gate per channel.

Shapes: C channels, N rows, D embedding size, K experts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmrec.nn.gates import at_least_float32, sparse_softmax

Pool = Literal["shared", "separate"]
PoolGate = Literal["linear", "attention"]


class ExpertPool(nn.Module):
    """Linear experts, mixed by one gate per channel.

    The output of channel c is `sum_k g_ck (W_k x_c + b_k)`, with `g_c = softmax(logits_c)`:

    - `linear`: `logits_c = V_c x_c + a_c`.
    - `attention`: `logits_ck = <Q_c x_c, key_k> / sqrt(D)`, with one key per expert.

    Args:
        channels: number of channels C.
        dim: embedding size D.
        experts: number of experts K.
        pool: `shared` experts and keys for all channels, or `separate` ones per channel.
        gate: type of the gates, `linear` or `attention`.
        top_k: number of experts kept per row and channel; None keeps all.
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
            nn.init.uniform_(weight, -(dim**-0.5), dim**-0.5)  # as in nn.Linear

    def gates(self, x: Tensor) -> Tensor:
        """Return the gates of experts, which sum to 1: [C, N, D] -> [C, N, K]."""
        logits = x @ self.query
        if self.gate == "attention":
            logits = logits @ self.key / x.shape[-1] ** 0.5
        else:
            logits = logits + self.query_bias
        return sparse_softmax(at_least_float32(logits), self.top_k, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the experts and mix their outputs: [C, N, D] -> [C, N, D]."""
        gates = self.gates(x).to(x.dtype)
        # sum_k g_k W_k x is one product: [W_1, ..., W_K] with [g_1 x, ..., g_K x].
        spread = (gates.unsqueeze(-1) * x.unsqueeze(-2)).flatten(2)  # [C, N, K D]
        mixed: Tensor = spread @ self.weight + gates @ self.bias
        return mixed
