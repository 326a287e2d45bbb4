from __future__ import annotations

import pytest
import torch
from torch.nn.functional import leaky_relu, logsigmoid

from mmrec.config.errors import SettingError
from mmrec.data import Triplets
from mmrec.models import GRCN

BATCH = Triplets(
    torch.tensor([0, 2, 2, 5]), torch.tensor([1, 4, 0, 7]), torch.tensor([[2], [3], [8], [1]])
)


def unit(x):
    norm = x.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, x / norm.clamp(min=1e-9), 0)


def attention(logits, mask):
    """Softmax of each row over its masked entries; rows without one are zero."""
    return torch.softmax(logits.masked_fill(~mask, -1e9), 1) * mask


def dense(model):
    """Users and items with dense matrices; and the weights of the refined graph, [U, I] twice."""
    corpus = model.corpus
    r = torch.zeros(corpus.n_users, corpus.n_items, dtype=torch.bool)
    r[corpus.train.user, corpus.train.item] = True
    to_users, to_items, parts = [], [], []
    for m, (modality, route) in enumerate(
        zip(corpus.modalities.values(), model.content, strict=True)
    ):
        linear = route.project.linear
        f = leaky_relu(modality.features @ linear.weight.T + linear.bias)
        f = unit(f * modality.present[:, None])
        p = unit(model.preference[m].weight)
        known = r & modality.present
        for _ in range(route.routings):
            p = unit(p + attention(p @ f.T, known) @ f)
        a, b = attention(p @ f.T, known), attention(f @ p.T, known.T)
        parts.append((p + a @ f, f + b @ p))
        to_users.append(a * model.item_confidence[:, m])
        to_items.append(b * model.user_confidence[:, m])
    a, b = (torch.stack(each).amax(0).clamp(min=0) for each in (to_users, to_items))
    graph = torch.cat(
        [
            torch.cat([torch.zeros(corpus.n_users, corpus.n_users), a], 1),
            torch.cat([b, torch.zeros(corpus.n_items, corpus.n_items)], 1),
        ]
    )
    x = unit(torch.cat([model.user.weight, model.item.weight]))
    ids = sum(torch.linalg.matrix_power(graph, n) @ x for n in range(model.layers + 1))
    users, items = ids.split([corpus.n_users, corpus.n_items])
    return (
        torch.cat([users, *(each for each, _ in parts)], 1),
        torch.cat([items, *(each for _, each in parts)], 1),
        (a, b),
    )


def confident(model):
    """Larger confidences of both signs, so that edges matter."""
    with torch.no_grad():
        model.user_confidence.mul_(10)
        model.item_confidence.mul_(10)
    return model


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize(("layers", "routings"), [(2, 3), (1, 1), (3, 0)])
def test_embeddings_equal_dense_algebra(gappy_corpus, modalities, complete, layers, routings):
    data = gappy_corpus(modalities, complete=complete)
    model = confident(GRCN(data, dim=5, layers=layers, routings=routings))
    users, items, _ = dense(model)
    found = model.encode()
    torch.testing.assert_close(found.users, users)
    torch.testing.assert_close(found.items, items)


def test_edges_of_negative_confidence_are_pruned(gappy_corpus):
    model = confident(GRCN(gappy_corpus(complete=False), dim=5))
    found = model.edge_weights(model.routed())
    user, item = model.edges.user, model.edges.item
    expected = dense(model)[2]
    for ours, theirs in zip(found, (expected[0][user, item], expected[1][item, user]), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert (ours == 0).any()
        assert (ours > 0).any()


def test_routing_moves_users_towards_their_items(gappy_corpus):
    data = gappy_corpus()
    still, moved = (GRCN(data, dim=5, routings=n) for n in (0, 3))
    moved.load_state_dict(still.state_dict())
    cosine = []
    for model in (still, moved):
        routed = model.routed()[0]
        mine = unit(routed.users)[model.edges.user] * unit(routed.items)[model.edges.item]
        cosine.append(mine.sum(1).mean())
    assert cosine[1] > cosine[0]


def test_loss_terms_equal_loops(gappy_corpus):
    model = confident(GRCN(gappy_corpus(), dim=5, l2=0.3))
    losses = model.losses(BATCH)
    users, items, _ = dense(model)
    j = BATCH.negative[:, 0]
    margin = (users[BATCH.user] * (items[BATCH.positive] - items[j])).sum(1)
    torch.testing.assert_close(losses["bpr"], -logsigmoid(margin).mean())
    rows = [model.user.weight[BATCH.user], model.item.weight[BATCH.positive], model.item.weight[j]]
    rows += [table.weight[BATCH.user] for table in model.preference]
    squares = sum(x.square().sum() for x in rows)
    torch.testing.assert_close(losses["l2"], 0.3 * squares / (2 * len(BATCH.user)))
    assert GRCN(gappy_corpus()).losses(BATCH).keys() == {"bpr"}


@pytest.mark.parametrize("setting", [{"dim": 0}, {"layers": 0}, {"routings": -1}, {"l2": -1.0}])
def test_a_wrong_setting_is_named(gappy_corpus, setting):
    with pytest.raises(SettingError) as caught:
        GRCN(gappy_corpus(), **setting)
    assert caught.value.setting == f"model.{next(iter(setting))}"
