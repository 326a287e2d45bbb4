from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from mmrec.data import Pairs, content_hash
from mmrec.models import SLMRec

BATCH = Pairs(torch.tensor([0, 2, 2, 5]), torch.tensor([1, 4, 1, 7]))  # user 2 and item 1 twice
DIM = 4


def without(corpus, name, item):
    """The corpus with an item that lacks a modality."""
    modality = corpus.modalities[name]
    present = torch.arange(corpus.n_items) != item
    features = modality.features * present[:, None]
    missing = replace(
        modality, features=features, present=present, digest=content_hash([features, present])
    )
    return replace(corpus, modalities={**corpus.modalities, name: missing})


def dense_channels(model, masked=None):
    """Mean over the layers of the normalised graph, for ids and for each modality."""
    corpus = model.corpus
    users, items = corpus.n_users, corpus.n_items
    a = torch.zeros(users + items, users + items)
    a[corpus.train.user, users + corpus.train.item] = 1
    a = a + a.T
    scale = torch.where(a.sum(1) > 0, a.sum(1), 1).rsqrt()
    a = scale[:, None] * a * scale
    steps = range(model.propagate.layers + 1)
    mean = sum(torch.linalg.matrix_power(a, n) for n in steps) / len(steps)
    ids = model.item.weight
    sides = [torch.zeros_like(ids) if masked == "ids" else ids]
    for name, project in zip(corpus.modalities, model.project, strict=True):
        rows = torch.zeros(items, DIM)
        for i in range(items):
            feature = corpus.modalities[name].features[i]
            if feature.any() and name != masked:
                rows[i] = project.weight @ (feature / feature.norm()) + project.bias
        sides.append(rows)
    return [mean @ torch.cat([model.user.weight, side]) for side in sides]


def dense_fused(model, channels):
    users, n = model.corpus.n_users, torch.cat(channels, dim=1)
    fused = [
        rows @ layer.weight.T + layer.bias
        for rows, layer in ((n[:users], model.fuse_users), (n[users:], model.fuse_items))
    ]
    return torch.cat(fused)


def contrast(one, others, temperature):
    """Mean of -log softmax of the own row, in a loop."""
    terms = []
    for b in range(len(one)):
        logits = torch.stack([one[b] @ other / temperature for other in others])
        terms.append(logits.logsumexp(0) - logits[b])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("layers", [0, 2])
def test_embeddings_equal_dense_algebra(small_corpus, modalities, layers):
    corpus = without(small_corpus(modalities=modalities), "m3", 4)
    model = SLMRec(corpus, dim=DIM, layers=layers)
    found = model.encode()
    expected = dense_fused(model, dense_channels(model))
    torch.testing.assert_close(torch.cat([found.users, found.items]), expected)


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_losses_equal_dense_algebra(small_corpus, modalities):
    corpus = without(small_corpus(modalities=modalities), "m3", 4)
    model = SLMRec(
        corpus, dim=DIM, layers=2, temperature=0.5, task_temperature=0.7, task_weight=0.3
    )
    found = model.losses(BATCH)
    channels = dense_channels(model)
    fused = normalize(dense_fused(model, channels))
    item = corpus.n_users + BATCH.item
    torch.testing.assert_close(found["main"], contrast(fused[BATCH.user], fused[item], 0.5))
    known, task = channels[0][item], 0
    for n, (name, content) in enumerate(zip(corpus.modalities, channels[1:], strict=True)):
        known = model.onward[n](known)
        assert known.shape[1] == (DIM // 2 if 0 < n == modalities - 1 else DIM)
        here = BATCH.item != 4 if name == "m3" else torch.ones(4, dtype=torch.bool)
        task = task + contrast(known[here], model.enter[n](content[item])[here], 0.7)
    torch.testing.assert_close(found["fac"], 0.3 * task)


def of_both_sides(one, other, nodes, n_users):
    """The contrast among users plus the one among items."""
    users = nodes < n_users
    return contrast(one[users], other[users], 0.7) + contrast(one[~users], other[~users], 0.7)


@pytest.mark.parametrize("modalities", [1, 3])
def test_feature_masking_contrasts_views_that_lack_a_channel_each(small_corpus, modalities):
    corpus = small_corpus(modalities=modalities)
    model = SLMRec(corpus, dim=DIM, layers=2, task="fm", task_temperature=0.7, task_weight=0.3)
    nodes = torch.cat([BATCH.user, corpus.n_users + BATCH.item]).unique()
    views = {
        name: normalize(dense_fused(model, dense_channels(model, masked=name)))[nodes]
        for name in ("ids", *corpus.modalities)
    }
    expected = {
        (a, b): 0.3 * of_both_sides(views[a], views[b], nodes, corpus.n_users)
        for a in views
        for b in views
        if a != b
    }
    seen = set()
    for _ in range(90):
        loss = model.losses(BATCH)["fm"]
        seen |= {pair for pair, value in expected.items() if torch.isclose(loss, value)}
    assert seen == set(expected)


def test_feature_dropout_contrasts_two_views_and_leaves_the_main_loss(small_corpus):
    torch.manual_seed(0)
    corpus = small_corpus()
    options = {"dim": DIM, "layers": 2, "task": "fd", "task_temperature": 0.7, "task_weight": 0.3}
    model = SLMRec(corpus, **options, feature_dropout=0.0)
    nodes = torch.cat([BATCH.user, corpus.n_users + BATCH.item]).unique()
    channels = dense_channels(model)
    view = normalize(dense_fused(model, channels))[nodes]
    losses = model.losses(BATCH)
    expected = 0.3 * of_both_sides(view, view, nodes, corpus.n_users)
    torch.testing.assert_close(losses["fd"], expected)
    dropped = SLMRec(corpus, **options, feature_dropout=0.5)
    dropped.load_state_dict(model.state_dict())
    drawn = torch.stack([dropped.losses(BATCH)["fd"] for _ in range(50)])  # each with two views
    assert drawn.std() > 0.01
    assert drawn.mean() > losses["fd"]  # views of a node differ
    torch.testing.assert_close(dropped.losses(BATCH)["main"], losses["main"])
    torch.testing.assert_close(dropped.eval().losses(BATCH)["fd"], losses["fd"])


@pytest.mark.parametrize("task", ["fd", "fm"])
def test_each_task_trains_every_parameter(small_corpus, task):
    model = SLMRec(small_corpus(), dim=DIM, task=task)
    sum(model.losses(BATCH).values()).backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


def test_without_a_task_the_main_loss_remains(small_corpus):
    model = SLMRec(small_corpus(), dim=DIM, task_weight=0)
    assert model.losses(BATCH).keys() == {"main"}
    assert not hasattr(model, "onward")
