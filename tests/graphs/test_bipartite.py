from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.data.corpus import Interactions, TrainingView
from mmrec.graphs import (
    csr_matrix,
    degree_weights,
    interaction_block,
    joint_adjacency,
    mean_adjacency,
    normalized_adjacency,
    normalized_interactions,
    sample_edges,
    sampled_adjacency,
)

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))


@st.composite
def graphs(draw):
    n_users, n_items = draw(SHAPES)
    pair = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
    pairs = draw(st.lists(pair, unique=True, min_size=1))
    user, item = torch.tensor(pairs).T
    return Interactions(user, item), n_users, n_items


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_adjacency_is_one_over_the_root_of_both_degrees(graph):
    interactions, n_users, n_items = graph
    size = n_users + n_items
    plain = torch.zeros(size, size)
    for user, item in zip(interactions.user.tolist(), interactions.item.tolist(), strict=True):
        plain[user, n_users + item] = plain[n_users + item, user] = 1
    expected = torch.zeros(size, size)
    for a in range(size):
        for b in range(size):
            if plain[a, b]:
                expected[a, b] = 1 / (plain[a].sum() * plain[b].sum()).sqrt()
    adjacency = normalized_adjacency(interactions, n_users, n_items)
    torch.testing.assert_close(adjacency.to_dense(), expected)
    assert torch.equal(adjacency.to_dense(), adjacency.to_dense().T)


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_mean_adjacency_averages_neighbours(graph):
    interactions, n_users, n_items = graph
    x = torch.randn(n_users + n_items, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros_like(x)
    for user in range(n_users):
        if len(items := interactions.item[interactions.user == user]):
            expected[user] = x[n_users + items].mean(0)
    for item in range(n_items):
        if len(users := interactions.user[interactions.item == item]):
            expected[n_users + item] = x[users].mean(0)
    torch.testing.assert_close(mean_adjacency(*graph) @ x, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyG's import
@settings(max_examples=30, deadline=None)
@given(graphs())
def test_adjacency_agrees_with_gcn_norm(graph):
    interactions, n_users, n_items = graph
    size = n_users + n_items
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    user, item = interactions.user, interactions.item + n_users
    edges = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
    edges, weight = gcn_norm(edges, num_nodes=size, add_self_loops=False)
    expected = torch.zeros(size, size).index_put_((edges[0], edges[1]), weight)
    torch.testing.assert_close(normalized_adjacency(*graph).to_dense(), expected)


@settings(max_examples=30, deadline=None)
@given(graphs(), st.randoms(use_true_random=False))
def test_renaming_users_and_items_renames_the_nodes(graph, random):
    interactions, n_users, n_items = graph
    users = torch.tensor(random.sample(range(n_users), n_users))
    items = torch.tensor(random.sample(range(n_items), n_items))
    renamed = Interactions(users[interactions.user], items[interactions.item])
    nodes = torch.cat([users, items + n_users])
    adjacency = normalized_adjacency(interactions, n_users, n_items).to_dense()
    moved = normalized_adjacency(renamed, n_users, n_items).to_dense()
    assert torch.equal(moved[nodes][:, nodes], adjacency)


def test_matrix_has_narrow_indices_sorted_columns_and_empty_rows():
    matrix = csr_matrix(
        torch.tensor([2, 0, 2]), torch.tensor([3, 1, 0]), torch.tensor([5.0, 6.0, 7.0]), (4, 5)
    )
    assert matrix.crow_indices().tolist() == [0, 1, 1, 3, 3]
    assert matrix.col_indices().tolist() == [1, 0, 3]
    assert matrix.values().tolist() == [6.0, 7.0, 5.0]
    assert matrix.col_indices().dtype == matrix.crow_indices().dtype == torch.int32


def test_indices_are_wide_where_narrow_ones_do_not_fit():
    column = torch.tensor([2**31])
    matrix = csr_matrix(torch.tensor([0]), column, torch.ones(1), (1, 2**31 + 1))
    assert torch.equal(matrix.col_indices(), column)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.floats(0.01, 1), st.integers(0, 2**31))
def test_a_draw_has_the_exact_count_and_no_edge_twice(n_edges, keep, seed):
    count = int(n_edges * keep)
    if not count:
        return
    rows = sample_edges(n_edges, keep, generator=torch.Generator().manual_seed(seed))
    assert len(rows) == count
    assert (rows.diff() > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < n_edges
    again = sample_edges(n_edges, keep, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(rows, again)


def test_each_edge_survives_as_often_as_its_weight_says():
    """Draws of 2 from weights 1, 2, 5: P(i, j) = w_i/8 w_j/(8-w_i) + w_j/8 w_i/(8-w_j)."""
    weights, draws = torch.tensor([1.0, 2.0, 5.0]), 4000
    generator = torch.Generator().manual_seed(0)
    count = torch.zeros(3)
    for _ in range(draws):
        count[sample_edges(3, 0.67, generator=generator, weights=weights)] += 1
    pair = {
        (i, j): weights[i] / 8 * weights[j] / (8 - weights[i])
        + weights[j] / 8 * weights[i] / (8 - weights[j])
        for i, j in [(0, 1), (0, 2), (1, 2)]
    }
    expected = torch.tensor([sum(p for edge, p in pair.items() if i in edge) for i in range(3)])
    assert (count / draws - expected).abs().max() < 0.03


def test_edges_of_busy_nodes_weigh_less():
    star = Interactions(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 2]))
    expected = torch.tensor([3.0, 3.0, 6.0, 2.0]).rsqrt()
    torch.testing.assert_close(degree_weights(star), expected)


@pytest.mark.parametrize("keep", [0.0, 0.001, 1.5, -1.0])
def test_a_draw_that_cannot_be_is_refused(keep):
    with pytest.raises(ValueError, match=rf"keep must be at most 1.*found {keep} of 100 edges"):
        sample_edges(100, keep)


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_normalized_interactions_are_a_block_of_the_adjacency(graph):
    _, n_users, _ = graph
    block = normalized_adjacency(*graph).to_dense()[:n_users, n_users:]
    torch.testing.assert_close(normalized_interactions(*graph).to_dense(), block)


@settings(max_examples=30, deadline=None)
@given(graphs(), st.integers(0, 99), st.sampled_from([0.1, 1.0, 3.0]))
def test_joint_adjacency_equals_the_normalised_dense_matrix(graph, seed, weight):
    interactions, n_users, n_items = graph
    similarity = torch.rand(n_items, n_items, generator=torch.Generator().manual_seed(seed))
    similarity = similarity * (similarity > 0.5)
    size = n_users + n_items
    plain = torch.zeros(size, size)
    plain[interactions.user, n_users + interactions.item] = 1
    plain = plain + plain.T
    plain[n_users:, n_users:] = weight * similarity
    scale = plain.sum(1).pow(-0.5).nan_to_num(posinf=0.0)
    row, column = similarity.nonzero().T
    matrix = csr_matrix(row, column, similarity[row, column], (n_items, n_items))
    found = joint_adjacency(interactions, n_users, n_items, matrix, weight)
    torch.testing.assert_close(found.to_dense(), scale[:, None] * plain * scale)


def test_sampled_adjacency_is_normalised_by_the_degrees_left():
    user, item = torch.arange(60) % 6, torch.arange(60) % 10
    interactions = Interactions(*torch.unique(torch.stack([user, item]), dim=1))
    corpus = TrainingView(
        name="any", n_users=6, n_items=10, train=interactions, split="any", fingerprint="any"
    )
    found = sampled_adjacency(
        corpus, 0.4, generator=torch.Generator().manual_seed(1), by_degree=True
    )
    rows, columns = found.to_dense()[:6, 6:].nonzero().T
    assert len(rows) == int(0.4 * len(interactions))
    kept = Interactions(rows, columns)
    torch.testing.assert_close(found.to_dense(), normalized_adjacency(kept, 6, 10).to_dense())


@settings(max_examples=20, deadline=None)
@given(graphs())
def test_the_block_of_interactions_is_the_upper_right_one(graph):
    interactions, n_users, n_items = graph
    items = csr_matrix(
        torch.arange(n_items), torch.arange(n_items).roll(1), torch.ones(n_items), (n_items,) * 2
    )
    for adjacency in (
        normalized_adjacency(interactions, n_users, n_items),
        joint_adjacency(interactions, n_users, n_items, items),
    ):
        block = interaction_block(adjacency, n_users)
        assert block.shape == (n_users, n_items)
        assert torch.equal(block.to_dense(), adjacency.to_dense()[:n_users, n_users:])
