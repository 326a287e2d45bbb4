"""Planted sequences: what the generator promises, counted in what it makes."""

from __future__ import annotations

import math

import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.data.synthetic_sequences import planted_sequential

SMALL = {"users": 60, "items": 80, "categories": 4, "widths": 6}


@pytest.fixture(scope="module")
def world():
    """Many steps, clear content, no popularity."""
    return planted_sequential(
        users=2000, items=600, categories=6, noise=0.1, missing=0.0, popularity_skew=0.0
    )


def steps(source):
    """[2, N]: each item, and the next one of the same user."""
    x = source.interactions
    follows = x.user.diff() == 0
    return torch.stack([x.item[:-1][follows], x.item[1:][follows]])


def fit(features, target, item):
    """The target as a linear map of the features, from the even items; R^2 on the odd ones."""
    x = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    y, even = target.double(), item % 2 == 0
    found = x @ torch.linalg.lstsq(x[even], y[even]).solution
    left = (y - found)[~even].square().sum()
    return found.float(), float(1 - left / (y - y[even].mean(0))[~even].square().sum())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    (first, truth), (again, same) = (planted_sequential(**SMALL, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.fingerprint == again.fingerprint
    for name in ("user", "item", "time"):
        assert torch.equal(getattr(first.interactions, name), getattr(again.interactions, name))
    for name in first.modalities:
        assert first.modalities[name].digest == again.modalities[name].digest
    assert torch.equal(truth.style, same.style)
    assert planted_sequential(**SMALL, seed=4)[0].fingerprint != first.fingerprint


def test_the_next_category_follows_the_matrix(world):
    source, truth = world
    torch.testing.assert_close(truth.transition.sum(1), torch.ones(6))
    now, after = truth.category[steps(source)]
    counts = torch.zeros(6, 6).index_put_((now, after), torch.ones(len(now)), accumulate=True)
    total = counts.sum(1, keepdim=True)
    expected = truth.transition * total
    chi_square = ((counts - expected).square() / expected).sum()
    assert total.min() > 500
    assert chi_square < 55  # of 30 degrees of freedom: p = 0.004


def test_successors_prefer_the_same_modality_unless_they_may_be_any(world):
    _, truth = world
    likely = truth.transition > 0.2 / 6 + 1e-6
    assert likely.sum(1).tolist() == [2] * 6
    assert (truth.preferred[:, None] == truth.preferred)[likely].all()
    _, free = planted_sequential(**SMALL | {"categories": 8}, within_modality=False)
    likely = free.transition > 0.2 / 8 + 1e-6
    assert not (free.preferred[:, None] == free.preferred)[likely].all()


def test_each_modality_is_preferred_by_its_part_of_equal_categories(world):
    source, truth = world
    assert torch.bincount(truth.preferred).tolist() == [3, 3]
    assert torch.bincount(truth.category).tolist() == [100] * 6
    assert torch.equal(source.categories.category, truth.category)
    assert torch.equal(truth.role, truth.preferred[truth.category])
    assert truth.role_names == ("dominant/visual", "dominant/textual")
    assert torch.equal(truth.informative.argmax(1), truth.role)
    assert truth.informative.sum(1).eq(1).all()


def test_the_preferred_modality_shows_the_next_style_and_the_other_does_not(world):
    source, truth = world
    now, after = steps(source)
    for name, modality in source.modalities.items():
        for m, other in enumerate(source.modalities):
            rows = truth.role[now] == m
            item = now[rows]
            _, explained = fit(modality.features[item], truth.style[after[rows]], item)
            assert explained > 0.4 if name == other else explained < 0.05, (name, other)


def test_the_next_style_is_the_last_one_turned(world):
    source, truth = world
    torch.testing.assert_close(truth.turn @ truth.turn.T, torch.eye(8), atol=1e-5, rtol=0)
    now, after = truth.style[steps(source)]
    assert (now @ truth.turn.T * after).sum(1).mean() > 0.6
    assert (now * after).sum(1).mean().abs() < 0.25
    loose, truth = planted_sequential(**SMALL, strength=0.0)
    now, after = truth.style[steps(loose)]
    assert (now @ truth.turn.T * after).sum(1).mean().abs() < 0.1


def test_every_modality_shows_the_category_and_has_one_scale(world):
    source, truth = world
    labels = torch.nn.functional.one_hot(truth.category).float()
    for modality in source.modalities.values():
        for role in (0, 1):
            rows = truth.role == role
            item = rows.nonzero()[:, 0]
            found, _ = fit(modality.features[item], labels[item], item)
            right = found.argmax(1) == truth.category[item]
            assert right[item % 2 == 1].float().mean() > 0.9
            around = modality.features[rows] - torch.stack(
                [modality.features[truth.category == c].mean(0) for c in truth.category[rows]]
            )
            assert around.square().mean() == pytest.approx(1.01, rel=0.25)


def test_users_have_five_different_items_or_more_in_order_of_time():
    source, _ = planted_sequential(**SMALL | {"users": 500}, interactions_per_user=12)
    x = source.interactions
    assert len((x.user * 80 + x.item).unique()) == len(x)
    counts = torch.bincount(x.user)
    assert counts.min() == 5
    assert counts.max() == 20  # all items of a category
    assert counts.double().mean() == pytest.approx(12, rel=0.15)
    assert (x.user.diff() >= 0).all()
    assert (x.time.diff()[x.user.diff() == 0] >= 0).all()


def test_any_modalities_some_of_them_missing():
    source, truth = planted_sequential(
        **SMALL | {"widths": {"a": 3, "b": 4, "c": 5}},
        modalities=["a", "b", "c"],
        missing={"a": 0.25, "b": 0, "c": 0},
    )
    assert [m.features.shape for m in source.modalities.values()] == [(80, 3), (80, 4), (80, 5)]
    absent = ~source.modalities["a"].present
    assert absent.sum() == 20
    assert not source.modalities["a"].features[absent].any()
    assert not truth.informative[absent, 0].any()


@pytest.mark.parametrize(
    ("arguments", "setting", "expected"),
    [
        ({"users": 0}, "users", "1 or more"),
        ({"items": 79}, "items", "80 or more"),
        ({"interactions_per_user": 4}, "interactions_per_user", "5 or more"),
        ({"modalities": ("a", "a")}, "modalities", "one name or more, each once"),
        ({"factors": 0}, "factors", "1 or more"),
        ({"categories": 0}, "categories", "1 or more"),
        ({"successors": 0}, "successors", "1 or more"),
        ({"chance": 1.1}, "chance", "0 to 1"),
        ({"popularity_skew": -1.0}, "popularity_skew", "0 or more"),
        ({"strength": math.inf}, "strength", "0 or more"),
        ({"noise": {"visual": 1.0}}, "noise.textual", None),
        ({"missing": 2.0}, "missing.visual", "0 to 1"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_expected(arguments, setting, expected):
    with pytest.raises(SettingError) as error:
        planted_sequential(**{"categories": 10} | arguments)
    assert (error.value.setting, error.value.expected) == (setting, expected)
