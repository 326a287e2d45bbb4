"""Embeddings of the timestamps of a sequence.

Shapes: N items in all sequences of a batch, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrec.data import ByUser, History

STEPS = 100  # steps of the gap index per doubling of the gap
SPAN = 1000.0  # range of scaled times


class TimeEncoding(nn.Module):
    """Embed the time gap before each item and its absolute time.

    Zhang et al., WWW 2025. https://arxiv.org/abs/2501.14269

    The gap is embedded with a table at index `floor(100 log2(gap + 1))`: 0 for the first item of a
    sequence, and the last index for gaps longer than all gaps in training. The absolute time t is
    encoded as `cos((w t + b) * 10000^(-k / D))` for k = 0..D-1, with learned vectors w and b.

    Args:
        train: training interactions with timestamps.
        dim: embedding size D.
        scaled: scale t to 0..1000 over the training interactions. Otherwise, t is in seconds in
            single precision, as in the public code of the paper, whose cosines are mostly noise.
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
            history: packed sequences with timestamps.
            position: position of each item in its sequence, [N].

        Returns:
            Concatenated embeddings of gaps and of times, [N, 2 D].
        """
        time = history.time
        assert time is not None
        gap = torch.where(position > 0, time - time.roll(1), 0).clamp(min=0)
        index = gap_index(gap).clamp(max=self.gap.num_embeddings - 1)
        t = (time - self.start).double() * (SPAN / self.span) if self.scaled else time
        w, b = self.absolute.weight.squeeze(1), self.absolute.bias
        phase = t.to(w.dtype).unsqueeze(1) * w + b  # [N, D], single precision under autocast
        return torch.cat([self.gap(index), torch.cos(phase * self.frequency)], 1)


def gap_index(gap: Tensor) -> Tensor:
    """Return `floor(100 log2(gap + 1))` of non-negative gaps."""
    return (STEPS * torch.log2(gap.double() + 1)).floor().long()
