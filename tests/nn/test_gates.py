"""Sparse gates against a sort in double precision, and gated sums against plain products."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrec.nn import block_mixture, gated_sum, sparse_softmax

logits = st.lists(
    st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5), min_size=1, max_size=6
)


@given(logits, st.one_of(st.none(), st.integers(1, 7)))
def test_sparse_softmax_keeps_the_largest_and_sums_to_one(rows, top_k):
    values = torch.tensor(rows)
    gates = sparse_softmax(values, top_k, dim=1)
    torch.testing.assert_close(gates.sum(1), torch.ones(len(values)))
    for row, gate in zip(values, gates, strict=True):
        edge = row.sort(descending=True).values[min(top_k or 5, 5) - 1]
        expected = torch.where(row >= edge, row.double().exp(), 0)
        torch.testing.assert_close(gate.double(), expected / expected.sum(), atol=1e-6, rtol=1e-4)


@given(logits, st.one_of(st.none(), st.integers(1, 7)))
def test_a_gated_sum_is_gates_times_scores(rows, top_k):
    values = torch.tensor(rows).T.contiguous()  # [E, N]
    scores = torch.arange(values.numel()).view(values.shape).float().sin()
    expected = (sparse_softmax(values, top_k, dim=0) * scores).sum(0)
    torch.testing.assert_close(gated_sum(values.unbind(), scores.unbind(), top_k), expected)


@pytest.mark.parametrize("top_k", [1, 3, None])
def test_a_block_for_training_is_the_gated_sum_with_its_gradients(top_k):
    torch.manual_seed(0)
    logits, scores = torch.randn(2, 5, 4, 6, dtype=torch.double)
    logits, scores = logits.requires_grad_(), scores.requires_grad_()
    gates = sparse_softmax(logits.movedim(0, -1), top_k, dim=-1).movedim(-1, 0)
    expected = (gates * scores).sum(0)
    mixed, kept = block_mixture(logits, scores, top_k)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(kept, gates)
    assert not kept.requires_grad
    upstream = torch.randn_like(mixed)
    found, wanted = (torch.autograd.grad(x, (logits, scores), upstream) for x in (mixed, expected))
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradcheck(lambda s: block_mixture(logits, s, top_k)[0], scores)
