"""Embeddings of the times of a sequence.

N items of the sequences of a batch, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrec.data import ByUser, History

STEPS = 100  # of the gap index, for a doubling of the gap
SPAN = 1000.0  # of scaled times


class TimeEncoding(nn.Module):
    """Embed the gap before each item and its absolute time.

    The gap has a row of a table, with index `floor(100 log2(gap + 1))`: 0 for the first item of a
    sequence, and the last row for gaps that are longer than any in training. The absolute time t is
    `cos((w t + b) * 10000^(-k / D))` for k = 0..D-1, with vectors w and b. Zhang et al., WWW 2025.
    https://arxiv.org/abs/2501.14269

    Args:
        train: train interactions, with times.
        dim: D.
        scaled: t runs from 0 to 1000 over the train interactions. False: t is in seconds, in single
            precision, as in the public code of the paper; cosines of so large numbers are noise.
    """

    frequency: Tensor

    def __init__(self, train: ByUser, dim: int, *, scaled: bool = True) -> None:
        super().__init__()
        assert train.time is not None
        before = train.time.roll(1)
        first = torch.zeros(len(train.time) + 1, dtype=torch.bool)
        first[train.start] = True
        longest = (train.time - before)[~first[:-1]].clamp(min=0)
        rows = 1 + (int(gap_index(longest).max()) if len(longest) else 0)
        self.scaled, self.start = scaled, int(train.time.min())
        self.span = max(int(train.time.max()) - self.start, 1)
        self.gap = nn.Embedding(rows, dim)
        self.absolute = nn.Linear(1, dim)
        frequency = 10000 ** (-torch.arange(dim) / dim)
        self.register_buffer("frequency", frequency, persistent=False)

    def forward(self, history: History, position: Tensor) -> Tensor:
        """Embed the times of packed sequences.

        Args:
            history: with times.
            position: [N], position of each item in its sequence.

        Returns:
            [N, 2 D], embeddings of the gaps beside those of the times.
        """
        time = history.time
        assert time is not None
        gap = torch.where(position > 0, time - time.roll(1), 0).clamp(min=0)
        index = gap_index(gap).clamp(max=self.gap.num_embeddings - 1)
        t = (time - self.start).double() * (SPAN / self.span) if self.scaled else time
        w, b = self.absolute.weight.squeeze(1), self.absolute.bias
        phase = t.to(w.dtype).unsqueeze(1) * w + b  # [N, D], in single precision under autocast too
        return torch.cat([self.gap(index), torch.cos(phase * self.frequency)], 1)


def gap_index(gap: Tensor) -> Tensor:
    """Return `floor(100 log2(gap + 1))` of gaps from 0 on."""
    return (STEPS * torch.log2(gap.double() + 1)).floor().long()
