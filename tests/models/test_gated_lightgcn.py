from __future__ import annotations

import itertools

import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.data import DataError, Queries, Triplets
from mmrec.models import GatedLightGCN

OPTIONS = [("id", True), *itertools.product(("id+modal", "modal"), (True, False))]


def dense_graph(corpus):
    n = corpus.n_users + corpus.n_items
    a = torch.zeros(n, n)
    a[corpus.train.user, corpus.n_users + corpus.train.item] = 1
    a = a + a.T
    scale = torch.where(a.sum(1) > 0, a.sum(1), 1).rsqrt()
    return scale[:, None] * a * scale


@pytest.mark.parametrize(("item_init", "late_add"), OPTIONS)
@pytest.mark.parametrize("fusion", ["vector", "scalar", "mean", "sum", "concat"])
def test_it_is_its_formula(small_corpus, centred, item_init, late_add, fusion):
    corpus = small_corpus()
    torch.manual_seed(0)
    model = GatedLightGCN(corpus, dim=4, fusion=fusion, item_init=item_init, late_add=late_add)
    p = [
        project(centred(m.features))
        for project, m in zip(model.project, corpus.modalities.values(), strict=True)
    ]
    both = torch.cat(p, dim=1)
    match fusion:
        case "vector" | "scalar":
            first, second = model.fuse.linear(both).chunk(2, dim=1)
            gate = torch.sigmoid(first - second)
            content = gate * p[0] + (1 - gate) * p[1]
        case "mean":
            content = (p[0] + p[1]) / 2
        case "sum":
            content = p[0] + p[1]
        case "concat":
            content = model.fuse.linear(both)
    items = {"id": lambda: model.item.weight, "modal": lambda: content}.get(
        item_init, lambda: model.item.weight + content
    )()
    a, x = dense_graph(corpus), torch.cat([model.user.weight, items])
    users, items = ((x + a @ x + a @ a @ x) / 3).split([corpus.n_users, corpus.n_items])
    items = items + content if late_add else items
    found = model.score(model.encode(), Queries(torch.arange(corpus.n_users)))
    torch.testing.assert_close(found, users @ items.T)


def test_content_that_goes_nowhere_is_refused(small_corpus):
    with pytest.raises(SettingError) as error:
        GatedLightGCN(small_corpus(), item_init="id", late_add=False)
    assert (error.value.setting, error.value.value) == ("model.item_init", "id")
    assert "model.late_add=false" in error.value.problem


@pytest.mark.parametrize("fusion", ["vector", "scalar"])
def test_weights_of_items_are_the_gates_and_sum_to_one_where_there_is_content(checkerboard, fusion):
    corpus = checkerboard(missing=8)
    weights = GatedLightGCN(corpus, dim=4, fusion=fusion).item_weights()
    assert list(weights) == ["visual", "textual"]
    for name, weight in weights.items():
        assert not weight[~corpus.modalities[name].present].any()
    some = torch.stack([m.present for m in corpus.modalities.values()]).any(0)
    torch.testing.assert_close(torch.stack(list(weights.values())).sum(0), some.float())


@pytest.mark.parametrize("fusion", ["mean", "sum", "concat"])
def test_without_a_gate_there_are_no_weights(small_corpus, fusion):
    assert GatedLightGCN(small_corpus(), fusion=fusion).item_weights() == {}


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_any_number_of_modalities_will_do(small_corpus, modalities):
    model = GatedLightGCN(small_corpus(modalities=modalities), dim=4)
    weights = model.item_weights()
    assert len(weights) == modalities
    torch.testing.assert_close(sum(weights.values()), torch.ones(9))


def test_items_without_ids_have_no_table(small_corpus):
    model = GatedLightGCN(small_corpus(), dim=4, item_init="modal", l2=1.0)
    assert not any(name.startswith("item.") for name, _ in model.named_parameters())
    batch = Triplets(torch.tensor([1, 3]), torch.tensor([0, 1]), torch.tensor([[2], [4]]))
    expected = model.user.weight[[1, 3]].square().sum() / 4
    torch.testing.assert_close(model.losses(batch)["l2"], expected)


def test_each_norm_has_its_own_weight(small_corpus):
    batch = Triplets(torch.tensor([1, 3]), torch.tensor([0, 1]), torch.tensor([[2], [4]]))
    terms = {}
    for weights in ((1.0, 1.0), (3.0, 1.0), (1.0, 5.0)):
        torch.manual_seed(0)
        model = GatedLightGCN(small_corpus(), dim=4, l2=weights[0], content_l2=weights[1])
        terms[weights] = {name: term.item() for name, term in model.losses(batch).items()}
    one = terms[1.0, 1.0]
    assert terms[3.0, 1.0] == pytest.approx({**one, "l2": 3 * one["l2"]})
    assert terms[1.0, 5.0] == pytest.approx({**one, "content_l2": 5 * one["content_l2"]})


def test_without_content_it_is_refused(small_corpus):
    with pytest.raises(DataError) as error:
        GatedLightGCN(small_corpus(modalities=0))
    assert error.value.file == "small"
    assert error.value.problem.startswith("model gated_lightgcn needs item features")
