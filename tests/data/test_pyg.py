from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data.data import Data
from torch_geometric.data.hetero_data import HeteroData

from mmrec.data import Corpus, DataError, Interactions, Modality, PygData, Queries, from_pyg
from mmrec.data.corpus import content_hash
from mmrec.evaluation.protocol import Evaluation
from mmrec.models import FREEDOM, VBPR

SPLITS = ("train", "val", "test")


@st.composite
def corpora(draw):
    """Random pairs, sorted by user; the first of each user is in train."""
    n_users, n_items = draw(st.integers(3, 6)), draw(st.integers(3, 8))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    item = torch.rand(n_users, n_items, generator=rng).argsort(1)[:, :3]  # [U, 3]
    split = torch.randint(3, item.shape, generator=rng)
    split[:, 0] = 0
    split[0] = torch.arange(3)  # no part is empty
    user = torch.arange(n_users)[:, None].expand_as(item)
    times = torch.randint(9, item.shape, generator=rng).sort(1).values
    timed = draw(st.booleans())
    parts = {
        name: Interactions(user[chosen], item[chosen], times[chosen] if timed else None)
        for place, name in enumerate(SPLITS)
        for chosen in [split == place]
    }
    present = torch.rand(n_items, generator=rng) < 0.7
    rows = torch.randn(n_items, 2, generator=rng) * present[:, None]
    content = {"image": Modality(rows, present, content_hash([rows, present]))}
    return Corpus(
        name="toy",
        n_users=n_users,
        n_items=n_items,
        split="official",
        fingerprint="",
        modalities=content,
        **parts,
    )


@settings(max_examples=50, deadline=None)
@given(corpora())
def test_round_trip_keeps_interactions_split_and_features(corpus):
    returned = PygData(corpus.to_pyg(), name="toy").corpus
    assert (returned.n_users, returned.n_items) == (corpus.n_users, corpus.n_items)
    assert returned.split == "official"
    for name in SPLITS:
        before, after = getattr(corpus, name), getattr(returned, name)
        assert torch.equal(before.user, after.user)
        assert torch.equal(before.item, after.item)
        if before.time is None:
            assert after.time is None
        else:
            assert torch.equal(before.time, after.time)
    before, after = corpus.modalities["image"], returned.modalities["image"]
    assert torch.equal(before.features, after.features)
    assert torch.equal(before.present, after.present)
    assert returned.modalities.keys() == {"image"}


def movies(users=60, per_user=6):
    """A graph as PyG's MovieLens data: each user watches movies of one of 3 genres, in order."""
    rng = torch.Generator().manual_seed(0)
    genre = torch.arange(users) % 3
    watched = torch.rand(users, 10, generator=rng).argsort(1)[:, :per_user] * 3 + genre[:, None]
    graph = HeteroData()
    graph["user"].num_nodes = users
    graph["movie"].x = torch.eye(3).repeat(10, 1) + 0.1 * torch.randn(30, 3, generator=rng)
    graph["movie"].x[4] = torch.nan
    edges = graph["user", "rates", "movie"]
    user = torch.arange(users).repeat_interleave(per_user)
    edges.edge_index = torch.stack([user, watched.flatten()])
    edges.time = torch.arange(per_user).flip(0).repeat(users)  # stored from the last to the first
    edges.edge_label = torch.ones(len(user))
    graph["movie", "rev_rates", "user"].edge_index = edges.edge_index.flip(0)
    return graph, watched


@pytest.mark.parametrize("build", [VBPR, partial(FREEDOM, neighbours=3)])
def test_a_model_that_is_trained_on_a_graph_finds_the_genre_of_each_user(build, quiet_trainer):
    graph, watched = movies()
    data = PygData(graph, item="movie", split="leave_one_out", batch_size=64)
    torch.manual_seed(0)
    model = build(data.corpus, dim=8)
    model.optimizer = partial(torch.optim.Adam, lr=0.01)
    model.evaluation = Evaluation(cutoffs=(10,))
    trainer = quiet_trainer(max_epochs=20)
    trainer.fit(model, data)
    (found,) = trainer.test(model, data, verbose=False)
    assert found["test/recall@10"] > 0.9  # 10 of 25 unseen items are .4 by chance
    with torch.no_grad():
        scores = model.eval().score(model.encode(), Queries(torch.arange(60)))  # [U, I]
    last = scores.gather(1, watched[:, :1])  # of the test item
    assert ((scores > last).sum(1) < 10).float().mean() > 0.9


def test_time_orders_interactions_and_other_attributes_are_logged(caplog):
    graph, watched = movies()
    graph["movie"].title = ["a"] * 30
    with caplog.at_level("INFO", logger="mmrec"):
        source = from_pyg(graph, item="movie")
    assert source.interactions.item[:6].tolist() == watched[0].flip(0).tolist()
    assert source.interactions.time[:6].tolist() == [*range(6)]
    assert source.label is None
    (message,) = caplog.messages
    assert "movie.title" in message
    assert "rates.edge_label" in message


def test_a_row_of_nan_is_a_missing_modality():
    source = from_pyg(movies()[0], item="movie")
    x = source.modalities["x"]
    assert (~x.present).nonzero().flatten().tolist() == [4]
    assert not x.features[4].any()
    assert (len(x.features), x.width) == (30, 3)


def test_fingerprint_depends_on_edges_and_features():
    def fingerprint(change):
        graph, _ = movies()
        change(graph)
        return from_pyg(graph, item="movie").fingerprint

    def more_users(graph):
        graph["user"].num_nodes = 61

    def other_edge(graph):
        graph["user", "rates", "movie"].edge_index[1, 0] += 1

    def other_feature(graph):
        graph["movie"].x[0, 0] += 1

    def other_time(graph):
        graph["user", "rates", "movie"].time += 1

    def unchanged(graph):
        pass

    changes = [more_users, other_edge, other_feature, other_time, unchanged]
    assert len({fingerprint(change) for change in changes}) == len(changes)
    assert fingerprint(unchanged) == fingerprint(unchanged)


def rates(graph):
    return graph["user", "rates", "movie"]


def no_users(graph):
    del graph["user"].num_nodes


def second_relation(graph):
    graph["user", "tags", "movie"].edge_index = rates(graph).edge_index


def transposed_edges(graph):
    rates(graph).edge_index = rates(graph).edge_index.T


def float_edges(graph):
    rates(graph).edge_index = rates(graph).edge_index.float()


def unknown_movie(graph):
    rates(graph).edge_index[1, 3] = 30


def negative_user(graph):
    rates(graph).edge_index[0, 3] = -1


def float_time(graph):
    rates(graph).time = rates(graph).time.float()


def short_time(graph):
    rates(graph).time = rates(graph).time[1:]


def infinite_feature(graph):
    graph["movie"].x[7, 1] = torch.inf


def partial_nan(graph):
    graph["movie"].x[7, 1] = torch.nan


def missing_row(graph):
    graph["movie"].num_nodes = 31


def wrong_mask(graph):
    graph["movie"].x_present = torch.ones(30)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (no_users, ["user", "num_nodes"]),
        (second_relation, ["rates", "tags", "edge_type_subgraph"]),
        (transposed_edges, ["rates", "edge_index", "int64 [360, 2]"]),
        (float_edges, ["rates", "edge_index", "float32 [2, 360]"]),
        (unknown_movie, ["rates", "movie", "30", "29"]),
        (negative_user, ["rates", "user", "-1", "59"]),
        (float_time, ["rates", "time", "float32"]),
        (short_time, ["rates", "time", "[359]", "[360]"]),
        (infinite_feature, ["movie", "row 7", "x is infinite"]),
        (partial_nan, ["movie", "row 7", "x is", "NaN"]),
        (missing_row, ["movie", "x is of", "30", "31"]),
        (wrong_mask, ["movie", "x_present is", "float32", "bool"]),
    ],
)
def test_an_invalid_graph_is_refused_and_the_error_names_the_attribute(spoil, named):
    graph, _ = movies()
    spoil(graph)
    with pytest.raises(DataError) as refused:
        from_pyg(graph, item="movie", name="ml")
    for part in ["ml", *named]:
        assert part in str(refused.value)


def test_a_homogeneous_graph_and_a_wrong_node_type_are_refused():
    with pytest.raises(DataError) as homogeneous:
        from_pyg(Data(num_nodes=3))
    assert homogeneous.value.found == "a Data"
    assert homogeneous.value.expected.startswith("a HeteroData")
    graph, _ = movies()
    with pytest.raises(DataError) as unknown:
        from_pyg(graph)
    assert "item nodes" in unknown.value.problem
    for kind in ("user", "movie"):
        assert kind in unknown.value.problem
    assert set(graph.node_types) == {"user", "movie"}  # the graph is not changed


def test_time_of_some_splits_only_is_refused():
    graph, _ = movies()
    edges = rates(graph)
    for split in SPLITS:
        graph["user", split, "movie"].edge_index = edges.edge_index
    graph["user", "test", "movie"].time = edges.time
    del graph["user", "rates", "movie"]
    with pytest.raises(DataError) as error:
        from_pyg(graph, item="movie")
    assert error.value.problem == "time is known for some edge types only"


@pytest.mark.slow
def test_pyg_is_imported_only_where_it_is_used():
    code = "import sys, mmrec.run, mmrec.models; print('torch_geometric' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
