from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.config.errors import SettingError
from mmrec.data import Modality, content_hash
from mmrec.graphs import (
    content_similarity,
    directed_content_graph,
    modality_shares,
    shared_neighbours,
    weighted_content_graph,
)


def content(seed, width, items=8, absent=()):
    features = torch.randn(items, width, generator=torch.Generator().manual_seed(seed))
    present = torch.ones(items, dtype=torch.bool)
    present[list(absent)] = False
    features[~present] = 0
    return Modality(features, present, content_hash([features, present]))


def naive(modalities, k):
    """Mean over modalities of positive cosines, where either of two items is near the other."""
    n = len(modalities[0].features)
    total = torch.zeros(n, n)
    for modality in modalities:
        items = [i for i in range(n) if modality.present[i]]
        cosine = {
            (i, j): torch.cosine_similarity(modality.features[i], modality.features[j], 0).item()
            for i in items
            for j in items
            if i != j
        }
        near = {
            (i, j)
            for i in items
            for j in sorted((j for j in items if j != i), key=lambda j: -cosine[i, j])[:k]
        }
        for i, j in near | {(j, i) for i, j in near}:
            total[i, j] += max(cosine[i, j], 0) / len(modalities)
    return total


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 5))
def test_it_is_the_mean_cosine_of_near_neighbours(seed, kinds, k):
    modalities = [content(seed + n, 3 + n, absent=[n, 7 - n]) for n in range(kinds)]
    found = content_similarity({str(n): m for n, m in enumerate(modalities)}, k)
    torch.testing.assert_close(found.to_dense(), naive(modalities, k))


def test_items_without_content_are_nobodys_neighbours():
    one = content(0, 4, absent=[2, 3])
    two = content(1, 4, absent=[3])
    found = content_similarity({"one": one, "two": two}, 3).to_dense()
    assert found[2].any()
    assert not found[3].any()
    assert not found[:, 3].any()
    assert not found.diagonal().any()


def test_a_k_that_no_modality_can_serve_is_refused():
    with pytest.raises(SettingError) as error:
        content_similarity({"one": content(0, 4)}, 8)
    assert (error.value.setting, error.value.value) == ("model.k", 8)
    assert error.value.problem == "only 8 items have modality one"


def test_a_weighted_graph_is_directed_and_averages_the_nearest_items_of_each_modality():
    modalities = {"a": content(0, 3), "b": content(1, 4, absent=[2])}
    shares, k = {"a": 0.25, "b": 0.75}, 3
    expected = torch.zeros(8, 8)
    for name, modality in modalities.items():
        items = modality.present.nonzero().squeeze(1)
        for i in items:
            cosine = torch.cosine_similarity(modality.features[items], modality.features[i])
            assert i in items[cosine.topk(k).indices]  # an item is its own neighbour
            expected[i, items[cosine.topk(k).indices]] += shares[name] / k
    found = weighted_content_graph(modalities, shares, k).to_dense()
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, found.T)


def test_an_item_without_any_modality_has_no_neighbours_in_a_weighted_graph():
    modalities = {"a": content(0, 3, absent=[2, 3]), "b": content(1, 4, absent=[3])}
    graph = weighted_content_graph(modalities, {"a": 0.5, "b": 0.5}, 3).to_dense()
    assert graph[2].any()
    assert not graph[3].any()
    assert not graph[:, 3].any()


@pytest.mark.parametrize(
    ("names", "weights", "expected"),
    [
        (["image", "text"], None, [0.1, 0.9]),
        (["audio", "image", "text"], None, [0.45, 0.1, 0.45]),
        (["image"], None, [1.0]),
        (["visual", "textual"], None, [0.5, 0.5]),
        (["image", "text"], {"image": 3, "text": 1}, [0.75, 0.25]),
    ],
)
def test_modality_shares(names, weights, expected):
    shares = modality_shares(dict.fromkeys(names), weights)
    assert list(shares) == names
    assert [*shares.values()] == pytest.approx(expected)


@pytest.mark.parametrize(
    "weights",
    [{"image": 1}, {"image": 1, "sound": 1}, {"image": -1, "text": 2}, {"image": 0, "text": 0}],
)
def test_wrong_modality_weights_are_refused(weights):
    with pytest.raises(SettingError) as error:
        modality_shares(dict.fromkeys(["image", "text"]), weights)
    assert (error.value.setting, error.value.value) == ("model.modality_weights", weights)


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 6))
def test_shared_neighbours_are_near_in_every_modality_that_an_item_has(seed, kinds, k):
    modalities = [content(seed + n, 3 + n, absent=[n, 7]) for n in range(kinds)]
    expected = torch.zeros(8, 8)
    for i in range(8):
        near = []
        for each in modalities:
            if each.present[i]:
                items = [j for j in range(8) if each.present[j]]
                cosine = {j: torch.cosine_similarity(*each.features[[i, j]], 0) for j in items}
                near.append(set(sorted(items, key=lambda j: -cosine[j])[:k]))
        for j in set.intersection(*near) - {i} if near else ():
            expected[i, j] = 1
    found = shared_neighbours({str(n): m for n, m in enumerate(modalities)}, k)
    assert torch.equal(found.to_dense(), expected)


def test_the_directed_graph_holds_each_item_and_its_nearest_cosines_over_the_row_sums():
    modality = content(0, 3, absent=[2])
    items = [i for i in range(8) if i != 2]
    rows = torch.zeros(8, 8)
    for i in items:
        cosine = {
            j: torch.cosine_similarity(*modality.features[[i, j]], 0).clamp(0, 1) for j in items
        }
        for j in sorted(items, key=lambda j: -cosine[j])[:3]:
            rows[i, j] = cosine[j]
    assert torch.allclose(rows.diag()[items], torch.ones(7))
    degree = rows.sum(1)
    expected = torch.zeros(8, 8)
    for i in items:
        for j in items:
            expected[i, j] = rows[i, j] / (degree[i] * degree[j]).sqrt()
    found = directed_content_graph(modality, 3).to_dense()
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, found.T)
