"""Pseudo-edges against loops, and the augmented graph against dense algebra."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.data import DataError, PlantedData, planted
from mmrec.graphs import (
    augmented_adjacency,
    content_similarity,
    edge_statistics,
    normalized_adjacency,
    pseudo_edges,
    tail_items,
)

WORLD = partial(planted, users=60, items=40, interactions_per_user=6, missing=0.1)


@pytest.fixture(scope="module")
def corpus():
    return PlantedData(world=WORLD).corpus


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path))


def history(corpus):
    found = torch.zeros(corpus.n_users, corpus.n_items)
    found[corpus.train.user, corpus.train.item] = 1
    return found


def by_loops(corpus, per_user, tail_only):
    """(user, item) -> weight."""
    similarity = content_similarity(corpus.modalities, 10).to_dense()
    seen, counts = history(corpus).bool(), corpus.item_counts()
    edges = {}
    for user in range(corpus.n_users):
        worth = {}
        for item in range(corpus.n_items):
            mean = similarity[seen[user], item].mean() if seen[user].any() else 0
            rare = counts[item] <= counts.median()
            if mean > 0 and not seen[user, item] and (rare or not tail_only):
                worth[item] = float(mean)
        best = sorted(worth, key=worth.get, reverse=True)[:per_user]
        edges |= {(user, item): worth[item] / worth[best[0]] for item in best}
    return edges


@pytest.mark.usefixtures("fresh_cache")
@pytest.mark.parametrize("tail_only", [True, False])
@pytest.mark.parametrize("block", [7, 1024])
def test_each_user_gets_the_unseen_items_most_like_theirs(corpus, tail_only, block):
    found = pseudo_edges(corpus, per_user=3, neighbours=10, tail_only=tail_only, block=block)
    expected = by_loops(corpus, 3, tail_only)
    pairs = list(zip(found.user.tolist(), found.item.tolist(), strict=True))
    assert set(pairs) == set(expected)
    assert len(pairs) == len(set(pairs))
    for pair, weight in zip(pairs, found.weight.tolist(), strict=True):
        assert weight == pytest.approx(expected[pair], abs=1e-5)


def test_nothing_but_train_and_content_is_read(corpus, monkeypatch):
    monkeypatch.setattr("mmrec.graphs.pseudo.cached", lambda *keys: keys[-1]())
    other = replace(corpus, val=corpus.test, test=corpus.val)
    for one, two in zip(
        *(pseudo_edges(c, per_user=4, neighbours=5) for c in (corpus, other)), strict=True
    ):
        assert torch.equal(one, two)


@pytest.mark.usefixtures("fresh_cache")
def test_random_edges_are_as_many_of_the_same_weights_and_unseen(corpus):
    content = pseudo_edges(corpus, per_user=3, neighbours=10)
    found = pseudo_edges(corpus, per_user=3, neighbours=10, choice="random")
    assert torch.equal(found.user, content.user)
    assert torch.equal(found.weight, content.weight)
    assert not torch.equal(found.item, content.item)
    assert not history(corpus)[found.user, found.item].any()
    assert tail_items(corpus)[found.item].all()
    again = pseudo_edges(corpus, per_user=3, neighbours=10, choice="random")
    assert torch.equal(found.item, again.item)
    other = pseudo_edges(corpus, per_user=3, neighbours=10, choice="random", seed=1)
    assert not torch.equal(found.item, other.item)


@pytest.mark.usefixtures("fresh_cache")
def test_edges_are_read_from_the_cache_the_second_time(corpus, monkeypatch):
    first = pseudo_edges(corpus, per_user=2, neighbours=10)
    monkeypatch.setattr("mmrec.graphs.pseudo.content_similarity", None)
    again = pseudo_edges(corpus, per_user=2, neighbours=10)
    assert torch.equal(first.item, again.item)


def test_no_edges_are_none(corpus):
    found = pseudo_edges(corpus, per_user=0, neighbours=10)
    assert [len(column) for column in found] == [0, 0, 0]
    torch.testing.assert_close(
        augmented_adjacency(corpus, found, 0.3).to_dense(),
        normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items).to_dense(),
    )


def test_what_cannot_be_is_refused(corpus):
    with pytest.raises(SettingError) as few:
        pseudo_edges(corpus, per_user=-1, neighbours=10)
    assert (few.value.setting, few.value.value) == ("model.pseudo_edges", -1)
    with pytest.raises(DataError) as bare:
        pseudo_edges(replace(corpus, modalities={}), per_user=1, neighbours=10)
    assert bare.value.file == "planted"


@pytest.mark.usefixtures("fresh_cache")
def test_the_augmented_graph_is_normalised_by_its_weighted_degrees(corpus):
    edges = pseudo_edges(corpus, per_user=3, neighbours=10)
    both = history(corpus).double()
    both[edges.user, edges.item] += 0.3 * edges.weight.double()
    size = corpus.n_users + corpus.n_items
    dense = torch.zeros(size, size, dtype=torch.float64)
    dense[: corpus.n_users, corpus.n_users :] = both
    dense = dense + dense.T
    scale = dense.sum(1).clamp(min=1e-12).rsqrt()
    expected = scale[:, None] * dense * scale
    found = augmented_adjacency(corpus, edges, 0.3).to_dense().double()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("tail_only", [True, False])
def test_statistics_of_edges_are_those_of_loops(corpus, tail_only):
    edges = pseudo_edges(corpus, per_user=3, neighbours=10, tail_only=tail_only)
    pairs = set(zip(edges.user.tolist(), edges.item.tolist(), strict=True))
    counts, seen = corpus.item_counts(), history(corpus)
    found = edge_statistics(corpus, edges)
    assert found.edges == len(pairs) > 0
    rare = [counts[item] <= counts.median() for _, item in pairs]
    assert found.tail == pytest.approx(sum(rare) / len(rare))
    assert (found.tail == 1) == tail_only
    val = list(zip(corpus.val.user.tolist(), corpus.val.item.tolist(), strict=True))
    assert found.val_hits == pytest.approx(sum(pair in pairs for pair in val) / len(val))
    of_user = [sum(u == user for u, _ in pairs) / (40 - float(seen[user].sum())) for user, _ in val]
    assert found.val_chance == pytest.approx(sum(of_user) / len(val))
    assert "% of the validation interactions (by chance " in str(found)


def test_statistics_of_no_edges_are_zero(corpus):
    edges = pseudo_edges(corpus, per_user=0, neighbours=10)
    assert edge_statistics(corpus, edges) == (0, 0, 0, 0)
