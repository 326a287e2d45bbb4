"""Similarities of items by shared users, against loops."""

import math

import pytest
import torch

from mmrec.data import Interactions
from mmrec.graphs import cooccurrence, cooccurrence_similarity


def naive(train, n_items, k, shrinkage):
    users = [set(train.user[train.item == i].tolist()) for i in range(n_items)]
    found = torch.zeros(n_items, n_items)
    for i in range(n_items):
        values = {
            j: len(users[i] & users[j])
            / math.sqrt((len(users[i]) + shrinkage) * (len(users[j]) + shrinkage))
            for j in range(n_items)
            if j != i and users[i] & users[j]
        }
        for j in sorted(values, key=lambda j: (-values[j], j))[:k]:
            found[j, i] = values[j]
    return found


@pytest.mark.parametrize("block", [3, 2048])
@pytest.mark.parametrize(("k", "shrinkage"), [(2, 0.0), (4, 5.0), (100, 1.0)])
def test_it_is_what_loops_find(k, shrinkage, block, small_corpus, monkeypatch):
    monkeypatch.setattr(cooccurrence, "BLOCK", block)
    corpus = small_corpus(seed=3, n_users=12, n_items=10)
    found = cooccurrence_similarity(corpus.train, 12, 10, k, shrinkage)
    expected = naive(corpus.train, 10, k, shrinkage)
    torch.testing.assert_close(found.to_dense(), expected)


def test_a_pair_counts_once_and_lonely_items_have_no_neighbour():
    train = Interactions(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 3]), None)
    found = cooccurrence_similarity(train, 2, 5, 3).to_dense()
    assert found.count_nonzero() == 2
    assert found[0, 1] == found[1, 0] == 1
