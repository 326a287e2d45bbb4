from __future__ import annotations

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from mmrec.config.errors import SettingError
from mmrec.data import Triplets
from mmrec.models import FREEDOM

K = 3


def dense_item_graph(corpus, shares):
    """Eq. 1 to 4 with loops: each row has 1/k for its k most similar items, itself included."""
    total = torch.zeros(corpus.n_items, corpus.n_items)
    for name, modality in corpus.modalities.items():
        unit = normalize(modality.features)
        for i in range(corpus.n_items):
            for j in (unit @ unit[i]).topk(K).indices:
                total[i, j] += shares[name] / K
    return total


def dense_nodes(model, pairs):
    """The mean over the layers of the normalised graph of some user-item pairs."""
    users, items = model.corpus.n_users, model.corpus.n_items
    a = torch.zeros(users + items, users + items)
    a[pairs.user, users + pairs.item] = 1
    a = a + a.T
    scale = torch.where(a.sum(1) > 0, a.sum(1), 1).rsqrt()
    a = scale[:, None] * a * scale
    x = torch.cat([model.user.weight, model.item.weight])
    layers = [torch.linalg.matrix_power(a, n) @ x for n in range(model.propagate.layers + 1)]
    return torch.stack(layers).mean(0).split([users, items])


@pytest.fixture
def corpus(small_corpus):
    return small_corpus()


@pytest.mark.parametrize("item_layers", [0, 1, 2])
def test_embeddings_equal_dense_algebra(corpus, item_layers):
    model = FREEDOM(corpus, dim=5, neighbours=K, item_layers=item_layers).eval()
    users, items = dense_nodes(model, corpus.train)
    graph = torch.linalg.matrix_power(dense_item_graph(corpus, {"m3": 0.5, "m4": 0.5}), item_layers)
    found = model.encode()
    torch.testing.assert_close(found.users, users)
    torch.testing.assert_close(found.items, items + graph @ model.item.weight)


def test_loss_equals_eq_12_and_trains_features(corpus):
    model = FREEDOM(corpus, dim=5, neighbours=K, content_weight=0.3, edge_dropout=0.0)
    batch = Triplets(torch.tensor([0, 2]), torch.tensor([1, 4]), torch.tensor([[2], [3]]))
    losses = model.losses(batch)
    users, items = model.encode()
    u, i, j = users[batch.user], batch.positive, batch.negative[:, 0]

    def compare(table):
        return -logsigmoid((u * table[i]).sum(1) - (u * table[j]).sum(1)).mean()

    torch.testing.assert_close(losses["bpr"], compare(items))
    content = [
        compare(modality.features @ project.weight.T + project.bias)
        for modality, project in zip(corpus.modalities.values(), model.project, strict=True)
    ]
    torch.testing.assert_close(losses["content"], 0.3 * sum(content))
    losses["content"].backward()
    assert all(features.rows.grad[[1, 4]].any() for features in model.features)


def test_pruned_edges_return_for_evaluation(corpus):
    model = FREEDOM(corpus, dim=5, neighbours=K, edge_dropout=0.5)
    graphs = []
    for epoch in (0, 1, 0):
        model.train().start_epoch(epoch, torch.Generator().manual_seed(epoch))
        graphs.append(model.pruned.adjacency.to_dense())
        assert model.pruned.adjacency.values().numel() == len(corpus.train)  # half, both ways
    assert torch.equal(graphs[0], graphs[2])
    assert not torch.equal(graphs[0], graphs[1])
    pruned = model.encode().items
    torch.testing.assert_close(
        model.eval().encode().users, dense_nodes(model, corpus.train)[0], rtol=1e-5, atol=1e-6
    )
    assert not torch.allclose(pruned, model.encode().items)


def test_edges_of_popular_nodes_are_pruned_more_often(checkerboard):
    corpus = checkerboard()
    model = FREEDOM(corpus, edge_dropout=0.8).train()
    kept = torch.zeros(corpus.n_users, corpus.n_items)
    for epoch in range(100):
        model.start_epoch(epoch, torch.Generator().manual_seed(epoch))
        edges = model.pruned.adjacency.to_dense()[: corpus.n_users, corpus.n_users :]
        kept += edges > 0
    popularity = corpus.item_counts()[corpus.train.item]
    share = kept[corpus.train.user, corpus.train.item]
    assert share[popularity == popularity.min()].mean() > share[popularity >= 20].mean()


def test_more_neighbours_than_items_are_refused(corpus):
    with pytest.raises(SettingError) as error:
        FREEDOM(corpus, neighbours=corpus.n_items + 1)
    assert error.value.setting == "model.neighbours"
