from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, logsigmoid

from mmrec.config.errors import SettingError
from mmrec.data import DataError, Triplets
from mmrec.models import SMORE
from mmrec.models.smore import neighbour_counts

K = 3
BATCH = Triplets(torch.tensor([0, 2, 2]), torch.tensor([1, 4, 6]), torch.tensor([[2], [3], [1]]))


def circular(x, y):
    """Circular convolution of rows over the root of their width, whose spectrum is the product."""
    dim = x.shape[1]
    return torch.stack(
        [sum(x[:, n] * y[:, (k - n) % dim] for n in range(dim)) for k in range(dim)], 1
    ) / (dim**0.5)


def dense_content(model):
    """Filtered modalities and their fusion, by circular convolution."""
    dim = model.user.embedding_dim
    filters = [
        torch.fft.irfft(torch.view_as_complex(w), n=dim, norm="ortho").expand(
            model.corpus.n_items, dim
        )
        for w in model.spectral.filters
    ]
    one = torch.zeros(model.corpus.n_items, dim)
    one[:, 0] = dim**0.5  # convolution with it changes nothing
    found, fused = [], one
    for modality, project, kernel in zip(
        model.corpus.modalities.values(), model.project, filters, strict=False
    ):
        there = modality.present[:, None]
        shown = (modality.features @ project.linear.weight.T + project.linear.bias) * there
        found.append(circular(shown, kernel))
        fused = torch.where(there, circular(fused, shown), fused)
    return [*found, circular(fused, filters[-1])]


@pytest.fixture
def dense_parts(dense_bipartite, dense_content_graph):
    """LightGCN embeddings and side embeddings of all nodes, and the weights and views of both."""

    def parts(model):
        corpus = model.corpus
        graph, users = dense_bipartite(corpus), corpus.n_users
        x = torch.cat([model.user.weight, model.item.weight])
        layers = [
            torch.linalg.matrix_power(graph, n) @ x for n in range(model.propagate.layers + 1)
        ]
        behaviour = torch.stack(layers).mean(0)
        graphs = [dense_content_graph(modality, K) for modality in corpus.modalities.values()]
        graphs.append(torch.stack(graphs).amax(0))
        present = [modality.present for modality in corpus.modalities.values()]
        present.append(torch.stack(present).any(0))
        views, there = [], []
        for shown, gate, items, have in zip(
            dense_content(model), model.views.gates, graphs, present, strict=True
        ):
            gated = items @ (model.item.weight * torch.sigmoid(shown @ gate.weight.T + gate.bias))
            views.append(torch.cat([graph[:users, users:] @ gated, gated]))
            there.append(torch.cat([graph[:users, users:] @ have.float() > 0, have]))
        gates = torch.sigmoid(model.gate(behaviour)).split(x.shape[1], 1)
        weights = [g.clone() for g in gates]
        for m, attention in enumerate(model.attention):
            power = attention(views[-1]).exp()
            weights[m] = gates[m] * power / power.sum(1, keepdim=True)
        total = sum(w * view for w, view in zip(weights, views, strict=True))
        there = torch.stack(there, 1)
        return behaviour, total / there.sum(1, keepdim=True).clamp(min=1), there, weights

    return parts


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_embeddings_equal_dense_algebra(
    small_corpus, bare_corpus, dense_parts, modalities, missing
):
    corpus = (bare_corpus if missing else small_corpus)(modalities=modalities)
    model = SMORE(corpus, dim=6, neighbours=K).eval()
    behaviour, side, *_ = dense_parts(model)
    torch.testing.assert_close(torch.cat(model.encode()), behaviour + side)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_losses_equal_dense_algebra(small_corpus, bare_corpus, dense_parts, modalities, missing):
    corpus = (bare_corpus if missing else small_corpus)(modalities=modalities)
    model = SMORE(corpus, dim=5, neighbours=K, dropout=0, l2=0.3, contrast=0.7)
    losses = model.losses(BATCH)
    behaviour, side, there, _ = dense_parts(model)
    final = behaviour + side
    users = BATCH.user
    items, others = corpus.n_users + BATCH.positive, corpus.n_users + BATCH.negative[:, 0]
    apart = (final[users] * (final[items] - final[others])).sum(1)
    torch.testing.assert_close(losses["bpr"], -logsigmoid(apart).mean())
    squares = sum(final[part].square().sum() for part in (users, items, others))
    torch.testing.assert_close(losses["l2"], 0.3 * squares / 2 / len(users))
    total = 0
    for nodes in (users, items):
        nodes = nodes[there[nodes].any(1)]
        terms = []
        for n in nodes:
            alike = [cosine_similarity(side[n], behaviour[m], dim=0) / 0.2 for m in nodes]
            own = cosine_similarity(side[n], behaviour[n], dim=0) / 0.2
            terms.append(torch.logsumexp(torch.stack(alike), 0) - own)
        total = total + torch.stack(terms).mean()
    torch.testing.assert_close(losses["contrast"], 0.7 * total)


def test_dropout_is_of_training_only(small_corpus, dense_parts):
    model = SMORE(small_corpus(), dim=6, neighbours=K, dropout=0.5)
    first, second = (model.train().encode().items for _ in range(2))
    assert not torch.equal(first, second)
    torch.testing.assert_close(torch.cat(model.eval().encode()), sum(dense_parts(model)[:2]))


def test_gradients_are_finite_where_nodes_have_no_view(bare_corpus):
    model = SMORE(bare_corpus(), dim=5, neighbours=K)
    assert not model.complete
    sum(model.losses(BATCH).values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert not model.project[0].features.rows.grad[[1, 4]].any()


def test_item_weights_are_shares_of_the_views(bare_corpus, dense_parts):
    model = SMORE(bare_corpus(), dim=5, neighbours=K).eval()
    found = model.item_weights()
    assert [*found] == ["m3", "m4", "fusion"]
    *_, there, weights = dense_parts(model)
    mean = torch.stack([w.mean(1) for w in weights], 1) * there
    expected = (mean / mean.sum(1, keepdim=True).clamp(min=1e-9))[model.corpus.n_users :]
    torch.testing.assert_close(torch.stack([*found.values()], 1), expected)
    assert not expected[1].any()
    assert expected[4, 0] == 0


def test_numbers_of_neighbours_may_differ(small_corpus, dense_content_graph):
    corpus = small_corpus()
    model = SMORE(corpus, dim=5, neighbours={"m4": 2, "m3": 4})
    for graph, (name, k) in zip(model.views.item_graphs, {"m3": 4, "m4": 2}.items(), strict=False):
        expected = dense_content_graph(corpus.modalities[name], k)
        torch.testing.assert_close(graph.matrix.to_dense(), expected)


@pytest.mark.parametrize("neighbours", [{"m3": 2}, {"m3": 2, "m4": 2, "m5": 2}, {"m3": 2, "x": 2}])
def test_neighbours_that_do_not_name_the_modalities_are_refused(small_corpus, neighbours):
    with pytest.raises(SettingError) as error:
        neighbour_counts(small_corpus().modalities, neighbours)
    assert (error.value.setting, error.value.value) == ("model.neighbours", neighbours)
    assert "{m3:15,m4:15}" in error.value.expected


@pytest.mark.parametrize(
    ("neighbours", "setting"), [(0, "model.neighbours"), ({"m3": 0}, "model.neighbours.m3")]
)
def test_fewer_than_one_neighbour_is_refused(small_corpus, neighbours, setting):
    with pytest.raises(SettingError) as error:
        SMORE(small_corpus(modalities=1), neighbours=neighbours)
    assert error.value.setting == setting


@pytest.mark.parametrize("neighbours", [10, {"m3": 3, "m4": 10}])
def test_more_neighbours_than_items_are_refused(small_corpus, neighbours):
    corpus = small_corpus(n_items=9)
    with pytest.raises(ValueError, match=r"model\.neighbours"):
        SMORE(corpus, neighbours=neighbours)


def test_data_without_content_are_refused(small_corpus):
    corpus = replace(small_corpus(), modalities={})
    with pytest.raises(DataError) as error:
        SMORE(corpus)
    assert error.value.file == corpus.name
    assert error.value.problem.startswith("model smore needs item features")
