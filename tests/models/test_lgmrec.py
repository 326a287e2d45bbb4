from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch.nn.functional import logsigmoid

from mmrec.config.errors import SettingError
from mmrec.data import Triplets
from mmrec.models import LGMRec

BATCH = Triplets(
    torch.tensor([0, 2, 2, 5]), torch.tensor([1, 4, 0, 7]), torch.tensor([[2], [3], [8], [1]])
)
SETTINGS = {"dim": 5, "hyperedges": 3, "content_layers": 1, "hyper_layers": 2}


def unit(x):
    norm = x.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, x / norm.clamp(min=1e-9), 0)


def dense(model):
    """Final embeddings, and users and items of each hypergraph, with dense matrices."""
    corpus = model.corpus
    n_users, n_items = corpus.n_users, corpus.n_items
    r = torch.zeros(n_users, n_items)
    r[corpus.train.user, corpus.train.item] = 1
    a = torch.zeros(n_users + n_items, n_users + n_items)
    a[:n_users, n_users:], a[n_users:, :n_users] = r, r.T
    scale = a.sum(1).clamp(min=1).rsqrt()
    a = scale[:, None] * a * scale
    x = torch.cat([model.user.weight, model.item.weight])
    powers = [torch.linalg.matrix_power(a, n) @ x for n in range(model.propagate.layers + 1)]
    local = ids = torch.stack(powers).mean(0)
    hyper = []
    for modality, channel in zip(corpus.modalities.values(), model.channels, strict=True):
        items = modality.features @ channel.project
        has = r * modality.present  # [U, I]
        users = has @ items / has.sum(1, keepdim=True).clamp(min=1)
        content = torch.linalg.matrix_power(a, channel.layers) @ torch.cat([users, items])
        local = local + unit(content)
        logits = modality.features @ channel.hyperedge  # [I, A]
        h_i = torch.softmax(logits / model.temperature, 1) * modality.present[:, None]
        h_u = torch.softmax(r @ logits / model.temperature, 1) * (has.sum(1, keepdim=True) > 0)
        e = ids[n_users:]
        for _ in range(model.convolve.layers):
            users, e = h_u @ h_i.T @ e, h_i @ h_i.T @ e
        hyper.append((users, e))
    joint = sum(torch.cat(each) for each in hyper)
    final = local + model.global_weight * unit(joint)
    return final[:n_users], final[n_users:], hyper


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_embeddings_equal_dense_algebra(gappy_corpus, modalities, complete):
    model = LGMRec(gappy_corpus(modalities, complete=complete), **SETTINGS).eval()
    users, items, _ = dense(model)
    found = model.encode()
    torch.testing.assert_close(found.users, users)
    torch.testing.assert_close(found.items, items)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_loss_terms_equal_loops(gappy_corpus, modalities, complete):
    data = gappy_corpus(modalities, complete=complete)
    model = LGMRec(data, **SETTINGS, contrast_weight=0.3, l2=0.7).eval()
    losses = model.losses(BATCH)
    users, items, hyper = dense(model)
    u, i, j = users[BATCH.user], items[BATCH.positive], items[BATCH.negative[:, 0]]
    torch.testing.assert_close(losses["bpr"], -logsigmoid((u * (i - j)).sum(1)).mean())
    squares = sum(x.square().sum() for x in (u, i, j))
    torch.testing.assert_close(losses["l2"], 0.7 * squares / (2 * len(u)))
    if modalities == 1:
        assert losses.keys() == {"bpr", "l2"}
        return
    total = torch.zeros(())
    for one, other in combinations(hyper, 2):
        for side, index in enumerate((BATCH.user, BATCH.positive)):
            there = [n for n in range(len(other[side])) if other[side][n].any()]
            for n in index.tolist():
                if one[side][n].any() and n in there:
                    cosines = unit(other[side]) @ unit(one[side])[n] / model.temperature
                    total = total - cosines[n] + cosines[there].logsumexp(0)
    torch.testing.assert_close(losses["contrast"], 0.3 * total)


def test_noise_and_dropout_are_of_training_only(gappy_corpus):
    model = LGMRec(gappy_corpus(), **SETTINGS, dropout=0.0)
    first, second = model.encode(), model.encode()
    assert not torch.allclose(first.users, second.users)
    assert not torch.allclose(first.items, second.items)
    model.eval()
    assert torch.equal(model.encode().users, model.encode().users)


def test_without_contrast_there_is_no_such_term(gappy_corpus):
    assert LGMRec(gappy_corpus(), contrast_weight=0).losses(BATCH).keys() == {"bpr", "l2"}


@pytest.mark.parametrize(
    "setting",
    [{"hyperedges": 0}, {"hyper_layers": 0}, {"dropout": 1.0}, {"temperature": 0.0}, {"l2": -1.0}],
)
def test_a_wrong_setting_is_named(gappy_corpus, setting):
    with pytest.raises(SettingError) as caught:
        LGMRec(gappy_corpus(), **setting)
    assert caught.value.setting == f"model.{next(iter(setting))}"
