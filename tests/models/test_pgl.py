from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from mmrec.config.errors import SettingError
from mmrec.data import Modality, Triplets
from mmrec.models import PGL

K = 3


def lacking(corpus, *items):
    """The corpus without the first modality of some items."""
    name, whole = next(iter(corpus.modalities.items()))
    present = whole.present.clone()
    present[list(items)] = False
    modality = Modality(whole.features * present[:, None], present, "lacking")
    return replace(corpus, modalities=corpus.modalities | {name: modality})


@pytest.fixture(params=[1, 2, 3, "missing"])
def corpus(request, small_corpus):
    if request.param == "missing":
        return lacking(small_corpus(), 2, 5)
    return small_corpus(modalities=request.param)


def interactions(corpus, pairs):
    """`r_ui / sqrt(d_u d_i)` of some pairs, with loops."""
    r = torch.zeros(corpus.n_users, corpus.n_items)
    for user, item in zip(pairs.user.tolist(), pairs.item.tolist(), strict=True):
        r[user, item] = 1
    found = torch.zeros_like(r)
    for u, i in r.nonzero().tolist():
        found[u, i] = 1 / (r[u].sum() * r[:, i].sum()).sqrt()
    return found


def content_graph(corpus):
    """Each row has a share / K for the K most similar items of each modality, itself included."""
    total = torch.zeros(corpus.n_items, corpus.n_items)
    for modality in corpus.modalities.values():
        items = modality.present.nonzero().squeeze(1)
        for i in items.tolist():
            cosine = torch.cosine_similarity(modality.features[items], modality.features[i])
            total[i, items[cosine.topk(K).indices]] += 1 / K / len(corpus.modalities)
    return total


def expected_embeddings(model, r):
    """Users and items by plain matrices, for a user-item block r [U, I]."""
    corpus = model.corpus
    parts = []
    for project, modality in zip(model.project, corpus.modalities.values(), strict=True):
        rows = modality.features @ project.linear.weight.T + project.linear.bias
        parts.append(normalize(rows) * modality.present[:, None])
    content = torch.cat(parts, 1)
    size = corpus.n_users + corpus.n_items
    a = torch.zeros(size, size)
    a[: corpus.n_users, corpus.n_users :] = r
    a[corpus.n_users :, : corpus.n_users] = r.T
    x = torch.cat([model.user.weight, content])
    powers = [torch.linalg.matrix_power(a, n) @ x for n in range(model.propagate.layers + 1)]
    users, items = torch.stack(powers).mean(0).split([corpus.n_users, corpus.n_items])
    graph = torch.linalg.matrix_power(content_graph(corpus), model.item_layers)
    return users, items + graph @ content


def assert_embeddings(model, r):
    users, items = expected_embeddings(model, r)
    found = model.encode()
    torch.testing.assert_close(found.users, users)
    torch.testing.assert_close(found.items, items)


@pytest.mark.parametrize("item_layers", [0, 1, 2])
@pytest.mark.parametrize("graph", ["local", "global"])
def test_ranking_uses_the_whole_graph(corpus, item_layers, graph):
    model = PGL(corpus, dim=5, neighbours=K, item_layers=item_layers, graph=graph, rank=2)
    model.train().start_epoch(0, torch.Generator())
    assert_embeddings(model.eval(), interactions(corpus, corpus.train))


def test_local_training_uses_a_new_sample_of_edges_in_each_epoch(corpus):
    model = PGL(corpus, dim=5, neighbours=K, edge_dropout=0.5)
    seen = []
    for epoch in (0, 1, 0):
        model.train().start_epoch(epoch, torch.Generator().manual_seed(epoch))
        block = model.principal.adjacency.to_dense()[: corpus.n_users, corpus.n_users :]
        user, item = block.nonzero().unbind(1)
        pairs = replace(corpus.train, user=user, item=item)
        assert len(user) == len(corpus.train) // 2
        assert not (interactions(corpus, corpus.train)[user, item] == 0).any()
        assert_embeddings(model, interactions(corpus, pairs))
        seen.append(block)
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_local_training_without_dropout_uses_all_edges(corpus):
    model = PGL(corpus, dim=5, neighbours=K, edge_dropout=0.0).train()
    model.start_epoch(0, torch.Generator())
    assert_embeddings(model, interactions(corpus, corpus.train))


@pytest.mark.parametrize("rank", [1, 3])
def test_global_training_uses_the_largest_singular_values(corpus, rank):
    model = PGL(corpus, dim=5, neighbours=K, graph="global", rank=rank).train()
    r = interactions(corpus, corpus.train)
    before = model.encode()
    u, s, vt = torch.linalg.svd(r)
    assert_embeddings(model, (u[:, :rank] * s[:rank]) @ vt[:rank])
    model.start_epoch(1, torch.Generator())
    assert torch.equal(model.encode().users, before.users)


def test_losses_equal_their_formulas(corpus):
    model = PGL(corpus, dim=5, neighbours=K, edge_dropout=0.0, dropout=0.0, contrast=0.3).train()
    batch = Triplets(
        torch.tensor([0, 2, 3]), torch.tensor([1, 4, 5]), torch.tensor([[2], [3], [5]])
    )
    users, items = expected_embeddings(model, interactions(corpus, corpus.train))
    bpr, contrast = 0.0, 0.0
    for user, positive, negative in zip(*(x.flatten().tolist() for x in batch), strict=True):
        margin = users[user] @ items[positive] - users[user] @ items[negative]
        bpr += -logsigmoid(margin) / 3
    for rows in (users[batch.user], items[batch.positive]):
        for a in rows:
            powers = torch.stack([(torch.cosine_similarity(a, b, 0) / 0.2).exp() for b in rows])
            contrast += (powers.sum().log() - 1 / 0.2) / 6
    losses = model.losses(batch)
    assert losses.keys() == {"bpr", "contrast"}
    torch.testing.assert_close(losses["bpr"], bpr)
    torch.testing.assert_close(losses["contrast"], 0.3 * contrast)


def test_contrast_compares_two_dropouts_in_training_only(corpus):
    model = PGL(corpus, dim=16, neighbours=K, edge_dropout=0.0, dropout=0.5)
    batch = Triplets(
        torch.tensor([0, 2, 3]), torch.tensor([1, 4, 5]), torch.tensor([[2], [3], [5]])
    )
    noisy = [model.train().losses(batch)["contrast"] for _ in range(2)]
    assert not torch.equal(*noisy)
    assert torch.equal(*(model.eval().losses(batch)["contrast"] for _ in range(2)))
    assert PGL(corpus, dim=5, neighbours=K, contrast=0.0).losses(batch).keys() == {"bpr"}


def test_features_are_trained_but_for_items_without_the_modality(corpus):
    model = PGL(corpus, dim=5, neighbours=K)
    model.encode().items.square().sum().backward()
    for project, modality in zip(model.project, corpus.modalities.values(), strict=True):
        assert torch.equal(project.features.rows.grad.any(1), modality.present)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("dim", 0),
        ("neighbours", 0),
        ("layers", -1),
        ("item_layers", -1),
        ("edge_dropout", 1.0),
        ("dropout", 1.0),
        ("contrast", -0.1),
        ("graph", "whole"),
        ("rank", 0),
        ("rank", 7),
    ],
)
def test_a_setting_that_is_not_valid_is_named(small_corpus, setting, value):
    with pytest.raises(SettingError) as caught:
        PGL(small_corpus(), **{"neighbours": K, "graph": "global", "rank": 2, setting: value})
    assert (caught.value.setting, caught.value.value) == (f"model.{setting}", value)


def test_modality_weights_and_neighbours_are_checked(small_corpus):
    with pytest.raises(ValueError, match=r"model\.modality_weights"):
        PGL(small_corpus(), neighbours=K, modality_weights={"m3": 1})
    with pytest.raises(ValueError, match=r"model\.neighbours"):
        PGL(small_corpus(), neighbours=10)
