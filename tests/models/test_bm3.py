from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mmrec.config.errors import SettingError
from mmrec.data import Pairs, content_hash
from mmrec.models import BM3

BATCH = Pairs(torch.tensor([0, 2, 2, 5]), torch.tensor([1, 4, 1, 7]))  # item 1 twice


def dense_nodes(model):
    """Mean over the layers of the normalised graph; items add their own embedding."""
    corpus, table = model.corpus, model.node.weight
    users, items = corpus.n_users, corpus.n_items
    a = torch.zeros(users + items, users + items)
    a[corpus.train.user, users + corpus.train.item] = 1
    a = a + a.T
    scale = torch.where(a.sum(1) > 0, a.sum(1), 1).rsqrt()
    a = scale[:, None] * a * scale
    powers = [torch.linalg.matrix_power(a, n) @ table for n in range(model.propagate.layers + 1)]
    nodes = torch.stack(powers).mean(0)
    return nodes[:users], nodes[users:] + table[users:]


def predicted(model, rows):
    return rows @ model.predict.weight.T + model.predict.bias


def distances(model, online, targets, rows):
    """Mean of 1 - cos of some rows, in a loop, without a gradient to the targets."""
    each = [
        1 - cosine_similarity(predicted(model, online[row]), targets[row].detach(), dim=0)
        for row in rows
    ]
    return torch.stack(each).mean()


@pytest.fixture
def corpus(small_corpus):
    return small_corpus()


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_scores_are_dot_products_of_predictions(corpus, layers):
    model = BM3(corpus, dim=5, layers=layers)
    users, items = dense_nodes(model)
    found = model.encode()
    torch.testing.assert_close(found.users, predicted(model, users))
    torch.testing.assert_close(found.items, predicted(model, items))


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("layers", [0, 2])
def test_terms_and_gradients_equal_dense_algebra(small_corpus, modalities, layers):
    corpus = small_corpus(modalities=modalities)
    m3 = corpus.modalities["m3"]
    present = torch.arange(corpus.n_items) != 4  # lacks m3, and is in the batch
    features = m3.features * present[:, None]
    missing = replace(
        m3, features=features, present=present, digest=content_hash([features, present])
    )
    corpus = replace(corpus, modalities={**corpus.modalities, "m3": missing})
    model = BM3(corpus, dim=5, layers=layers, dropout=0.0, content_weight=1.5, l2=0.3)
    found = model.losses(BATCH)
    users, items = (side[index] for side, index in zip(dense_nodes(model), BATCH, strict=True))
    rows = range(len(BATCH.user))
    expected = {
        "graph": distances(model, users, items, rows) + distances(model, items, users, rows),
        "l2": 0.3 * (users.square().sum().sqrt() + items.square().sum().sqrt()) / len(users),
        "content": 0,
    }
    for content, modality in zip(model.content, corpus.modalities.values(), strict=True):
        linear = content.linear
        own = (content.features.rows @ linear.weight.T + linear.bias)[BATCH.item]
        shown = [row for row in rows if modality.present[BATCH.item[row]]]
        inter, intra = (distances(model, own, target, shown) for target in (items, own))
        expected["content"] = expected["content"] + 1.5 * (inter + intra)
    assert found.keys() == expected.keys()
    parameters = [*model.parameters()]
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term)
        gradients = [
            torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            for loss in (found[name], term)
        ]
        for ours, theirs in zip(*gradients, strict=True):
            if theirs is not None and theirs.any():
                torch.testing.assert_close(ours.to_dense(), theirs)
            else:
                assert ours is None or not ours.to_dense().any()


def test_a_squared_norm_is_the_penalty_of_the_paper(corpus):
    model = BM3(corpus, dim=5, l2=0.3, norm="squared")
    users, items = (side[i] for side, i in zip(dense_nodes(model), BATCH, strict=True))
    expected = 0.3 * (users.square().sum() + items.square().sum()) / (2 * len(users))
    torch.testing.assert_close(model.losses(BATCH)["l2"], expected)


def test_dropout_hides_channels_of_targets_in_training_only(corpus):
    model = BM3(corpus, dim=400, dropout=0.25)
    rows = torch.ones(3, 400, requires_grad=True)
    torch.testing.assert_close(model.eval().target(rows), rows.detach() / 20)
    hidden = model.train().target(rows)
    assert not hidden.requires_grad
    share = (hidden == 0).float().mean(1, keepdim=True)
    assert ((share > 0.1) & (share < 0.4)).all()
    torch.testing.assert_close(hidden, (hidden > 0) / ((1 - share) * 400).sqrt())


def test_no_pair_with_content_costs_nothing(corpus):
    absent = torch.zeros(corpus.n_items, dtype=torch.bool)
    bare = {
        name: replace(
            each,
            features=torch.zeros_like(each.features),
            present=absent,
            digest=f"nothing of {each.digest}",
        )
        for name, each in corpus.modalities.items()
    }
    model = BM3(replace(corpus, modalities=bare), dim=5)
    assert model.losses(BATCH)["content"] == 0


def test_without_content_terms_no_features_are_kept(corpus):
    model = BM3(corpus, content_weight=0)
    assert {name for name, _ in model.named_parameters()} == {
        "node.weight",
        "predict.weight",
        "predict.bias",
    }
    assert model.losses(BATCH).keys() == {"graph", "l2"}


@pytest.mark.parametrize("setting", [{"dropout": 1.0}, {"layers": -1}, {"norm": "l1"}])
def test_a_wrong_setting_is_named(corpus, setting):
    with pytest.raises(SettingError) as caught:
        BM3(corpus, **setting)
    assert (caught.value.setting,) == tuple(f"model.{name}" for name in setting)
