"""UniSRec: its experts row by row, cosines, and items that were not in training."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, softplus

from mmrec.data import History, InteractionData, Queries
from mmrec.models import NoNewItems, UniSRec
from mmrec.models.unisrec import WhiteningExperts


def build(corpus, **settings):
    torch.manual_seed(0)
    small = {"dim": 8, "experts": 3, "inner": 16, "dropout": 0.0, "adaptor_dropout": 0.0}
    model = UniSRec(corpus, **{**small, "max_length": 6, **settings}).eval()
    for adaptor in model.adaptors:
        for parameter in adaptor.parameters():
            torch.nn.init.normal_(parameter)
    return model.requires_grad_(False)


def adapted(experts, x, noise=0.0):
    """`sum_k g_k W_k (x - b_k)` of one row [F] -> [D]."""
    gates = (x @ experts.gate + noise).softmax(0)
    parts = zip(gates, experts.weight, experts.shift, strict=True)
    return sum(g * (w @ (x - b)) for g, w, b in parts)


def test_experts_shift_and_map_each_row():
    torch.manual_seed(0)
    experts = WhiteningExperts(5, 4, 3, 0.0).requires_grad_(False).eval()
    x = torch.randn(6, 5)
    torch.testing.assert_close(experts(x), x @ experts.weight.mean(0).T)  # starts even, unshifted
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    expected = torch.stack([adapted(experts.eval(), row) for row in x])
    torch.testing.assert_close(experts(x), expected)
    torch.manual_seed(1)
    found = experts.train()(x)
    torch.manual_seed(1)
    noise = torch.randn(6, 3) * (softplus(x @ experts.noise) + 0.01)
    expected = torch.stack([adapted(experts, row, n) for row, n in zip(x, noise, strict=True)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("ids", [False, True])
def test_channels_weigh_as_much_as_their_vectors_are_long(checkerboard, ids):
    corpus = checkerboard(("a", "b"), missing=6)
    model = build(corpus, ids=ids)
    found = model.item_weights()
    assert [*found] == ["behaviour"] * ids + ["a", "b"]
    for item in (0, 1, 50):
        lengths = [float(model.item.weight[item].norm())] if ids else []
        for adaptor, m in zip(model.adaptors, corpus.modalities.values(), strict=True):
            row = adapted(adaptor, normalize(m.features[item], dim=0))
            lengths.append(float(row.norm()) if m.present[item] else 0.0)
        expected = [length / max(sum(lengths), 1e-9) for length in lengths]
        assert [float(w[item]) for w in found.values()] == pytest.approx(expected, abs=1e-5)
    history = History(torch.tensor([50, 1, 50]), torch.tensor([2, 1]))
    along = model.sequence_weights(history, model.encode())
    assert all(torch.equal(along[name], found[name][history.item]) for name in found)


def test_a_single_channel_is_not_weighed(checkerboard):
    model = build(checkerboard(("a",)))
    assert model.item_weights() == {}
    assert model.sequence_weights(History(torch.tensor([1]), torch.tensor([1])), None) == {}


def test_dropout_acts_on_the_features_of_experts_and_not_on_the_gate():
    torch.manual_seed(0)
    experts = WhiteningExperts(5, 4, 3, 0.5).requires_grad_(False)
    torch.nn.init.normal_(experts.gate)
    experts.noise.fill_(-1e4)  # deviations of 0.01
    x = torch.ones(200, 5)
    mean = experts(x).mean(0)
    assert experts(x).std(0).min() > 0.005
    torch.testing.assert_close(mean, experts.eval()(x)[0], atol=0.02, rtol=0)


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("modalities", [("a",), ("a", "b", "c")])
def test_items_are_sums_of_what_they_have(checkerboard, ids, modalities):
    corpus = checkerboard(modalities, missing=6)
    model = build(corpus, ids=ids)
    rows, bare = [], []
    for item in range(corpus.n_items):
        there = [
            adapted(a, normalize(m.features[item], dim=0))
            for a, m in zip(model.adaptors, corpus.modalities.values(), strict=True)
            if m.present[item]
        ]
        bare.append(not there)
        rows.append(sum(there) if there else torch.zeros(8))
    rows, bare = torch.stack(rows), torch.tensor(bare)
    assert bare[0]
    rows[bare] = rows[~bare].mean(0)
    if ids:
        rows = rows + model.item.weight
    tables = model.encode()
    torch.testing.assert_close(tables.inputs, rows, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tables.items, normalize(rows), atol=1e-5, rtol=1e-5)


def test_scores_and_loss_are_of_cosines_over_the_temperature(checkerboard):
    corpus = checkerboard()
    model = build(corpus, temperature=0.5)
    tables = model.encode()
    history = History(torch.tensor([3, 1, 4, 1]), torch.tensor([3, 0, 1]))
    scores = model.score(tables, Queries(torch.arange(3), history))
    for row, sequence in ((0, [3, 1, 4]), (2, [1])):
        state = model.transformer(tables.inputs[sequence], torch.tensor([len(sequence)]))[-1]
        expected = normalize(tables.items) @ normalize(state, dim=0) / 0.5
        torch.testing.assert_close(scores[row], expected, atol=1e-5, rtol=1e-5)
    assert not scores[1].any()
    data = InteractionData()
    data.corpus = corpus
    batch = data.dataset(model).batch(torch.arange(9), torch.Generator())
    states = model.transformer(tables.inputs[batch.history.item], batch.history.length)
    logits = normalize(states)[batch.position] @ tables.items.T / 0.5
    expected = {"cross_entropy": cross_entropy(logits, batch.target)}
    torch.testing.assert_close(model.losses(batch), expected, atol=1e-5, rtol=1e-5)


def test_new_items_are_scored_with_the_known_histories(checkerboard):
    corpus = checkerboard()
    model = build(corpus)
    new = {name: m.features[:5] for name, m in corpus.modalities.items()}
    items = model.encode_items(new)
    torch.testing.assert_close(items, model.encode().items[:5])
    queries = Queries(torch.arange(1), History(torch.tensor([90, 7]), torch.tensor([2])))
    scores = model.score(model.encode()._replace(items=items), queries)
    torch.testing.assert_close(scores, model.score(model.encode(), queries)[:, :5])
    with pytest.raises(NoNewItems, match="ids=false"):
        build(corpus, ids=True).encode_items(new)


@pytest.mark.parametrize("users", [[0], [0, 1], []])
def test_users_without_a_history_score_zero(checkerboard, users):
    model = build(checkerboard()).eval()
    history = History(torch.empty(0).long(), torch.zeros(len(users)).long())
    scores = model.score(model.encode(), Queries(torch.tensor(users).long(), history))
    assert scores.shape == (len(users), model.corpus.n_items)
    assert not scores.any()
