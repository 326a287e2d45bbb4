import math

import pytest
import torch
from torch import Tensor

from mmrec.config.errors import SettingError
from mmrec.data import choices, synthetic
from mmrec.data.corpus import Interactions, Source
from mmrec.data.synthetic import Truth, planted


@pytest.fixture(scope="module")
def default() -> tuple[Source, Truth]:
    return planted()


@pytest.fixture(scope="module")
def crisp() -> tuple[Source, Truth]:
    """Many items with clear content, few users."""
    return planted(users=50, items=2000, noise={"visual": 0.1, "textual": 1.5}, missing=0.0)


def explained(features: Tensor, factors: Tensor) -> float:
    """R^2 of the factors, from a linear fit on half of the rows, on the other half."""
    x = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    half, y = len(x) // 2, factors.double()
    left = y[half:] - x[half:] @ torch.linalg.lstsq(x[:half], y[:half]).solution
    return float(1 - left.square().sum() / (y[half:] - y[:half].mean(0)).square().sum())


def neighbours(features: Tensor) -> Tensor:
    """[N, 10]: rows of the largest cosine, without oneself."""
    unit = torch.nn.functional.normalize(features, dim=1)
    return (unit @ unit.T).fill_diagonal_(-1).topk(10).indices


def gini(source: Source) -> float:
    counts = torch.bincount(source.interactions.item, minlength=source.n_items).sort().values
    rank = torch.arange(1, len(counts) + 1)
    return float(((2 * rank - len(counts) - 1) * counts).sum() / (len(counts) * counts.sum()))


def match(source: Source, truth: Truth) -> Tensor:
    """[2, N]: cosine of the chosen item with the user's first and last interests."""
    x = source.interactions
    items = truth.item_factors[x.item]
    return torch.cosine_similarity(truth.user_factors[:, x.user], items[None], dim=2)


def role(truth: Truth, name: str) -> Tensor:
    return truth.role == truth.role_names.index(name)


def same(left: Interactions, right: Interactions) -> bool:
    columns = zip(vars(left).values(), vars(right).values(), strict=True)
    return all(torch.equal(a, b) for a, b in columns)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not():
    sizes = {"users": 60, "items": 80, "cold_items": 0.2}
    (first, truth), (again, truth_again) = planted(**sizes, seed=3), planted(**sizes, seed=3)
    assert first.fingerprint == again.fingerprint
    assert same(first.interactions, again.interactions)
    for name, modality in first.modalities.items():
        assert torch.equal(modality.features, again.modalities[name].features)
        assert modality.digest == again.modalities[name].digest
    assert torch.equal(truth.user_factors, truth_again.user_factors)
    other, _ = planted(**sizes, seed=4)
    assert other.fingerprint != first.fingerprint
    assert not same(first.interactions, other.interactions)


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, _ = planted(users=20, items=60)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert planted(users=20, items=60)[0].fingerprint == first.fingerprint


@pytest.mark.parametrize("items", [60, 2500])
def test_pairs_are_unique_and_each_user_has_at_least_five_ordered_in_time(items):
    source, _ = planted(users=150, items=items, cold_items=0.5, popularity_skew=3.0)
    x = source.interactions
    assert len((x.user * items + x.item).unique()) == len(x)
    counts = torch.bincount(x.user, minlength=150)
    assert counts.min() >= 5
    assert counts.max() <= items // 4
    assert x.item.min() >= 0
    assert x.item.max() < items
    assert (x.user.diff() >= 0).all()
    assert (x.time.diff()[x.user.diff() == 0] >= 0).all()
    assert x.time.dtype == torch.int64


def test_activity_has_the_mean_that_was_asked_for_and_a_tail(default):
    source, _ = default
    counts = torch.bincount(source.interactions.user, minlength=source.n_users).double()
    assert counts.mean() == pytest.approx(12, rel=0.05)
    assert counts.max() > 4 * counts.median()


def test_role_shares_are_exact(default):
    source, truth = default
    assert truth.role_names == (
        "dominant/visual",
        "dominant/textual",
        "balanced",
        "complementary",
    )
    assert torch.bincount(truth.role).tolist() == [300, 300, 200, 200]
    assert source.n_items == 1000


def test_informative_follows_from_role_and_presence(default):
    source, truth = default
    by_role = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.5]])
    present = torch.stack([m.present for m in source.modalities.values()], 1)
    assert torch.equal(truth.informative, by_role[truth.role] * present)


def test_missing_content_has_its_share_and_is_zero():
    source, _ = planted(users=20, items=200, missing={"visual": 0.25, "textual": 0.0})
    visual, textual = source.modalities.values()
    assert (~visual.present).sum() == 50
    assert textual.present.all()
    assert (visual.features[~visual.present] == 0).all()
    assert (visual.features[visual.present].abs().sum(1) > 0).all()


def test_any_modalities_of_any_width():
    source, truth = planted(
        users=20,
        items=300,
        modalities=["image", "text", "sound"],
        widths={"image": 7, "text": 5, "sound": 3},
        missing=0.0,
    )
    assert {n: m.features.shape for n, m in source.modalities.items()} == {
        "image": (300, 7),
        "text": (300, 5),
        "sound": (300, 3),
    }
    assert truth.informative.shape == (300, 3)
    shown = truth.informative[role(truth, "complementary")]  # blocks of 16 factors
    assert shown.unique(dim=0).tolist() == [[6 / 16, 5 / 16, 5 / 16]]
    assert planted(users=9, items=60, modalities=["text"])[1].informative.shape == (60, 1)


def test_a_dominant_modality_shows_the_factors_and_the_other_is_noise(crisp):
    source, truth = crisp
    at = role(truth, "dominant/visual")
    assert explained(source.modalities["visual"].features[at], truth.item_factors[at]) > 0.95
    assert explained(source.modalities["textual"].features[at], truth.item_factors[at]) < 0.05


def test_neighbours_by_the_dominant_modality_share_factors_and_by_the_other_do_not(crisp):
    source, truth = crisp
    at = role(truth, "dominant/visual")
    factors = torch.nn.functional.normalize(truth.item_factors[at], dim=1)
    category = truth.category[at]

    def shared(name: str) -> tuple[float, float]:
        near = neighbours(source.modalities[name].features[at])
        alike = (factors[near] * factors[:, None]).sum(2).mean()
        return float(alike), float((category[near] == category[:, None]).float().mean())

    alike, same_category = shared("visual")
    assert alike > 0.4
    assert same_category > 0.4
    alike, same_category = shared("textual")
    assert abs(alike) < 0.05
    assert same_category < 0.1


def test_neighbours_by_the_dominant_modality_share_users(default):
    source, truth = default
    at = role(truth, "dominant/textual")
    x = source.interactions
    taken = torch.zeros(source.n_users, source.n_items)
    taken[x.user, x.item] = 1
    unit = torch.nn.functional.normalize(taken[:, at], dim=0)
    cosine = (unit.T @ unit).fill_diagonal_(0)
    by = {
        name: cosine.gather(1, neighbours(modality.features[at])).mean()
        for name, modality in source.modalities.items()
    }
    assert by["textual"] > 2 * cosine.mean()
    assert by["visual"] < 1.3 * cosine.mean()


def test_complementary_halves_each_show_their_own_part(crisp):
    source, truth = crisp
    at = role(truth, "complementary")
    visual, textual = (m.features[at] for m in source.modalities.values())
    own, other = truth.item_factors[at, :8], truth.item_factors[at, 8:]
    assert explained(visual, own) > 0.8
    assert explained(visual, other) < 0.05
    assert explained(textual, other) > 0.3
    assert explained(textual, own) < 0.05


def test_a_balanced_item_shows_all_factors_in_every_modality(crisp):
    source, truth = crisp
    at = role(truth, "balanced")
    for modality in source.modalities.values():
        assert explained(modality.features[at], truth.item_factors[at]) > 0.3


def test_features_have_one_scale_whatever_the_role(crisp):
    source, truth = crisp
    scale = source.modalities["visual"].features.square().mean(1)
    for name in truth.role_names:
        assert scale[role(truth, name)].mean() == pytest.approx(1 + 0.1**2, rel=0.1)


def test_more_noise_leaves_less_of_the_factors():
    fits = []
    for noise in (0.1, 1.0, 3.0):
        source, truth = planted(
            users=20, items=1000, roles={"balanced": 1.0}, noise=noise, missing=0.0
        )
        fits.append(explained(source.modalities["visual"].features, truth.item_factors))
    assert fits[0] > 0.98
    assert fits[0] > fits[1] + 0.1 > fits[2] + 0.3


def test_categories_are_equal_in_size_and_share_factors(default):
    source, truth = default
    assert torch.bincount(truth.category).tolist() == [50] * 20
    assert torch.equal(source.categories.category, truth.category)
    assert torch.equal(source.categories.item, torch.arange(1000))
    assert len(source.categories.names) == 20
    means = torch.stack([truth.item_factors[truth.category == c].mean(0) for c in range(20)])
    between = means.square().mean()  # of a variance of 1
    assert 0.35 < between < 0.65


def test_users_take_much_from_few_categories(default):
    source, truth = default
    x = source.interactions
    counts = torch.zeros(source.n_users, 20)
    counts.index_put_((x.user, truth.category[x.item]), torch.ones(len(x)), accumulate=True)
    largest = (counts.max(1).values / counts.sum(1)).mean()
    random, _ = planted(strength=0.0)
    y = random.interactions
    counts.zero_().index_put_((y.user, truth.category[y.item]), torch.ones(len(y)), accumulate=True)
    assert largest > 1.5 * (counts.max(1).values / counts.sum(1)).mean()


def test_popularity_skew_moves_the_gini_index():
    values = [
        gini(planted(users=1000, items=300, strength=1.0, popularity_skew=skew)[0])
        for skew in (0.0, 0.7, 1.5)
    ]
    assert values[0] < 0.25
    assert values[0] + 0.1 < values[1] < values[2] - 0.1


def test_strength_moves_choices_from_chance_to_taste():
    means = []
    for strength in (0.0, 1.0, 4.0):
        source, truth = planted(users=500, items=500, strength=strength, drift=0.0)
        means.append(match(source, truth)[0].mean())
    assert abs(means[0]) < 0.02
    assert means[1] > 0.1
    assert means[2] > means[1] + 0.1


def test_choices_without_taste_follow_popularity_exactly():
    # By the softmax, log counts differ as log b does, where nobody takes much of the catalogue.
    skewed, _ = planted(
        users=4000, items=400, interactions_per_user=5, strength=0.0, popularity_skew=1.0
    )
    counts = torch.bincount(skewed.interactions.item, minlength=400).double()
    spread = counts[counts > 0].log().std()
    assert spread == pytest.approx(1.0, abs=0.12)


def test_users_who_heed_a_modality_take_what_it_shows():
    source, truth = planted(preference_strength=1.0, strength=2.0)
    x = source.interactions
    visual = role(truth, "dominant/visual")[x.item]
    textual = role(truth, "dominant/textual")[x.item]
    heeds = truth.preference[x.user, 0]
    often = {
        side: visual[rows].sum() / (visual | textual)[rows].sum()
        for side, rows in (("visual", heeds > 0.7), ("textual", heeds < 0.3))
    }
    assert often["visual"] > 0.6
    assert often["textual"] < 0.4
    cosine = match(source, truth).mean(0)
    assert cosine[visual & (heeds > 0.7)].mean() > cosine[visual & (heeds < 0.3)].mean() + 0.1


def test_without_preference_strength_what_a_user_heeds_is_without_effect():
    source, truth = planted(preference_strength=0.0)
    x = source.interactions
    visual = role(truth, "dominant/visual")[x.item].double()
    heeds = truth.preference[x.user, 0]
    assert abs(visual[heeds > 0.7].mean() - visual[heeds < 0.3].mean()) < 0.03


def test_preferences_are_on_the_simplex(default):
    _, truth = default
    torch.testing.assert_close(truth.preference.sum(1), torch.ones(2000))
    assert truth.preference.min() >= 0
    assert truth.preference[:, 0].double().std() == pytest.approx(math.sqrt(1 / 12), rel=0.05)


def test_interests_drift_from_their_begin_to_their_end():
    source, truth = planted(drift=1.0)
    first, last = match(source, truth)
    clock = (source.interactions.time - synthetic.BEGIN) / synthetic.SPAN
    early, late = clock < 0.25, clock > 0.75
    assert first[early].mean() > first[late].mean() + 0.1
    assert last[late].mean() > last[early].mean() + 0.1


def test_without_drift_early_and_late_choices_match_alike():
    source, truth = planted(drift=0.0)
    first, last = match(source, truth)
    assert torch.equal(*truth.user_factors)
    clock = (source.interactions.time - synthetic.BEGIN) / synthetic.SPAN
    assert abs(first[clock < 0.5].mean() - last[clock > 0.5].mean()) < 0.02


def test_cold_items_have_their_share_and_come_late():
    source, _ = planted(cold_items=0.2)
    assert source.cold.dtype == torch.int8
    assert torch.bincount(source.cold.long()).tolist() == [800, 100, 100]
    cold = source.cold[source.interactions.item] > 0
    clock = (source.interactions.time - synthetic.BEGIN) / synthetic.SPAN
    assert clock[cold].min() > 0.8 - 1e-6
    # More than their share of what is taken late: few users have their favourites among them yet.
    assert 0.2 < cold[clock > 0.8].double().mean() < 0.6


def test_without_cold_items_none_are_marked(default):
    assert default[0].cold is None


def test_a_catalogue_too_large_to_meet_whole_keeps_taste_and_popularity(monkeypatch):
    # The same world, with and without the sample that users meet.
    sizes = {"users": 1500, "items": 1500, "drift": 0.0}
    whole, truth = planted(**sizes)
    monkeypatch.setattr(choices, "WHOLE", 0)
    sampled, same_truth = planted(**sizes)
    assert torch.equal(truth.item_factors, same_truth.item_factors)
    assert match(sampled, truth)[0].mean() > 0.8 * match(whole, truth)[0].mean()
    counts = [torch.bincount(s.interactions.item, minlength=1500) for s in (whole, sampled)]
    assert torch.corrcoef(torch.stack(counts).double())[0, 1] > 0.8


def test_meeting_a_sample_without_taste_leaves_the_popularity_unchanged(monkeypatch):
    sizes = {"users": 4000, "items": 200, "interactions_per_user": 5, "strength": 0.0}
    whole, _ = planted(**sizes)
    monkeypatch.setattr(choices, "WHOLE", 0)
    sampled, _ = planted(**sizes)
    expected, actual = (
        torch.bincount(s.interactions.item, minlength=200).double() for s in (whole, sampled)
    )
    # Twice the variance of a count, and little more for being met or not.
    assert ((actual - expected).square() / (actual + expected)).mean() < 1.5


def test_a_large_catalogue_is_made_without_a_matrix_of_users_and_items():
    source, _ = planted(users=3000, items=50_000, categories=100, interactions_per_user=8, widths=4)
    assert source.n_items == 50_000
    assert torch.bincount(source.interactions.user, minlength=3000).double().mean() > 7.5


def test_content_and_co_occurrence_beat_popularity(default):
    source, _ = default
    x = source.interactions
    held = torch.rand(len(x), generator=torch.Generator().manual_seed(0)) < 0.2
    train, test = torch.zeros(2, source.n_users, source.n_items)
    train[x.user[~held], x.item[~held]] = 1
    test[x.user[held], x.item[held]] = 1
    kept = test.sum(1) > 0
    train, test = train[kept], test[kept]

    def recall(scores: Tensor) -> float:
        top = scores.masked_fill(train > 0, -math.inf).topk(20).indices
        return float((test.gather(1, top).sum(1) / test.sum(1)).mean())

    def ease(rows: Tensor) -> Tensor:
        inverse = torch.linalg.inv(rows.T @ rows + 100 * torch.eye(source.n_items))
        return train @ (inverse / -inverse.diag()).fill_diagonal_(0)

    popular = recall(train.sum(0).expand(len(train), -1))
    content = torch.cat([m.features for m in source.modalities.values()], 1)
    content = torch.nn.functional.normalize(content, dim=1)
    collaborative = recall(ease(train))
    both = recall(ease(torch.cat([train, math.sqrt(20) * content.T])))
    assert collaborative > 3 * popular
    assert both > 1.05 * collaborative


@pytest.mark.parametrize(
    ("arguments", "setting", "expected"),
    [
        ({"roles": {"dominnt": 1.0}}, "roles.dominnt", "a name of dominant"),
        ({"roles": {"dominant": 0.5}}, "roles", "a sum of 1"),
        ({"roles": {"dominant": 1.5, "balanced": -0.5}}, "roles.dominant", "0 to 1"),
        ({"missing": 1.5}, "missing.visual", "0 to 1"),
        ({"missing": {"visual": 0.1}}, "missing.textual", None),
        ({"noise": {"visul": 0.1}}, "noise.visul", "a name of visual"),
        ({"noise": -1.0}, "noise.visual", "0 or more"),
        ({"widths": 0}, "widths.visual", "1 or more"),
        ({"users": 0}, "users", "1 or more"),
        ({"items": 30}, "items", "48 or more"),
        ({"interactions_per_user": 3}, "interactions_per_user", "5 or more"),
        ({"modalities": ("a", "a")}, "modalities", "one name or more, each once"),
        ({"modalities": ()}, "modalities", "one name or more, each once"),
        ({"factors": 1}, "factors", "2 or more"),
        ({"categories": 0}, "categories", "1 to 1000"),
        ({"drift": 2.0}, "drift", "0 to 1"),
        ({"preference_strength": -0.1}, "preference_strength", "0 to 1"),
        ({"cold_items": 0.6}, "cold_items", "0 to 0.5"),
        ({"popularity_skew": math.inf}, "popularity_skew", "0 or more"),
        ({"strength": math.nan}, "strength", "0 or more"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_expected(arguments, setting, expected):
    with pytest.raises(SettingError) as error:
        planted(**arguments)
    assert error.value.setting == setting
    assert (error.value.expected or "").startswith(expected or "")
