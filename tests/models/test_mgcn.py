from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, logsigmoid

from mmrec.config.errors import SettingError
from mmrec.data import DataError, Triplets
from mmrec.models import MGCN

K = 3
BATCH = Triplets(torch.tensor([0, 2, 2]), torch.tensor([1, 4, 6]), torch.tensor([[2], [3], [1]]))


@pytest.fixture
def dense_parts(dense_bipartite, dense_fusion):
    """LightGCN embeddings and fused views of all nodes, and which nodes have a view."""

    def parts(model):
        graph = dense_bipartite(model.corpus)
        x = torch.cat([model.user.weight, model.item.weight])
        layers = [
            torch.linalg.matrix_power(graph, n) @ x for n in range(model.propagate.layers + 1)
        ]
        behaviour = torch.stack(layers).mean(0)
        return behaviour, *dense_fusion(model, behaviour, K)

    return parts


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("item_layers", [1, 2])
def test_embeddings_equal_dense_algebra(
    small_corpus, bare_corpus, dense_parts, modalities, item_layers, missing
):
    corpus = (bare_corpus if missing else small_corpus)(modalities=modalities)
    model = MGCN(corpus, dim=5, neighbours=K, item_layers=item_layers).eval()
    behaviour, side, _ = dense_parts(model)
    found = model.encode()
    torch.testing.assert_close(torch.cat(found), behaviour + side)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_losses_equal_dense_algebra(small_corpus, bare_corpus, dense_parts, modalities, missing):
    corpus = (bare_corpus if missing else small_corpus)(modalities=modalities)
    model = MGCN(corpus, dim=5, neighbours=K, l2=0.3, contrast=0.7)
    losses = model.losses(BATCH)
    behaviour, side, viewed = dense_parts(model)
    final = behaviour + side
    users = BATCH.user
    items, others = corpus.n_users + BATCH.positive, corpus.n_users + BATCH.negative[:, 0]
    apart = (final[users] * (final[items] - final[others])).sum(1)
    torch.testing.assert_close(losses["bpr"], -logsigmoid(apart).mean())
    squares = sum(final[part].square().sum() for part in (users, items, others))
    torch.testing.assert_close(losses["l2"], 0.3 * squares / 2 / len(users))
    total = 0
    for nodes in (users, items):
        nodes = nodes[viewed[nodes]]
        terms = []
        for n in nodes:
            alike = torch.stack(
                [torch.exp(cosine_similarity(side[n], behaviour[m], dim=0) / 0.2) for m in nodes]
            )
            own = torch.exp(cosine_similarity(side[n], behaviour[n], dim=0) / 0.2)
            terms.append(-torch.log(own / alike.sum()))
        total = total + torch.stack(terms).mean()
    torch.testing.assert_close(losses["contrast"], 0.7 * total)


def test_the_corpus_that_lacks_content_has_nodes_without_a_view(bare_corpus, dense_parts):
    model = MGCN(bare_corpus(), dim=5, neighbours=K)
    _, _, viewed = dense_parts(model)
    assert [*(~viewed).nonzero().flatten()] == [0, model.corpus.n_users + 1]
    assert not model.complete


def test_gradients_are_finite_where_nodes_have_no_view(bare_corpus):
    model = MGCN(bare_corpus(), dim=5, neighbours=K)
    sum(model.losses(BATCH).values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    first = model.project[0].features.rows.grad
    assert first.any()
    assert not first[[1, 4]].any()


def test_no_contrast_has_no_term(small_corpus):
    model = MGCN(small_corpus(), dim=5, neighbours=K, contrast=0)
    assert model.losses(BATCH).keys() == {"bpr", "l2"}


def test_item_weights_are_attention_and_gates(bare_corpus):
    model = MGCN(bare_corpus(), dim=5, neighbours=K)
    weights = model.item_weights()
    assert [*weights] == ["m3", "m4"]
    total = weights["m3"] + weights["m4"]
    assert total[1] == 0
    torch.testing.assert_close(total[2:], torch.ones(len(total) - 2))
    assert weights["m3"][4] == 0
    gates = model.item_measures()
    assert [*gates] == ["gate of m3", "gate of m4"]
    assert gates["gate of m3"][4].isnan()
    assert 0 < gates["gate of m4"][4] < 1


def test_weights_of_a_single_modality_are_one(small_corpus):
    model = MGCN(small_corpus(modalities=1), dim=5, neighbours=K)
    weights = model.item_weights()
    assert weights.keys() == {"m3"}
    assert (weights["m3"] == 1).all()
    assert model.item_measures() == {}


def test_an_item_graph_without_steps_is_refused(small_corpus):
    with pytest.raises(SettingError) as error:
        MGCN(small_corpus(), item_layers=0)
    assert error.value.setting == "model.item_layers"


def test_more_neighbours_than_items_are_refused(small_corpus):
    corpus = small_corpus()
    with pytest.raises(ValueError, match=r"model\.neighbours"):
        MGCN(corpus, neighbours=corpus.n_items + 1)


def test_data_without_content_are_refused(small_corpus):
    corpus = replace(small_corpus(), modalities={})
    with pytest.raises(DataError) as error:
        MGCN(corpus)
    assert error.value.file == corpus.name
    assert error.value.problem.startswith("model mgcn needs item features")
