"""SASRec against arithmetic written out, and its options."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from mmrec.config.errors import SettingError
from mmrec.data import DataError, History, InteractionData, Queries
from mmrec.data.loaders import SequenceDataset
from mmrec.models import SASRec


def build(corpus, **settings):
    torch.manual_seed(0)
    return SASRec(corpus, **{"dim": 8, "inner": 16, "dropout": 0.0, "max_length": 6, **settings})


def batch_of(model, corpus):
    data = InteractionData(negatives=3)
    data.corpus = corpus
    dataset = data.dataset(model)
    return dataset.batch(torch.arange(len(dataset)), torch.Generator().manual_seed(0))


@pytest.fixture
def corpus(checkerboard):
    return checkerboard()


def test_the_loss_is_the_cross_entropy_of_the_next_items(corpus):
    """By a loop over users and positions, each sequence alone."""
    model = build(corpus).eval()
    items, logits, targets = corpus.train.by_user(corpus.n_users), [], []
    for user in range(corpus.n_users):
        sequence = items.item[items.start[user] : items.start[user + 1]][-7:]
        for end in range(1, len(sequence)):
            history = History(sequence[:end], torch.tensor([end]))
            query = Queries(torch.tensor([user]), history)
            logits.append(model.score(model.encode(), query))
            targets.append(sequence[end])
    expected = cross_entropy(torch.cat(logits), torch.stack(targets))
    found = model.losses(batch_of(model, corpus))["cross_entropy"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_prefix_and_causal_samples_have_the_same_loss_where_nothing_is_cut(corpus):
    losses = [
        model.losses(batch_of(model, corpus))["cross_entropy"]
        for model in (build(corpus, samples=kind, max_length=9) for kind in ("causal", "prefix"))
    ]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)


def test_only_the_latest_items_of_a_long_history_are_read(corpus):
    model = build(corpus, max_length=3)
    loader = InteractionData()
    loader.corpus = corpus
    lengths = loader.dataset(model).batch(torch.arange(4), torch.Generator()).history.length
    assert lengths.tolist() == [3, 3, 3, 3]


def test_a_user_without_a_history_likes_all_items_the_same(corpus):
    model = build(corpus).eval()
    history = History(torch.tensor([4, 2]), torch.tensor([0, 2]))
    scores = model.score(model.encode(), Queries(torch.tensor([0, 1]), history))
    assert not scores[0].any()
    assert scores[1].any()


@pytest.mark.parametrize(("loss", "power"), [("bce", 1.0), ("gbce", 1 - 0.75 * (1 - 3 / 95))])
def test_sampled_losses_are_those_of_targets_and_negatives(corpus, loss, power):
    model = build(corpus, loss=loss).eval()
    batch = batch_of(model, corpus)
    states = model.read(batch.history, model.encode())[batch.position]
    positive = (states * model.item(batch.target)).sum(1)
    negative = torch.einsum("td,tkd->tk", states, model.item(batch.negative))
    expected = power * -positive.sigmoid().log() - (1 - negative.sigmoid()).log().sum(1)
    assert batch.negative.shape[1] == 3
    torch.testing.assert_close(model.losses(batch)[loss], expected.mean() / 4, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_a_sampled_softmax_weighs_negatives_by_their_chance(corpus, distribution):
    model = build(corpus, loss="sampled_softmax").eval()
    data = InteractionData(negatives=3, distribution=distribution)
    data.corpus = corpus
    dataset = data.dataset(model)
    batch = dataset.batch(torch.arange(len(dataset)), torch.Generator().manual_seed(0))
    states = model.read(batch.history, model.encode())[batch.position]
    weight = torch.ones(corpus.n_items).double()
    if distribution == "popularity":
        weight = corpus.item_counts().double() ** 0.75
    of_target = batch.user.repeat_interleave(batch.history.length)
    terms = []
    for t, (state, user) in enumerate(zip(states, of_target, strict=True)):
        free = weight.clone()
        free[corpus.train.item[corpus.train.user == user]] = 0
        share = free / free.sum()
        own = (state @ model.item.weight[batch.target[t]]).exp()
        others = 0
        for item in batch.negative[t]:
            others = others + (state @ model.item.weight[item]).exp() / (3 * share[item])
        terms.append(-(own / (own + others)).log())
    expected = torch.stack(terms).mean().float()
    torch.testing.assert_close(model.losses(batch)["sampled_softmax"], expected, rtol=1e-4, atol=0)


def test_histories_of_single_items_have_nothing_to_learn(corpus):
    train = corpus.train.select(corpus.train.time == 0)
    with pytest.raises(SettingError) as error:
        SequenceDataset(train.by_user(corpus.n_users), max_length=3, samples="causal")
    assert error.value.setting == "data.split"


@pytest.mark.parametrize("users", [[0], [0, 1], []])
def test_blocks_of_users_without_any_history_have_scores(corpus, users):
    model = build(corpus).eval()
    lengths = torch.zeros(len(users), dtype=torch.int64)
    history = History(torch.empty(0, dtype=torch.int64), lengths)
    scores = model.score(model.encode(), Queries(torch.tensor(users, dtype=torch.int64), history))
    assert scores.shape == (len(users), corpus.n_items)
    assert not scores.any()


def test_data_without_an_order_are_refused_from_python_too(corpus):
    unordered = replace(corpus, train=replace(corpus.train, time=None))
    data = InteractionData()
    data.corpus = unordered
    with pytest.raises(DataError) as error:
        data.dataset(build(unordered))
    assert error.value.file == corpus.name
    assert "data.columns.time" in error.value.hint
