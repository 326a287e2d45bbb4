from __future__ import annotations

import pytest
import torch
from torch.nn.functional import leaky_relu, logsigmoid

from mmrec.config.errors import SettingError
from mmrec.data import Triplets
from mmrec.models import MMGCN

BATCH = Triplets(
    torch.tensor([0, 2, 2, 5]), torch.tensor([1, 4, 0, 7]), torch.tensor([[2], [3], [8], [1]])
)
SETTINGS = {"dim": 5, "content_dim": 4}  # the third modality is wider


def unit(x):
    norm = x.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, x / norm.clamp(min=1e-9), 0)


def looped(model, combine):
    """Users and items, node by node."""
    corpus = model.corpus
    n_users = corpus.n_users
    pairs = [*zip(corpus.train.user.tolist(), corpus.train.item.tolist(), strict=True)]
    neighbours = [[] for _ in range(n_users + corpus.n_items)]
    for u, i in pairs:
        neighbours[u].append(n_users + i)
        neighbours[n_users + i].append(u)
    ids = torch.cat([model.user.weight, model.item.weight])
    total = torch.zeros(len(ids), ids.shape[1])
    for modality, branch, table in zip(
        corpus.modalities.values(), model.branches, model.preference, strict=True
    ):
        content = modality.features
        if modality.width > 4:
            content = content @ branch.content.linear.weight.T + branch.content.linear.bias
        content = content * modality.present[:, None]
        x = unit(torch.cat([table.weight, content]))
        has = [True] * n_users + modality.present.tolist()
        for layer in branch.layers:
            rows = []
            for n in range(len(ids)):
                known = [x[j] for j in neighbours[n] if has[j]]
                mean = torch.stack(known).mean(0) if known else torch.zeros(x.shape[1])
                h = leaky_relu(layer.neighbours.weight @ mean)
                own = leaky_relu(layer.own.weight @ x[n] + layer.own.bias) + ids[n]
                if combine == "concat":
                    merged = layer.merge.weight @ torch.cat([h, own])
                else:
                    merged = layer.merge.weight @ h + own
                rows.append(leaky_relu(merged + layer.merge.bias))
            x = torch.stack(rows)
            has = [True] * len(ids)
        total = total + x
    return total.split([n_users, corpus.n_items])


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("modalities", "layers", "combine"),
    [(1, 1, "concat"), (2, 3, "concat"), (3, 2, "concat"), (1, 2, "add"), (3, 3, "add")],
)
def test_embeddings_equal_loops_over_nodes(gappy_corpus, modalities, layers, combine, complete):
    data = gappy_corpus(modalities, complete=complete)
    model = MMGCN(data, **SETTINGS, layers=layers, combine=combine)
    users, items = looped(model, combine)
    found = model.encode()
    torch.testing.assert_close(found.users, users)
    torch.testing.assert_close(found.items, items)


def test_loss_terms_equal_loops(gappy_corpus):
    model = MMGCN(gappy_corpus(3), **SETTINGS, l2=0.3)
    losses = model.losses(BATCH)
    users, items = looped(model, "concat")
    j = BATCH.negative[:, 0]
    margin = (users[BATCH.user] * (items[BATCH.positive] - items[j])).sum(1)
    torch.testing.assert_close(losses["bpr"], -logsigmoid(margin).mean())
    rows = [model.user.weight[BATCH.user], model.item.weight[BATCH.positive], model.item.weight[j]]
    rows += [table.weight[BATCH.user] for table in model.preference]
    squares = sum(x.square().sum() for x in rows)
    torch.testing.assert_close(losses["l2"], 0.3 * squares / (2 * len(BATCH.user)))
    assert MMGCN(gappy_corpus()).losses(BATCH).keys() == {"bpr"}


def test_ids_and_preferences_are_trained(gappy_corpus):
    model = MMGCN(gappy_corpus(), **SETTINGS)
    model.losses(BATCH)["bpr"].backward()
    for table in (model.user, model.item, *model.preference):
        assert table.weight.grad.any()


@pytest.mark.parametrize(
    "setting", [{"dim": 0}, {"layers": 0}, {"content_dim": 0}, {"combine": "mean"}, {"l2": -1.0}]
)
def test_a_wrong_setting_is_named(gappy_corpus, setting):
    with pytest.raises(SettingError) as caught:
        MMGCN(gappy_corpus(), **setting)
    assert caught.value.setting == f"model.{next(iter(setting))}"
