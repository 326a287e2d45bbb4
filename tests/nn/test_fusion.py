from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.data import Modality
from mmrec.nn import Fusion, Projection, center_and_scale, masked_softmax

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


def content(scale=1.0, items=2000, width=16, offset=0.0):
    rng = torch.Generator().manual_seed(0)
    present = torch.rand(items, generator=rng) < 0.9
    features = scale * torch.randn(items, width, generator=rng) + offset
    return Modality(features * present[:, None], present, "digest")


def test_what_is_present_is_centred_and_scaled_to_unit_norm():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    mean, scale = center_and_scale(Modality(features, torch.tensor([True, False, True]), "digest"))
    assert mean.tolist() == [2, 2]
    assert scale == pytest.approx(1 / 5**0.5)  # both deviations are (1, 2), but for the sign


@pytest.mark.parametrize("present", [True, False])
def test_features_that_do_not_differ_are_left_at_their_scale(present):
    same = torch.full((5, 3), 1e4 * present)
    mean, scale = center_and_scale(Modality(same, torch.full((5,), present), "digest"))
    assert mean.tolist() == [1e4 * present] * 3
    assert scale == 1


def test_a_projection_does_not_see_what_all_features_have_in_common():
    def projected(offset):
        torch.manual_seed(0)
        return Projection({"visual": content(offset=offset)}, 8)()

    torch.testing.assert_close(projected(100.0), projected(0.0), rtol=0, atol=1e-4)


def test_a_projection_is_linear_and_absent_items_have_none(centred):
    modalities = {"visual": content(items=20), "textual": content(items=20, width=5)}
    project = Projection(modalities, 8)
    assert project().shape == (20, 2, 8)
    for place, modality in enumerate(modalities.values()):
        layer = project.each[place].linear
        torch.nn.init.ones_(layer.bias)
        expected = centred(modality.features[modality.present]) @ layer.weight.T + 1
        found = project()[:, place]
        torch.testing.assert_close(found[modality.present], expected)
        assert not found[~modality.present].any()
        assert torch.equal(project.present[:, place], modality.present)


def test_a_projection_of_some_items_leaves_the_others_zero():
    modalities = {"visual": content(items=20), "textual": content(items=20, width=5)}
    project, some = Projection(modalities, 8), torch.tensor([1, 4, 17])
    found = project(some)
    torch.testing.assert_close(found[some], project()[some])
    assert not found[[0, 2, 19]].any()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_projection_starts_at_the_scale_of_an_embedding_table(scale):
    torch.manual_seed(0)
    found = Projection({"visual": content(scale)}, 64)().square().mean().sqrt()
    table = torch.nn.init.xavier_normal_(torch.empty(2000, 64)).square().mean().sqrt()
    assert found.item() == pytest.approx(table.item(), rel=0.1)


def test_content_is_no_part_of_a_checkpoint():
    kept = Projection({"visual": content()}, 8).state_dict()
    assert {name: tuple(value.shape) for name, value in kept.items()} == {
        "each.0.linear.weight": (8, 16),
        "each.0.linear.bias": (8,),
    }


def test_bfloat16_is_off_by_less_than_a_hundredth_even_under_a_large_common_part():
    modalities = {"visual": content(offset=100.0)}

    def projected(precision):
        torch.manual_seed(0)
        project = Projection(modalities, 8, precision=precision)
        found = project()
        found.square().sum().backward()
        return found.detach(), project.each[0].linear.weight.grad

    for near, exact in zip(projected("bfloat16"), projected("float32"), strict=True):
        assert near.dtype == torch.float32
        assert not torch.equal(near, exact)
        assert (near - exact).norm() < 0.01 * exact.norm()
