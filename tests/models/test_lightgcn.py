from __future__ import annotations

import pytest
import torch
from torch_geometric.nn.conv.lg_conv import LGConv

from mmrec.config.errors import SettingError
from mmrec.data import Queries, Triplets
from mmrec.models import LightGCN


def dense_embeddings(model, train):
    """Eq. 7 and 8 of the paper, with matrices written out."""
    users, items = model.corpus.n_users, model.corpus.n_items
    a = torch.zeros(users + items, users + items)
    a[train.user, users + train.item] = 1
    a = a + a.T
    scale = torch.where(a.sum(1) > 0, a.sum(1), 1).rsqrt()
    a = scale[:, None] * a * scale
    x = model.node.weight
    layers = [torch.linalg.matrix_power(a, n) @ x for n in range(model.propagate.layers + 1)]
    return torch.stack(layers).mean(0).split([users, items])


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_scores_are_those_of_dense_algebra(small_corpus, layers):
    corpus = small_corpus()
    model = LightGCN(corpus, dim=5, layers=layers).eval()
    users, items = dense_embeddings(model, corpus.train)
    found = model.score(model.encode(), Queries(torch.arange(corpus.n_users)))
    torch.testing.assert_close(found, users @ items.T)


@pytest.mark.parametrize("layers", [1, 3])
def test_embeddings_and_their_gradient_equal_those_of_lgconv(small_corpus, layers):
    corpus = small_corpus()
    model = LightGCN(corpus, dim=5, layers=layers).eval()
    user, item = corpus.to_pyg()["user", "train", "item"].edge_index
    edges = torch.stack([user, item + corpus.n_users])
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    x = model.node.weight.detach().clone().requires_grad_()
    convolve, steps = LGConv(), [x]
    for _ in range(layers):
        steps.append(convolve(steps[-1], edges))
    expected, found = torch.stack(steps).mean(0), torch.cat(model.encode())
    torch.testing.assert_close(found, expected)
    towards = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    (found * towards).sum().backward()
    (expected * towards).sum().backward()
    torch.testing.assert_close(model.node.weight.grad, x.grad)


@pytest.mark.parametrize("norm", ["squared", "frobenius"])
def test_the_loss_is_eq_15_and_so_is_its_gradient(small_corpus, norm):
    corpus = small_corpus()
    model = LightGCN(corpus, dim=5, layers=2, l2=0.3, norm=norm)
    batch = Triplets(torch.tensor([0, 2]), torch.tensor([1, 4]), torch.tensor([[2], [2]]))
    losses = model.losses(batch)
    users, items = dense_embeddings(model, corpus.train)
    u, i, j = users[batch.user], items[batch.positive], items[batch.negative[:, 0]]
    expected = -torch.nn.functional.logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()
    user, item = model.node.weight.split([corpus.n_users, corpus.n_items])
    rows = [user[batch.user], item[batch.positive], item[batch.negative[:, 0]]]
    size = sum(x.square().sum() / 2 if norm == "squared" else x.norm() for x in rows)
    torch.testing.assert_close(losses["bpr"], expected)
    torch.testing.assert_close(losses["l2"], 0.3 * size / 2)
    found = torch.autograd.grad(losses["bpr"], model.node.weight)
    torch.testing.assert_close(found, torch.autograd.grad(expected, model.node.weight))


def test_dropped_edges_return_for_evaluation(small_corpus):
    corpus = small_corpus()
    model = LightGCN(corpus, dim=5, edge_dropout=0.5)
    drawn = []
    for epoch in range(2):
        model.train().start_epoch(epoch, torch.Generator().manual_seed(epoch))
        drawn.append(model.thinned.adjacency.to_dense())
        assert model.thinned.adjacency.values().numel() == len(corpus.train)  # half, both ways
    assert not torch.equal(*drawn)
    whole = dense_embeddings(model, corpus.train)
    assert not torch.allclose(model.encode().items, whole[1])
    torch.testing.assert_close(model.eval().encode().items, whole[1])


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_an_edge_dropout_that_is_no_share_is_refused(small_corpus, share):
    with pytest.raises(SettingError) as error:
        LightGCN(small_corpus(), edge_dropout=share)
    assert (error.value.setting, error.value.value) == ("model.edge_dropout", share)
