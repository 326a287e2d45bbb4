"""Comparisons of a batch, against loops over its pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity, logsigmoid

from mmrec.config.errors import SettingError
from mmrec.data import Triplets
from mmrec.nn import RankingLoss


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
    ranking_loss = RankingLoss(corpus, "bpr", 0.2)
    expected = [
        -logsigmoid(users[user] @ items[own] - users[user] @ items[other])
        for user, own, others in zip(*BATCH, strict=True)
        for other in others
    ]
    index = ranking_loss.index(BATCH)
    found = ranking_loss(index, *index.rows(users, items))
    assert found.keys() == {"bpr"}
    torch.testing.assert_close(found["bpr"], torch.stack(expected).mean())


def test_softmax_finds_the_own_item_among_the_distinct_ones_of_the_batch(corpus, tables):
    users, items = tables
    ranking_loss = RankingLoss(corpus, "softmax", 0.3)
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
    index = ranking_loss.index(BATCH)
    found = ranking_loss(index, *index.rows(users, items))
    assert found.keys() == {"softmax"}
    assert float(found["softmax"]) == pytest.approx(sum(expected) / 4, rel=1e-5)


def test_the_correction_makes_the_mean_over_batches_that_of_all_items(corpus):
    """Sums of exp(logit) / chance over what batches hold are unbiased: Yi et al.'s reason."""
    ranking_loss, size = RankingLoss(corpus, "softmax", 0.5), 3
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(corpus.n_items, generator=generator)
    total, draws = 0.0, 4000
    for _ in range(draws):
        item = corpus.train.item[torch.randint(len(corpus.train), (size,), generator=generator)]
        index = ranking_loss.index(Triplets(torch.zeros(size).long(), item, item.unsqueeze(1)))
        rows = scores[index.item].expand(size, -1)
        # -log(own / sum) of each row, of which all but the sum is known.
        loss = ranking_loss.softmax_loss(index._replace(own=torch.zeros(size).long()), rows)[
            "softmax"
        ]
        first = index.item[0]
        chance = 1 - (1 - (corpus.train.item == first).double().mean()) ** size
        total += float((loss + scores[first] / 0.5 - chance.log()).exp())
    met = torch.bincount(corpus.train.item, minlength=corpus.n_items) > 0
    expected = float((scores[met] / 0.5).exp().sum())
    assert total / draws == pytest.approx(expected, rel=0.05)
    plain = RankingLoss(corpus, "softmax", 0.5, corrected=False)
    uncorrected = float(plain.softmax_loss(index, rows)["softmax"])
    assert uncorrected != pytest.approx(float(ranking_loss.softmax_loss(index, rows)["softmax"]))


def test_vectors_are_compared_by_direction_only_in_a_softmax(corpus, tables):
    users, _ = tables
    assert torch.equal(RankingLoss(corpus, "bpr", 0.2).normalized(users), users)
    lengths = RankingLoss(corpus, "softmax", 0.2).normalized(users).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(len(users)))


def test_rows_stand_users_first_and_come_back_as_sides(corpus):
    for loss in ("bpr", "softmax"):
        index = RankingLoss(corpus, loss, 0.2).index(BATCH)
        nodes = index.nodes(corpus.n_users)
        users, items = index.sides(nodes)
        assert torch.equal(users, BATCH.user)
        assert torch.equal(items - corpus.n_users, index.item)


@pytest.mark.parametrize(
    ("given", "setting", "value"),
    [(("mse", 0.2), "model.loss", "mse"), (("softmax", 0.0), "model.temperature", 0.0)],
)
def test_what_cannot_be_is_refused(corpus, given, setting, value):
    with pytest.raises(SettingError) as error:
        RankingLoss(corpus, *given)
    assert (error.value.setting, error.value.value) == (setting, value)
