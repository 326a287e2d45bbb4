from __future__ import annotations

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from mmrec.config.errors import SettingError
from mmrec.data import Triplets
from mmrec.models import FREEDOM
from mmrec.models.freedom import item_graph, modality_shares

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


def test_item_graph_is_directed_and_averages_the_nearest_items(corpus):
    shares = {"m3": 0.25, "m4": 0.75}
    found = item_graph(corpus.modalities, shares, K).to_dense()
    torch.testing.assert_close(found, dense_item_graph(corpus, shares))
    assert not torch.equal(found, found.T)


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


def test_an_item_without_content_has_no_content_neighbours(checkerboard):
    corpus = checkerboard(missing=3)
    graph = item_graph(corpus.modalities, {"visual": 0.5, "textual": 0.5}, K).to_dense()
    assert not graph[0].any()  # item 0 lacks both modalities
    assert not graph[:, 0].any()


@pytest.mark.parametrize(
    ("names", "weights", "expected"),
    [
        (["image", "text"], None, [0.1, 0.9]),
        (["audio", "image", "text"], None, [0.45, 0.1, 0.45]),
        (["image"], None, [1.0]),
        (["visual", "textual"], None, [0.5, 0.5]),
        (["image", "text"], {"image": 3, "text": 1}, [0.75, 0.25]),
    ],
)
def test_modality_shares(names, weights, expected):
    shares = modality_shares(dict.fromkeys(names), weights)
    assert list(shares) == names
    assert [*shares.values()] == pytest.approx(expected)


@pytest.mark.parametrize(
    "weights",
    [{"image": 1}, {"image": 1, "sound": 1}, {"image": -1, "text": 2}, {"image": 0, "text": 0}],
)
def test_wrong_modality_weights_are_refused(weights):
    with pytest.raises(SettingError) as error:
        modality_shares(dict.fromkeys(["image", "text"]), weights)
    assert (error.value.setting, error.value.value) == ("model.modality_weights", weights)


def test_more_neighbours_than_items_are_refused(corpus):
    with pytest.raises(SettingError) as error:
        FREEDOM(corpus, neighbours=corpus.n_items + 1)
    assert error.value.setting == "model.neighbours"
