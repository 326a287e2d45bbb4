from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity, logsigmoid, normalize

from mmrec.config.errors import SettingError
from mmrec.data import Triplets
from mmrec.models import EGRA, Embeddings

K = 3
BATCH = Triplets(torch.tensor([0, 2, 2]), torch.tensor([1, 4, 6]), torch.tensor([[2], [3], [1]]))


def teacher_of(corpus):
    rng = torch.Generator().manual_seed(5)
    return Embeddings(*(torch.randn(n, 4, generator=rng) for n in (corpus.n_users, corpus.n_items)))


def dense_interactions(corpus):
    n = corpus.n_users + corpus.n_items
    a = torch.zeros(n, n)
    a[corpus.train.user, corpus.n_users + corpus.train.item] = 1
    return a + a.T


def dense_normalized(a):
    scale = torch.where(a.sum(1) > 0, a.sum(1), 1).rsqrt()
    return scale[:, None] * a * scale


def dense_neighbours(vectors, k, *, itself, present=None):
    """Cosines of the k most similar items of each; zero elsewhere."""
    present = torch.ones(len(vectors), dtype=torch.bool) if present is None else present
    unit, graph = normalize(vectors), torch.zeros(len(vectors), len(vectors))
    for i in present.nonzero().flatten():
        cosine = (unit @ unit[i]).masked_fill(~present, -2)
        if not itself:
            cosine[i] = -2
        for j in cosine.topk(k).indices:
            graph[i, j] = cosine[j].clamp(min=0)
    return graph


def dense_item_graph(corpus, teacher):
    if teacher is not None:
        graph = dense_neighbours(teacher.items, K, itself=False)
        return torch.maximum(graph, graph.T)
    graphs = []
    for modality in corpus.modalities.values():
        graph = dense_neighbours(modality.features, K, itself=False, present=modality.present)
        graphs.append(torch.maximum(graph, graph.T))
    return torch.stack(graphs).mean(0)


def dense_behaviour(model, teacher, item_graph, gamma):
    corpus, users = model.corpus, model.corpus.n_users
    a, similar = dense_interactions(corpus), dense_item_graph(corpus, teacher)
    if item_graph == "joint":
        a[users:, users:] = gamma * similar
    x = torch.cat([model.user.weight, model.item.weight])
    a = dense_normalized(a)
    nodes = torch.stack([torch.linalg.matrix_power(a, n) @ x for n in range(3)]).mean(0)
    if item_graph == "branch":
        nodes[users:] += dense_normalized(similar) @ model.item.weight
    return nodes


@pytest.fixture
def corpus(bare_corpus):
    return bare_corpus(modalities=2)


@pytest.mark.parametrize("item_graph", ["joint", "branch", "none"])
@pytest.mark.parametrize("taught", [True, False])
def test_embeddings_equal_dense_algebra(corpus, dense_fusion, item_graph, taught):
    teacher = teacher_of(corpus) if taught else None
    model = EGRA(
        corpus, dim=5, neighbours=K, item_graph=item_graph, gamma=0.3, teacher=teacher
    ).eval()
    behaviour = dense_behaviour(model, teacher, item_graph, 0.3)
    content, _ = dense_fusion(model, behaviour, K)
    torch.testing.assert_close(torch.cat(model.encode()), behaviour + content)


@pytest.mark.parametrize("item_graph", ["joint", "branch"])
@pytest.mark.parametrize("focus", ["hard", "easy", "none"])
def test_losses_equal_dense_algebra(corpus, dense_fusion, item_graph, focus):
    teacher = teacher_of(corpus)
    model = EGRA(
        corpus,
        dim=5,
        neighbours=K,
        item_graph=item_graph,
        gamma=0.3,
        align=0.7,
        ramp="constant",
        focus=focus,
        rho=2.0,
        l2=0.3,
        teacher=teacher,
    )
    losses = model.losses(BATCH)
    behaviour = dense_behaviour(model, teacher, item_graph, 0.3)
    content, viewed = dense_fusion(model, behaviour, K)
    final = behaviour + content
    users, items = BATCH.user, corpus.n_users + BATCH.positive
    others = corpus.n_users + BATCH.negative[:, 0]
    apart = (final[users] * (final[items] - final[others])).sum(1)
    torch.testing.assert_close(losses["bpr"], -logsigmoid(apart).mean())
    squares = sum(final[part].square().sum() for part in (users, items, others))
    torch.testing.assert_close(losses["l2"], 0.3 * squares / 2 / len(users))
    for name, nodes in (("align_users", users), ("align_items", items)):
        nodes = nodes[viewed[nodes]]
        terms, weights = [], []
        for n in nodes:
            powers = [
                torch.exp(cosine_similarity(behaviour[n], content[m], dim=0) / 0.2) for m in nodes
            ]
            own = cosine_similarity(behaviour[n], content[n], dim=0)
            terms.append(-torch.log(torch.exp(own / 0.2) / torch.stack(powers).sum()))
            aligned = ((1 + own) / 2).item()
            weights.append({"hard": (1 - aligned) ** 2, "easy": aligned**2, "none": 1}[focus])
        mean = sum(weights) / len(weights)
        total = sum(min(w / mean, 5) * t for w, t in zip(weights, terms, strict=True))
        torch.testing.assert_close(losses[name], 0.7 * total / len(terms))


def test_the_item_without_content_takes_no_part_in_the_alignment(corpus):
    model = EGRA(corpus, dim=5, neighbours=K, teacher=teacher_of(corpus))
    model.strength = 1.0
    losses = model.losses(BATCH)
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("ramp", "strengths"),
    [
        ("linear", [0.5, 1.0, 1.0]),
        ("exp", [0.9241418, 1.0, 1.0]),
        ("constant", [1.0, 1.0, 1.0]),
    ],
)
def test_the_strength_follows_its_ramp(corpus, ramp, strengths):
    model = EGRA(corpus, dim=5, neighbours=K, align=1.0, ramp=ramp, ramp_epochs=2)
    found = []
    for epoch in range(3):
        model.start_epoch(epoch, torch.Generator())
        found.append(model.strength)
    assert found == pytest.approx(strengths)


@pytest.mark.parametrize(
    ("sides", "terms"),
    [
        ("both", {"align_users", "align_items"}),
        ("users", {"align_users"}),
        ("items", {"align_items"}),
    ],
)
def test_sides_that_are_aligned(corpus, sides, terms):
    model = EGRA(corpus, dim=5, neighbours=K, sides=sides)
    assert model.losses(BATCH).keys() - {"bpr", "l2"} == terms


def test_no_alignment_has_no_term(corpus):
    model = EGRA(corpus, dim=5, neighbours=K, align=0.0)
    assert model.losses(BATCH).keys() == {"bpr", "l2"}


def test_checkpoints_hold_the_teacher(corpus):
    teacher = teacher_of(corpus)
    model = EGRA(corpus, dim=5, neighbours=K, teacher=teacher)
    found = EGRA.teacher_in(model.state_dict())
    torch.testing.assert_close(found.items, teacher.items)
    again = EGRA(corpus, dim=5, neighbours=K, teacher=found)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(torch.cat(again.encode()), torch.cat(model.encode()))
    assert EGRA.teacher_in(EGRA(corpus, dim=5, neighbours=K).state_dict()) is None


def test_item_measures_are_degrees_and_weights(corpus):
    model = EGRA(corpus, dim=5, neighbours=K, teacher=teacher_of(corpus))
    behaviour, content = model.nodes()
    measures = model.item_measures()
    assert {"gate of m3", "gate of m4"} <= measures.keys()
    cosine = cosine_similarity(behaviour, content.vectors, dim=1)[corpus.n_users :]
    expected = (1 + cosine) / 2
    expected[1] = torch.nan  # without content it takes no part
    torch.testing.assert_close(measures["alignment degree"], expected, equal_nan=True)
    weights = measures["alignment weight"].nan_to_num()
    assert weights[expected.nan_to_num(2).argmin()] == weights.max()
    assert weights[1] == 0
    assert measures["gate of m3"][4].isnan()
    attention = model.item_weights()
    assert attention["m3"][4] == 0
    torch.testing.assert_close(attention["m4"][4], torch.tensor(1.0))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("item_graph", "x"), ("ramp", "x"), ("focus", "x"), ("sides", "x"), ("gamma", -1)],
        *[("temperature", 0), ("ramp_epochs", 0), ("align", -1), ("rho", -1), ("neighbours", 0)],
    ],
)
def test_bad_settings_are_named(corpus, setting, value):
    with pytest.raises(SettingError) as error:
        EGRA(corpus, **{setting: value})
    assert error.value.setting == f"model.{setting}"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"item_graph": "none", "gamma": 0.5}, "item_graph"),
        ({"item_graph": "joint", "gamma": 0.0}, "gamma"),
        ({"item_graph": "branch", "gamma": 0.0}, None),
        ({"item_graph": "joint", "gamma": 0.5}, None),
    ],
)
def test_a_setting_that_leaves_the_teacher_without_effect_is_named(settings, name):
    assert EGRA.without_teacher(settings) == name
