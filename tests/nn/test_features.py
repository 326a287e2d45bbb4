from __future__ import annotations

import pytest
import torch

from mmrec.data import Modality
from mmrec.nn import Features, ProjectedFeatures, Projection, center_and_scale

PRESENT = torch.tensor([True, False, True, True])


@pytest.fixture
def modality():
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) + 5
    return Modality(rows * PRESENT[:, None], PRESENT, "digest")


def test_fixed_features_are_not_in_checkpoints(modality):
    features = Features(modality)
    assert torch.equal(features(), modality.features)
    assert features.state_dict() == {}
    assert not [*features.parameters()]


def test_trainable_features_get_gradients_where_they_are_present(modality):
    features = Features(modality, trainable=True)
    assert torch.equal(features(), modality.features)
    features().sum().backward()
    assert torch.equal(features.rows.grad, PRESENT[:, None].float().expand(4, 3))
    with torch.no_grad():
        features.rows += 1
    assert not torch.equal(features()[0], modality.features[0])  # the modality has its own copy


@pytest.mark.parametrize("trainable", [False, True])
def test_standardized_features_have_mean_zero_and_unit_mean_squared_norm(modality, trainable):
    rows = Features(modality, trainable=trainable, standardize=True)()
    assert not rows[1].any()
    torch.testing.assert_close(rows[PRESENT].mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows[PRESENT].square().sum(1).mean(), torch.tensor(1.0))


@pytest.mark.parametrize("trainable", [False, True])
def test_selected_rows_are_those_of_the_table(modality, trainable):
    features, items = Features(modality, trainable=trainable), torch.tensor([3, 1, 1])
    assert torch.equal(features(items), features()[items])


def test_half_precision_is_rounded_after_standardizing(modality):
    exact = Features(modality, standardize=True)()
    rows = Features(modality, standardize=True, precision="bfloat16")()
    assert torch.equal(rows, exact.bfloat16())


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


@pytest.mark.parametrize("trainable", [True, False])
def test_projected_features_are_zero_where_absent_and_give_them_no_gradient(modality, trainable):
    project = ProjectedFeatures(modality, 2, trainable=trainable)
    expected = modality.features @ project.linear.weight.T + project.linear.bias
    torch.testing.assert_close(project(), expected * PRESENT[:, None])
    torch.testing.assert_close(project(torch.tensor([2, 1])), project()[[2, 1]])
    project().square().sum().backward()
    assert len([*project.parameters()]) == 2 + trainable
    if trainable:
        assert torch.equal(project.features.rows.grad.any(1), PRESENT)


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_projections_of_unit_norm_have_finite_gradients_and_absent_rows_none(modality, precision):
    project = ProjectedFeatures(modality, 2, trainable=True, unit=True)
    expected = modality.features @ project.linear.weight.T + project.linear.bias
    expected = expected / expected.norm(dim=1, keepdim=True) * PRESENT[:, None]
    torch.testing.assert_close(project(), expected)
    torch.nn.init.zeros_(project.linear.bias)  # absent rows would have a norm of zero
    with torch.autocast("cpu", dtype=precision, enabled=precision is not torch.float32):
        (project() * torch.tensor([1.0, 2.0])).sum().backward()
    assert all(p.grad.isfinite().all() for p in project.parameters())
    assert torch.equal(project.features.rows.grad.any(1), PRESENT)
