from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from mmrec.config.errors import SettingError
from mmrec.data import Triplets, content_hash
from mmrec.graphs import knn_graph
from mmrec.models import LATTICE
from mmrec.models.base import NonFiniteLoss

K = 3
BATCH = Triplets(torch.tensor([0, 2, 5]), torch.tensor([1, 4, 1]), torch.tensor([[2], [3], [0]]))


@pytest.fixture
def corpus(small_corpus):
    """`corpus(modalities=2)`; item 4 lacks m3."""

    def build(modalities=2):
        found = small_corpus(modalities=modalities)
        m3 = found.modalities["m3"]
        present = torch.arange(found.n_items) != 4
        features = m3.features * present[:, None]
        missing = replace(
            m3, features=features, present=present, digest=content_hash([features, present])
        )
        return replace(found, modalities={**found.modalities, "m3": missing})

    return build


def dense_graph(rows, present):
    """Cosines of the K nearest items with content, itself included; normalised by row sums."""
    unit, size = normalize(rows), len(rows)
    graph = torch.zeros(size, size)
    for i in present.nonzero().flatten().tolist():
        cosine = (unit @ unit[i]).masked_fill(~present, -torch.inf)
        for j in cosine.topk(K).indices.tolist():
            graph = graph + torch.zeros(size, size).index_put(
                (torch.tensor(i), torch.tensor(j)), cosine[j].clamp(min=0)
            )
    degree = torch.where(present, graph.sum(1), 1)
    return graph / degree.sqrt()[:, None] / degree.sqrt()


def dense_embeddings(model):
    corpus = model.corpus
    users, items = corpus.n_users, corpus.n_items
    a = torch.zeros(users + items, users + items)
    a[corpus.train.user, users + corpus.train.item] = 1
    a = a + a.T
    scale = torch.where(a.sum(1) > 0, a.sum(1), 1).rsqrt()
    a = scale[:, None] * a * scale
    x = torch.cat([model.user.weight, model.item.weight])
    powers = [torch.linalg.matrix_power(a, n) @ x for n in range(model.propagate.layers + 1)]
    nodes = torch.stack(powers).mean(0)
    graph, shares = 0, model.importance.softmax(0)
    for m, modality in enumerate(corpus.modalities.values()):
        part = model.raw_share * dense_graph(modality.features, modality.present)
        if model.raw_share < 1:
            linear = model.project[m].linear
            content = modality.features @ linear.weight.T + linear.bias
            part = part + (1 - model.raw_share) * dense_graph(content, modality.present)
        graph = graph + shares[m] * part
    content = torch.linalg.matrix_power(graph, model.item_layers) @ model.item.weight
    return nodes[:users], nodes[users:] + content / content.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize(
    "setting",
    [{}, {"layers": 0, "item_layers": 2, "raw_share": 0.4}, {"raw_share": 0.0}, {"raw_share": 1.0}],
)
def test_embeddings_and_gradients_equal_dense_algebra(corpus, modalities, setting):
    data = corpus(modalities)
    if modalities == 1:  # the unit vector of an item without neighbours is not defined
        data = replace(data, modalities={"m3": corpus(2).modalities["m4"]})
    model = LATTICE(data, dim=5, neighbours=K, **setting)
    torch.nn.init.normal_(model.importance)
    expected, found = dense_embeddings(model), model.encode()
    towards = [torch.randn_like(x) for x in expected]
    parameters = [p for p in model.parameters() if modalities > 1 or p is not model.importance]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    gradients = []
    for sides in (found, expected):
        total = sum((x * w).sum() for x, w in zip(sides, towards, strict=True))
        gradients.append(torch.autograd.grad(total, parameters, allow_unused=True))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_loss_is_bpr_and_the_norm_of_the_batch(corpus):
    model = LATTICE(corpus(), dim=5, neighbours=K, l2=0.3)
    users, items = dense_embeddings(model)
    u, i, j = users[BATCH.user], items[BATCH.positive], items[BATCH.negative[:, 0]]
    losses = model.losses(BATCH)
    margin = (u * i).sum(1) - (u * j).sum(1)
    torch.testing.assert_close(losses["bpr"], -logsigmoid(margin).mean())
    norms = sum(x.square().sum() for x in (u, i, j))
    torch.testing.assert_close(losses["l2"], 0.3 * norms / (2 * len(u)))


def neighbours_of(model):
    return [graph.matrix.to_dense() > 0 for graph in model.learned]


def test_neighbours_change_between_epochs_and_for_evaluation(corpus):
    model = LATTICE(corpus(), dim=5, neighbours=K).train()
    model.start_epoch(0, torch.Generator())
    before = neighbours_of(model)
    with torch.no_grad():
        for project in model.project:
            project.linear.weight.normal_()
    model.encode()
    assert all(map(torch.equal, neighbours_of(model), before))  # of the epoch
    expected = dense_embeddings(model)
    with torch.inference_mode():
        found = model.eval().encode()
    torch.testing.assert_close(found.items, expected[1].detach())
    assert not any(map(torch.equal, neighbours_of(model), before))
    model.train().start_epoch(1, torch.Generator())
    losses = model.losses(BATCH)  # with the graphs that were found in inference mode
    losses["bpr"].backward()
    assert all(project.linear.weight.grad.any() for project in model.project)


def test_neighbours_are_found_once_for_the_same_weights(corpus, monkeypatch):
    calls = []

    def counted(*args, **options):
        calls.append(args)
        return knn_graph(*args, **options)

    monkeypatch.setattr("mmrec.models.lattice.knn_graph", counted)
    model = LATTICE(corpus(), dim=5, neighbours=K)
    model.eval().encode()
    model.train().start_epoch(0, torch.Generator())
    model.losses(BATCH)
    assert len(calls) == 2  # modalities
    model.load_state_dict(LATTICE(corpus(), dim=5, neighbours=K).state_dict())
    model.eval().encode()
    assert len(calls) == 4


def test_an_item_without_content_is_that_of_lightgcn(corpus):
    data = corpus()
    model = LATTICE(replace(data, modalities={"m3": data.modalities["m3"]}), dim=5, neighbours=K)
    nodes = model.propagate(torch.cat([model.user.weight, model.item.weight]))
    rest = model.encode().items - nodes[data.n_users :]
    torch.testing.assert_close(rest.norm(dim=1), (torch.arange(data.n_items) != 4).float())


def test_diverged_content_is_reported(corpus):
    model = LATTICE(corpus(), dim=5, neighbours=K)
    torch.nn.init.constant_(model.project[0].linear.weight, torch.inf)
    with pytest.raises(NonFiniteLoss, match=r"optimizer\.lr"):
        model.encode()


@pytest.mark.parametrize("setting", [{"raw_share": 1.1}, {"item_layers": 0}, {"neighbours": 0}])
def test_a_wrong_setting_is_named(corpus, setting):
    with pytest.raises(SettingError) as caught:
        LATTICE(corpus(), **setting)
    assert (caught.value.setting,) == tuple(f"model.{name}" for name in setting)


def test_more_neighbours_than_items_are_refused(corpus):
    with pytest.raises(ValueError, match=r"model\.neighbours"):
        LATTICE(corpus(), neighbours=9)  # m3 is of 8 items
