"""Embeddings of gaps and times, item by item."""

from __future__ import annotations

from math import cos, floor, log2

import pytest
import torch

from mmrec.data import History, Interactions
from mmrec.nn import TimeEncoding

DIM = 6
TRAIN = Interactions(
    torch.tensor([0, 0, 0, 1, 1, 3]),
    torch.arange(6),
    torch.tensor([1000, 1000, 87400, 500, 503, 9000000]),
)
HISTORY = History(
    torch.arange(6), torch.tensor([3, 0, 2, 1]), torch.tensor([500, 503, 9000000, 700, 700, 87400])
)
POSITION = torch.tensor([0, 1, 2, 0, 1, 0])
GAPS = (0, 3, 8999497, 0, 0, 0)


def build(**settings):
    torch.manual_seed(0)
    return TimeEncoding(TRAIN.by_user(4), DIM, **settings).requires_grad_(False)


def test_gaps_have_the_row_of_their_logarithm_and_long_ones_the_last():
    module = build()
    longest = floor(100 * log2(86400 + 1))  # of user 0; gaps between users do not count
    assert len(module.gap.weight) == longest + 1
    found = module(HISTORY, POSITION)[:, :DIM]
    for row, gap in zip(found, GAPS, strict=True):
        assert torch.equal(row, module.gap.weight[min(floor(100 * log2(gap + 1)), longest)])


@pytest.mark.parametrize("scaled", [True, False])
def test_times_are_cosines_of_falling_frequencies(scaled):
    module = build(scaled=scaled)
    if not scaled:
        module.absolute.weight *= 1e-6  # phases in a range where single precision has digits
    found = module(HISTORY, POSITION)[:, DIM:]
    for row, time in zip(found, HISTORY.time.tolist(), strict=True):
        t = 1000 * (time - 500) / (9000000 - 500) if scaled else time
        lines = zip(
            module.absolute.weight[:, 0].tolist(), module.absolute.bias.tolist(), strict=True
        )
        phases = [(w * t + b) * 10000 ** (-k / DIM) for k, (w, b) in enumerate(lines)]
        torch.testing.assert_close(row, torch.tensor([cos(p) for p in phases]), atol=1e-3, rtol=0)


def test_users_with_one_item_have_no_gap():
    one = Interactions(torch.arange(3), torch.arange(3), torch.tensor([5, 5, 5]))
    module = TimeEncoding(one.by_user(3), DIM)
    assert len(module.gap.weight) == 1
    assert module(HISTORY, POSITION).isfinite().all()
