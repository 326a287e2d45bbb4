"""Role recovery: known answers for weights that tell everything, nothing, or the opposite."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from mmrec.data import PlantedData, Roles, planted, planted_sequential
from mmrec.evaluation.recovery import dominance_areas, role_recovery


def world(**options):
    data = PlantedData(world=partial(planted, users=120, items=200, missing=0.1, **options))
    return data.corpus, data.truth


@pytest.fixture(scope="module")
def two():
    return world()


def oracle(corpus, truth):
    return dict(zip(corpus.modalities, truth.informative.T, strict=True))


def test_weights_that_are_the_truth_recover_it(two):
    corpus, truth = two
    found = role_recovery(corpus, truth, oracle(corpus, truth), truth.role)
    assert found["auc"] == found["auc/visual"] == found["auc/textual"] == 1
    assert found["nmi/expert"] == pytest.approx(1)


def test_weights_that_are_its_opposite_have_no_area(two):
    corpus, truth = two
    opposite = {name: 1 - w for name, w in oracle(corpus, truth).items()}
    assert role_recovery(corpus, truth, opposite)["auc"] == 0


def test_only_the_items_that_are_asked_for_count(two):
    corpus, truth = two
    some = torch.arange(corpus.n_items) % 2 == 0
    weights = oracle(corpus, truth)
    wrong = {name: torch.where(some, w, 1 - w) for name, w in weights.items()}
    assert role_recovery(corpus, truth, wrong, items=some)["auc"] == 1
    assert role_recovery(corpus, truth, wrong, items=~some)["auc"] == 0


def test_without_an_item_that_counts_there_is_nothing_to_say(two):
    corpus, truth = two
    none = torch.zeros(corpus.n_items, dtype=torch.bool)
    assert role_recovery(corpus, truth, oracle(corpus, truth), truth.role, items=none) == {}


def test_equal_weights_tell_nothing(two):
    corpus, truth = two
    even = {name: torch.full((corpus.n_items,), 0.25) for name in corpus.modalities}
    found = role_recovery(corpus, truth, even)
    assert found["auc"] == 0.5
    assert found["nmi"] == pytest.approx(0, abs=1e-6)


def test_rounding_is_no_knowledge(two):
    corpus, truth = two
    jitter = 1e-7 * torch.rand(corpus.n_items, generator=torch.Generator().manual_seed(0))
    near = {"visual": 0.25 + jitter, "textual": 0.25 - jitter}
    found = role_recovery(corpus, truth, near)
    assert found["auc"] == found["chance/auc"] == 0.5
    assert found["nmi"] == pytest.approx(0, abs=1e-6)


def test_a_group_is_compared_beside_the_largest_weight(two):
    corpus, truth = two
    found = role_recovery(corpus, truth, oracle(corpus, truth), torch.zeros(corpus.n_items).long())
    assert found["nmi/expert"] == pytest.approx(0, abs=1e-6)
    assert found["nmi"] > 0.3
    assert "chance/nmi/expert" in found


def test_the_same_weights_dealt_at_random_are_near_chance(two):
    corpus, truth = two
    found = role_recovery(corpus, truth, oracle(corpus, truth), truth.role)
    assert found["chance/auc"] == pytest.approx(0.5, abs=0.02)
    assert found["chance/nmi"] < 0.05
    alone = role_recovery(corpus, truth, oracle(corpus, truth), truth.role, deals=0)
    assert alone == {name: value for name, value in found.items() if "chance" not in name}


def test_an_area_is_the_share_of_pairs_that_are_in_order(two):
    corpus, truth = two
    weights = {n: torch.rand(corpus.n_items) for n in corpus.modalities}
    share = weights["visual"] / (weights["visual"] + weights["textual"])
    counted = (corpus.item_counts() > 0) & torch.stack(
        [m.present for m in corpus.modalities.values()]
    ).all(0)
    mine = share[counted & (truth.role == truth.role_names.index("dominant/visual"))]
    other = share[counted & (truth.role == truth.role_names.index("dominant/textual"))]
    expected = (mine[:, None] > other).double().mean()
    found = role_recovery(corpus, truth, weights)
    assert found["auc/visual"] == pytest.approx(float(expected), abs=1e-5)


def test_an_area_counts_ties_as_half_a_pair():
    role, names = torch.tensor([0, 0, 1, 1, 1]), ("dominant/visual", "dominant/textual")
    truth = Roles(role_names=names, role=role, informative=torch.empty(5, 2), category=role)
    visual = torch.tensor([0.9, 0.4, 0.4, 0.2, 0.6])
    # Of 2 x 3 pairs: 0.9 is larger than all three; 0.4 than one, and equal to one.
    areas = dominance_areas(truth, role, {"visual": visual, "textual": 1 - visual})
    assert areas == {"visual": pytest.approx(4.5 / 6), "textual": pytest.approx(4.5 / 6)}


def test_the_preference_of_categories_in_sequences_is_recovered_alike():
    make = partial(planted_sequential, users=60, items=80, categories=4, missing=0.1)
    data = PlantedData(world=make, split="leave_one_out")
    corpus, truth = data.corpus, data.truth
    found = role_recovery(corpus, truth, oracle(corpus, truth))
    assert (found["auc"], found["nmi"]) == (1, pytest.approx(1))
    by_category = torch.tensor([0.9, 0.8, 0.2, 0.1])[truth.preferred.argsort().argsort()]
    visual = by_category[truth.category]  # the preferred modality of each category, 0 is visual
    assert role_recovery(corpus, truth, {"visual": visual, "textual": 1 - visual})["auc"] == 1


def test_three_modalities_have_an_area_each():
    corpus, truth = world(modalities=("a", "b", "c"))
    found = role_recovery(corpus, truth, oracle(corpus, truth))
    assert {"auc", "auc/a", "auc/b", "auc/c"} <= found.keys()
    assert found["auc"] == 1


def test_one_modality_or_no_weights_say_nothing(two):
    corpus, truth = two
    assert role_recovery(corpus, truth, {}) == {}
    assert role_recovery(corpus, truth, {"visual": torch.ones(corpus.n_items)}) == {}


def test_behaviour_is_no_modality(two):
    corpus, truth = two
    weights = oracle(corpus, truth)
    with_behaviour = {"behaviour": torch.rand(corpus.n_items), **weights}
    assert role_recovery(corpus, truth, with_behaviour) == role_recovery(corpus, truth, weights)


def test_worlds_without_dominant_roles_have_mutual_information_only():
    corpus, truth = world(roles={"balanced": 0.5, "complementary": 0.5})
    found = role_recovery(corpus, truth, oracle(corpus, truth), truth.role)
    assert set(found) == {f"{k}{n}" for k in ("", "chance/") for n in ("nmi", "nmi/expert")}
