from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from mmrec.config.errors import SettingError
from mmrec.data import DataError, Triplets, content_hash
from mmrec.models import GUME
from mmrec.models.gume import NOISE, modality_gap

K = 4
BATCH = Triplets(torch.tensor([0, 2, 2]), torch.tensor([1, 4, 6]), torch.tensor([[2], [3], [1]]))
WEIGHTS = {"align": 0.3, "contrast": 0.5, "user_contrast": 0.7, "l2": 0.2, "interest_l2": 0.6}


def lacking(corpus):
    """Item 1 has no modality at all, and item 4 lacks the first; user 0 has only item 1."""
    content = {}
    for place, (name, each) in enumerate(corpus.modalities.items()):
        present = torch.ones(corpus.n_items, dtype=torch.bool)
        present[[1, 4] if not place else [1]] = False
        features = each.features * present[:, None]
        content[name] = replace(
            each, features=features, present=present, digest=content_hash([features, present])
        )
    user, item = corpus.train.user, corpus.train.item
    others = corpus.train.select((user != 0) & (item != 1))
    train = replace(
        others,
        user=torch.cat([torch.tensor([0]), others.user]),
        item=torch.cat([torch.tensor([1]), others.item]),
        time=torch.cat([torch.tensor([0]), others.time]),
    )
    return replace(corpus, train=train, modalities=content)


@pytest.fixture(params=[1, 2, 3, "missing"])
def corpus(request, small_corpus):
    if request.param == "missing":
        return lacking(small_corpus())
    return small_corpus(modalities=request.param)


def nearest(modality, item):
    """The K most similar items with their cosines, the item itself included."""
    items = modality.present.nonzero().squeeze(1)
    cosine = torch.cosine_similarity(modality.features[items], modality.features[item])
    best = cosine.topk(K)
    return dict(zip(items[best.indices].tolist(), best.values, strict=True))


def joint_graph(corpus):
    """Interactions and the items that are near in all modalities, divided by row sums' roots."""
    users, n = corpus.n_users, corpus.n_users + corpus.n_items
    a = torch.zeros(n, n)
    for user, item in zip(corpus.train.user.tolist(), corpus.train.item.tolist(), strict=True):
        a[user, users + item] = a[users + item, user] = 1
    for i in range(corpus.n_items):
        near = [set(nearest(m, i)) for m in corpus.modalities.values() if m.present[i]]
        for j in set.intersection(*near) - {i} if near else ():
            a[users + i, users + j] = 1
    scale = torch.where(a.sum(1) > 0, a.sum(1), 1).rsqrt()
    return scale[:, None] * a * scale


def item_graph(modality):
    graph = torch.zeros(len(modality.features), len(modality.features))
    for i in modality.present.nonzero().flatten().tolist():
        for j, cosine in nearest(modality, i).items():
            graph[i, j] = cosine.clamp(min=0)
    scale = torch.where(modality.present, graph.sum(1), 1).rsqrt()
    return scale[:, None] * graph * scale


def mean_of_layers(graph, x, layers):
    return torch.stack([torch.linalg.matrix_power(graph, n) @ x for n in range(layers + 1)]).mean(0)


def dense_parts(model):
    """h, s, t, the views, and which nodes have them; all by plain matrices."""
    corpus, users = model.corpus, model.corpus.n_users
    graph = joint_graph(corpus)
    ids = torch.cat([model.user.weight, model.item.weight])
    h = mean_of_layers(graph, ids, model.propagate.layers)
    views, there = [], []
    for modality, project, gate in zip(
        corpus.modalities.values(), model.project, model.views.gates, strict=True
    ):
        shown = modality.features @ project.linear.weight.T + project.linear.bias
        x = model.item.weight * torch.sigmoid(shown @ gate.weight.T + gate.bias)
        x = torch.linalg.matrix_power(item_graph(modality), model.views.layers) @ x
        block = graph[:users, users:]
        views.append(torch.cat([block @ x, x]))
        there.append(torch.cat([block @ modality.present.float() > 0, modality.present]))
    views, there = torch.stack(views, 1), torch.stack(there, 1)
    count = there.sum(1, keepdim=True)
    mean = views.sum(1) / count.clamp(min=1)
    t = mean_of_layers(
        graph, torch.cat([model.interest.weight, mean[users:]]), model.propagate.layers
    )
    if views.shape[1] == 1:
        return h, views[:, 0] / 2, t, views, there
    power = model.fuse.query(views).squeeze(-1).exp() * there
    attention = power / power.sum(1, keepdim=True).clamp(min=1e-9)
    common = (attention.unsqueeze(-1) * views).sum(1)
    total = common
    for m, part in enumerate(model.fuse.gate(h).split(views.shape[-1], 1)):
        total = total + torch.sigmoid(part) * (views[:, m] - common) * there[:, m, None]
    return h, total / (1 + count), t, views, there


def dense_contrast(one, other, temperature):
    """With loops over pairs of rows."""
    terms = []
    for n, a in enumerate(one):
        powers = [(torch.cosine_similarity(a, b, dim=0) / temperature).exp() for b in other]
        terms.append(-(powers[n] / sum(powers)).log())
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("layers", "item_layers"), [(0, 1), (1, 2), (3, 1)])
def test_embeddings_equal_dense_algebra(corpus, layers, item_layers):
    model = GUME(corpus, dim=5, neighbours=K, layers=layers, item_layers=item_layers)
    h, s, *_ = dense_parts(model)
    torch.testing.assert_close(torch.cat(model.encode()), h + s)
    before = model.encode().items
    model.train()
    assert torch.equal(model.encode().items, before)


@pytest.mark.parametrize("layers", [0, 3])
def test_losses_equal_dense_algebra(corpus, layers):
    model = GUME(
        corpus,
        dim=5,
        neighbours=K,
        layers=layers,
        temperature=0.4,
        user_temperature=0.3,
        **WEIGHTS,
    ).eval()
    losses = model.losses(BATCH)
    h, s, t, views, there = dense_parts(model)
    final = h + s
    users = BATCH.user
    items, others = corpus.n_users + BATCH.positive, corpus.n_users + BATCH.negative[:, 0]
    apart = (final[users] * (final[items] - final[others])).sum(1)
    torch.testing.assert_close(losses["bpr"], -logsigmoid(apart).mean())
    squares = sum(final[part].square().sum() for part in (users, items, others))
    torch.testing.assert_close(losses["l2"], WEIGHTS["l2"] * squares / 2 / len(users))
    interests = WEIGHTS["interest_l2"] * t[items].square().sum() / 2 / len(users)
    torch.testing.assert_close(losses["interest_l2"], interests)

    values = [views[there[:, m], m] for m in range(views.shape[1])]
    gaps = [
        (a.var() - b.var()).abs() + (a.mean() - b.mean()).abs() for a, b in combinations(values, 2)
    ]
    if gaps:
        align = WEIGHTS["align"] * sum(gaps) / len(gaps)
        torch.testing.assert_close(losses["align"], align)
    assert bool(gaps) == ("align" in losses)

    users, items = (nodes[there[nodes].any(1)] for nodes in (users, items))
    assert (len(users) < 3) == (len(items) < 3) == (not there.any(1).all())
    contrast = sum(dense_contrast(s[nodes], h[nodes], 0.4) for nodes in (users, items))
    torch.testing.assert_close(losses["contrast"], WEIGHTS["contrast"] * contrast)
    pairs = (t, s), (s, s), (t, t)  # without noise
    of_users = sum(dense_contrast(a[users], b[users], 0.3) for a, b in pairs)
    torch.testing.assert_close(losses["user_contrast"], WEIGHTS["user_contrast"] * of_users)


def test_noise_keeps_signs_and_has_a_fixed_norm_in_training_only(corpus):
    model = GUME(corpus, dim=5, neighbours=K)
    x = torch.randn(20, 5)
    noise = model.train().noisy(x) - x
    torch.testing.assert_close(noise.norm(dim=1), torch.full((20,), NOISE))
    assert (noise * x >= 0).all()
    assert not torch.equal(noise, model.noisy(x) - x)
    assert torch.equal(model.eval().noisy(x), x)
    terms = [model.train().losses(BATCH) for _ in range(2)]
    assert {name for name in terms[0] if not torch.equal(terms[0][name], terms[1][name])} == {
        "user_contrast"
    }


def test_interests_of_one_table_are_the_mean_over_tables_of_modalities(small_corpus):
    model = GUME(small_corpus(), dim=5, neighbours=K)
    tables = torch.randn(2, model.corpus.n_users, 5)
    model.interest.weight.data = tables.mean(0)
    *_, views, _ = dense_parts(model)
    items, graph = views[model.corpus.n_users :], joint_graph(model.corpus)
    expected = [mean_of_layers(graph, torch.cat([tables[m], items[:, m]]), 3) for m in range(2)]
    rows = torch.tensor([0, 5, 9, 9])
    _, found = model.behaviour_and_interests(views, rows)
    torch.testing.assert_close(found, torch.stack(expected).mean(0)[rows])


def test_the_gap_is_zero_between_equal_modalities_and_ignores_absent_ones():
    views = normalize(torch.randn(6, 1, 3), dim=-1).expand(-1, 2, -1).clone()
    present = torch.ones(6, 2, dtype=torch.bool)
    assert modality_gap(views, present) == 0
    more = torch.cat([views, torch.zeros(4, 2, 3)])
    some = torch.cat([present, torch.zeros(4, 2, dtype=torch.bool)])
    assert modality_gap(more, some) == 0
    assert modality_gap(more * torch.tensor([1.0, 2.0]).view(1, 2, 1), some) > 0.1


def test_gradients_are_finite_where_nodes_have_no_view(small_corpus):
    model = GUME(lacking(small_corpus()), dim=5, neighbours=K).train()
    sum(model.losses(BATCH).values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    first = model.project[0].features.rows.grad
    assert first.any()
    assert not first[[1, 4]].any()


def test_terms_without_a_weight_are_left_out(small_corpus):
    model = GUME(small_corpus(), dim=5, neighbours=K, align=0, contrast=0, user_contrast=0)
    assert model.losses(BATCH).keys() == {"bpr", "l2", "interest_l2"}


def test_item_weights_are_attention_and_gates(small_corpus):
    model = GUME(lacking(small_corpus()), dim=5, neighbours=K)
    weights, gates = model.item_weights(), model.item_measures()
    assert [*weights] == ["m3", "m4"]
    total = weights["m3"] + weights["m4"]
    assert total[1] == 0
    torch.testing.assert_close(total[2:], torch.ones(len(total) - 2))
    assert weights["m3"][4] == 0
    assert gates["gate of m3"][4].isnan()
    assert 0 < gates["gate of m4"][4] < 1
    single = GUME(small_corpus(modalities=1), dim=5, neighbours=K).item_weights()
    assert single.keys() == {"m3"}
    assert (single["m3"] == 1).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("dim", 0), ("item_layers", 0), ("neighbours", 0), ("layers", -1), ("align", -1)),
        *(("contrast", -1), ("user_contrast", -1), ("temperature", 0), ("user_temperature", 0)),
        *(("l2", -1), ("interest_l2", -1)),
    ],
)
def test_a_setting_that_is_not_valid_is_named(small_corpus, setting, value):
    with pytest.raises(SettingError) as caught:
        GUME(small_corpus(), **{"neighbours": K, setting: value})
    assert (caught.value.setting, caught.value.value) == (f"model.{setting}", value)


def test_more_neighbours_than_items_and_data_without_content_are_refused(small_corpus):
    with pytest.raises(ValueError, match=r"model\.neighbours"):
        GUME(small_corpus(), neighbours=10)
    corpus = replace(small_corpus(), modalities={})
    with pytest.raises(DataError) as error:
        GUME(corpus)
    assert error.value.file == corpus.name
    assert error.value.problem.startswith("model gume needs item features")
