"""Comparisons of a batch, against loops over its pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity, logsigmoid

from mmrec.data import Triplets
from mmrec.losses import batch_softmax
from mmrec.nn import Preference


@pytest.fixture
def corpus(small_corpus):
    return small_corpus(n_users=9, n_items=12)


@pytest.fixture
def tables(corpus):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(corpus.n_users, 4, generator=generator),
        torch.randn(corpus.n_items, 4, generator=generator),
    )


BATCH = Triplets(
    torch.tensor([0, 3, 3, 8]),
    torch.tensor([5, 2, 11, 5]),
    torch.tensor([[1, 2], [0, 7], [4, 4], [9, 3]]),
)


def test_bpr_compares_each_pair_with_its_negatives(corpus, tables):
    users, items = tables
    preference = Preference(corpus, "bpr", 0.2)
    expected = [
        -logsigmoid(users[user] @ items[own] - users[user] @ items[other])
        for user, own, others in zip(*BATCH, strict=True)
        for other in others
    ]
    picked = preference.pick(BATCH)
    found = preference(picked, *picked.rows(users, items))
    assert found.keys() == {"bpr"}
    torch.testing.assert_close(found["bpr"], torch.stack(expected).mean())


def test_softmax_finds_the_own_item_among_the_distinct_ones_of_the_batch(corpus, tables):
    users, items = tables
    preference = Preference(corpus, "softmax", 0.3)
    train = corpus.train.item.tolist()
    rivals = {2, 5, 11}
    chance = {i: 1 - (1 - train.count(i) / len(train)) ** 4 for i in rivals}
    expected = []
    for user, own in zip(BATCH.user, BATCH.positive.tolist(), strict=True):
        logit = {
            i: float(cosine_similarity(users[user], items[i], dim=0)) / 0.3 - math.log(chance[i])
            for i in rivals
        }
        expected.append(math.log(sum(map(math.exp, logit.values()))) - logit[own])
    picked = preference.pick(BATCH)
    found = preference(picked, *picked.rows(users, items))
    assert found.keys() == {"softmax"}
    assert float(found["softmax"]) == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_an_items_chance_is_how_often_batches_hold_it(corpus):
    """The correction, by drawing batches: what stands in few of them counts for more."""
    size, draws = 5, 20_000
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(corpus.train), (draws, size), generator=generator)
    items = corpus.train.item[rows]
    item = int(corpus.train.item.mode().values)
    met = (items == item).any(1).double().mean()
    share = Preference(corpus, "softmax", 0.2).share[item].double()
    assert float(1 - (1 - share) ** size) == pytest.approx(float(met), abs=0.02)


def test_a_correction_makes_the_mean_over_batches_that_of_all_items():
    """Sampled sums of exp(logit) / chance are unbiased: Yi et al.'s reason for it."""
    generator = torch.Generator().manual_seed(0)
    logits, share = (
        torch.randn(6, generator=generator),
        torch.tensor([0.4, 0.3, 0.1, 0.1, 0.05, 0.05]),
    )
    chance = 1 - (1 - share) ** 3
    total = 0.0
    for draw in torch.multinomial(
        share.expand(30_000, -1), 3, replacement=True, generator=generator
    ):
        found = draw.unique()
        total += float((logits[found] - chance[found].log()).exp().sum())
    assert total / 30_000 == pytest.approx(float(logits.exp().sum()), rel=0.02)
    alone = batch_softmax(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([0.3]))
    assert float(alone) == 0  # nobody to lose against


def test_vectors_are_compared_by_direction_only_in_a_softmax(corpus, tables):
    users, _ = tables
    assert torch.equal(Preference(corpus, "bpr", 0.2).compared(users), users)
    lengths = Preference(corpus, "softmax", 0.2).compared(users).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(len(users)))


def test_rows_stand_users_first_and_come_back_as_sides(corpus):
    for loss in ("bpr", "softmax"):
        picked = Preference(corpus, loss, 0.2).pick(BATCH)
        nodes = picked.nodes(corpus.n_users)
        users, items = picked.sides(nodes)
        assert torch.equal(users, BATCH.user)
        assert torch.equal(items - corpus.n_users, picked.item)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("mse", 0.2), r"^model\.loss is mse; choose one of bpr, softmax$"),
        (("softmax", 0.0), r"^model\.temperature is 0\.0; give a finite number of at least 0\.01$"),
    ],
)
def test_what_cannot_be_is_refused(corpus, given, message):
    with pytest.raises(ValueError, match=message):
        Preference(corpus, *given)
