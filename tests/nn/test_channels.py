"""Channels of a batch are rows of those of everything, and what nothing reads does not exist."""

from __future__ import annotations

import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.graphs import content_graphs, normalized_adjacency
from mmrec.nn import BatchIndex, Channels, channel_names

EVERYTHING = {
    "dim": 4,
    "layers": 2,
    "content_layers": 1,
    "behaviour": True,
    "content": "both",
    "precision": "float32",
    "late_add": 0.5,
    "user_content": "sum",
}


def channels(corpus, **options):
    torch.manual_seed(0)
    graph = normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items)
    return Channels(
        corpus,
        corpus.modalities,
        graphs=[graph, graph],
        neighbours=content_graphs(corpus.modalities, 2),
        **{**EVERYTHING, **options},
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"content": "graph", "user_content": "history"},
        {"content": "projected", "user_content": "propagated", "late_add": 0.0},
        {"behaviour": False, "content_layers": 2},
    ],
)
def test_a_batch_is_rows_of_everything(small_corpus, options):
    corpus = small_corpus()
    made = channels(corpus, **options)
    user, item = torch.tensor([3, 0, 3]), torch.tensor([1, 8, 5, 1])
    whole, batch = made(), made(made.rows(BatchIndex(user, item, None)))
    names = channel_names(corpus.modalities, behaviour=options.get("behaviour", True))
    assert whole.users.shape == (len(names), corpus.n_users, 4)
    torch.testing.assert_close(batch.users, whole.users[:, user])
    torch.testing.assert_close(batch.items, whole.items[:, item])
    assert torch.equal(batch.present, whole.present[item])
    if whole.projected is None:
        assert batch.projected is None
    else:
        torch.testing.assert_close(batch.projected, whole.projected[item])


def test_id_embeddings_of_a_batch_have_sparse_gradients(small_corpus):
    made = channels(small_corpus())
    rows = made.rows(BatchIndex(torch.tensor([1]), torch.tensor([2]), None))
    user, item = made.embeddings(rows)
    (user.sum() + item.sum()).backward()
    grad = made.node.weight.grad
    assert grad.is_sparse
    assert sorted(grad.coalesce().indices()[0].tolist()) == [1, made.n_users + 2]


def test_unused_parts_are_not_built(small_corpus):
    corpus = small_corpus()
    assert channels(corpus, content="graph").project is None
    assert channels(corpus, content="projected").neighbours is None
    assert channels(corpus, behaviour=False, user_content="history").behaviour is None


@pytest.mark.parametrize(
    ("name", "value"), [("content", "gated"), ("user_content", "none"), ("precision", "float16")]
)
def test_an_unknown_choice_is_named(small_corpus, name, value):
    with pytest.raises(SettingError) as error:
        channels(small_corpus(), **{name: value})
    assert (error.value.setting, error.value.value) == (f"model.{name}", value)
