from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.nn import Fusion, masked_softmax

GATES, PLAIN = ("vector", "scalar"), ("mean", "sum", "concat")


def inputs(seed, items=7, modalities=3, dim=4):
    """Projected content, zero where it is absent; item 0 has nothing, item 1 everything."""
    rng = torch.Generator().manual_seed(seed)
    present = torch.rand(items, modalities, generator=rng) < 0.6
    present[0], present[1] = False, True
    projected = torch.randn(items, modalities, dim, generator=rng) * present.unsqueeze(-1)
    return projected, present


def fusion(kind, modalities=3, dim=4):
    torch.manual_seed(0)
    return Fusion(modalities, dim, kind=kind)


@settings(max_examples=20)
@given(st.integers(0, 99), st.sampled_from(GATES))
def test_a_gate_is_a_convex_combination_of_what_is_present(seed, kind):
    projected, present = inputs(seed)
    fused, weights = fusion(kind)(projected, present)
    assert weights.shape == (7, 3, 4 if kind == "vector" else 1)
    assert (weights >= 0).all()
    assert not weights[~present].any()
    some = present.any(1)
    torch.testing.assert_close(weights.sum(1)[some], torch.ones_like(weights.sum(1)[some]))
    assert not fused[~some].any()
    assert (fused <= projected.amax(1) + 1e-6).all()
    assert (fused >= projected.amin(1) - 1e-6).all()


@settings(max_examples=20)
@given(st.integers(0, 99), st.sampled_from(GATES + PLAIN))
def test_fusing_keeps_the_order_of_items(seed, kind):
    projected, present = inputs(seed)
    fuse, order = fusion(kind), torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    fused, renamed = fuse(projected, present)[0], fuse(projected[order], present[order])[0]
    torch.testing.assert_close(renamed, fused[order])


def test_with_two_modalities_the_softmax_is_the_sigmoid_gate():
    projected, _ = inputs(1, modalities=2)
    present = torch.ones(7, 2, dtype=torch.bool)
    fuse = fusion("vector", modalities=2)
    fused, _ = fuse(projected, present)
    logits = fuse.linear(projected.flatten(1))
    gate = torch.sigmoid(logits[:, :4] - logits[:, 4:])
    torch.testing.assert_close(fused, gate * projected[:, 0] + (1 - gate) * projected[:, 1])


def test_mean_sum_and_concat_written_out():
    projected = torch.tensor([[[2.0, 4.0], [6.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    present = torch.tensor([[True, True], [True, False]])
    assert fusion("mean", 2, 2)(projected, present)[0].tolist() == [[4, 2], [1, 1]]
    assert fusion("sum", 2, 2)(projected, present)[0].tolist() == [[8, 4], [1, 1]]
    concat = fusion("concat", 2, 2)
    fused, weights = concat(projected, present)
    expected = projected.flatten(1) @ concat.linear.weight.T + concat.linear.bias
    torch.testing.assert_close(fused, expected)
    assert weights is None


@pytest.mark.parametrize("kind", GATES + PLAIN)
def test_an_item_without_content_has_finite_gradients(kind):
    projected, present = inputs(3)
    projected.requires_grad_()
    fusion(kind)(projected, present)[0].square().sum().backward()
    assert projected.grad.isfinite().all()


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 99))
def test_the_masked_softmax_is_the_softmax_of_what_is_left(mask, seed):
    logits = 50 * torch.randn(len(mask), generator=torch.Generator().manual_seed(seed))
    mask = torch.tensor(mask)
    expected = torch.zeros(len(mask))
    expected[mask] = logits[mask].softmax(0)
    torch.testing.assert_close(masked_softmax(logits, mask, dim=0), expected)
