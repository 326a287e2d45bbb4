from __future__ import annotations

import pytest
import torch

from mmrec.graphs import normalized_interactions
from mmrec.nn import InteractionEdges, edge_softmax


@pytest.fixture
def edges(small_corpus):
    corpus = small_corpus()
    return InteractionEdges(normalized_interactions(corpus.train, corpus.n_users, corpus.n_items))


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("masked", [False, True])
def test_softmax_of_each_node_and_its_gradient_equal_loops(masked, rng):
    node = torch.tensor([2, 0, 2, 4, 0, 2, 4])  # node 1 and 3 have no edge
    mask = torch.tensor([True, False, True, False, True, True, False]) if masked else None
    ours = (50 * torch.randn(7, generator=rng)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    towards = torch.randn(7, generator=rng)
    found, total = edge_softmax(ours, node, 5, mask), torch.zeros(())
    for n in range(5):
        of_node = (node == n) & (mask if masked else True)
        expected = theirs[of_node].softmax(0)
        torch.testing.assert_close(found[of_node], expected)
        total = total + (expected * towards[of_node]).sum()
    if masked:
        assert not found[~mask].any()
    (found * towards).sum().backward()
    total.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_sums_and_dots_follow_the_edges_in_both_directions(edges, rng):
    n_users, n_items = edges.users.matrix.shape
    users = torch.randn(n_users, 3, generator=rng)
    items = torch.randn(n_items, 3, generator=rng)
    weights = torch.rand(len(edges.user), generator=rng)
    pairs = [*zip(edges.user.tolist(), edges.item.tolist(), strict=True)]
    assert pairs == sorted(pairs)
    torch.testing.assert_close(
        edges.dots(users, items), torch.stack([users[u] @ items[i] for u, i in pairs])
    )
    of_users, of_items = torch.zeros(n_users, 3), torch.zeros(n_items, 3)
    for (u, i), weight in zip(pairs, weights, strict=True):
        of_users[u] += weight * items[i]
        of_items[i] += weight * users[u]
    torch.testing.assert_close(edges.to_users(weights, items), of_users)
    torch.testing.assert_close(edges.to_items(weights, users), of_items)


def test_each_side_has_its_own_softmax(edges, rng):
    logits = torch.randn(len(edges.user), generator=rng)
    mask = edges.item != 3
    n_users, n_items = edges.users.matrix.shape
    of_users = edges.user_softmax(logits, mask)
    of_items = edges.item_softmax(logits, mask)
    for user in range(n_users):
        torch.testing.assert_close(of_users[edges.user == user].sum(), torch.tensor(1.0))
    for item in range(n_items):
        total = of_items[edges.item == item].sum()
        torch.testing.assert_close(total, torch.tensor(0.0 if item == 3 else 1.0))
