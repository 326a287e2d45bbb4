from __future__ import annotations

import pytest
import torch

from mmrec.data import Triplets
from mmrec.graphs import csr_matrix
from mmrec.nn import ModalityViews, ViewFusion, contrast_views
from mmrec.nn.lookup import pairs_with_negatives

USERS, ITEMS, D = 4, 5, 3


def sparse(dense):
    row, column = dense.nonzero().unbind(1)
    return csr_matrix(row, column, dense[row, column], tuple(dense.shape))


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def graphs(rng):
    """Directed item graphs in which item 0 has no view 0, and item 1 neither of the two."""
    dense = [torch.rand(ITEMS, ITEMS, generator=rng) for _ in range(2)]
    dense[0][:2], dense[0][:, :2] = 0, 0
    dense[1][1], dense[1][:, 1] = 0, 0
    return dense


@pytest.fixture
def interactions():
    """User 0 has items 2 and 3, user 1 item 0, user 2 item 1 and user 3 nothing."""
    dense = torch.zeros(USERS, ITEMS)
    dense[0, 2], dense[0, 3], dense[1, 0], dense[2, 1] = 0.5, 0.3, 1.0, 0.7
    return dense


PRESENT = [[1, 1], [0, 1], [0, 0], [0, 0], [0, 1], [0, 0], [1, 1], [1, 1], [1, 1]]


@pytest.mark.parametrize("layers", [1, 2])
def test_views_equal_dense_algebra(graphs, interactions, rng, layers):
    views = ModalityViews([*map(sparse, graphs)], sparse(interactions), D, layers=layers)
    ids = torch.randn(ITEMS, D, generator=rng)
    content = [torch.randn(ITEMS, D, generator=rng) for _ in graphs]
    expected = []
    for graph, shown, gate in zip(graphs, content, views.gates, strict=True):
        gated = ids / (1 + torch.exp(-(shown @ gate.weight.T + gate.bias)))
        items = torch.linalg.matrix_power(graph, layers) @ gated
        expected.append(torch.cat([interactions @ items, items]))
    found = views(ids, content)
    torch.testing.assert_close(found, torch.stack(expected, 1))
    assert torch.equal(views.present, torch.tensor(PRESENT, dtype=torch.bool))
    assert not found[~views.present].any()


def test_rows_of_views_and_their_gradients_are_those_of_all_nodes(graphs, interactions, rng):
    views = ModalityViews([*map(sparse, graphs)], sparse(interactions), D)
    user, item = torch.tensor([0, 3, 0]), torch.tensor([2, 2])
    towards = torch.randn(5, 2, D, generator=rng)
    content = [torch.randn(ITEMS, D, generator=rng) for _ in graphs]
    tables = [torch.ones(ITEMS, D, requires_grad=True) for _ in range(2)]
    one = views.rows(tables[0], content, user, item)
    other = views(tables[1], content)[torch.cat([user, USERS + item])]
    torch.testing.assert_close(one, other)
    (one * towards).sum().backward()
    (other * towards).sum().backward()
    torch.testing.assert_close(tables[0].grad, tables[1].grad)


@pytest.mark.parametrize("count", [2, 3])
def test_fusion_equals_the_formula_for_each_node(rng, count):
    fuse = ViewFusion(count, D)
    present = torch.rand(6, count, generator=rng) < 0.6
    present[0], present[1] = True, False
    views = torch.randn(6, count, D, generator=rng) * present.unsqueeze(-1)
    behaviour = torch.randn(6, D, generator=rng)
    found = fuse(views, behaviour, present)
    (first, _, last), gate = fuse.query, fuse.gate
    for n in range(6):
        have = [v for v in range(count) if present[n, v]]
        logits = [
            torch.tanh(first.weight @ views[n, v] + first.bias) @ last.weight[0] for v in have
        ]
        weights = torch.stack(logits).exp() if have else torch.zeros(0)
        weights = weights / weights.sum()
        common = sum((w * views[n, v] for w, v in zip(weights, have, strict=True)), torch.zeros(D))
        total = common
        for w, v in zip(weights, have, strict=True):
            part = slice(v * D, (v + 1) * D)
            g = torch.sigmoid(gate.weight[part] @ behaviour[n] + gate.bias[part])
            total = total + g * (views[n, v] - common)
            torch.testing.assert_close(found.attention[n, v], w)
            torch.testing.assert_close(found.gates[n, v], g)
        torch.testing.assert_close(found.vectors[n], total / (len(have) + 1))
    assert not found.attention[~present].any()
    assert not found.gates[~present].any()


def test_renaming_views_changes_no_attention(rng):
    fuse = ViewFusion(2, D)
    views, present = torch.randn(4, 2, D, generator=rng), torch.ones(4, 2, dtype=torch.bool)
    behaviour = torch.randn(4, D, generator=rng)
    found, turned = (fuse(x, behaviour, present).attention for x in (views, views.flip(1)))
    torch.testing.assert_close(turned, found.flip(1))


def test_a_single_view_has_nothing_specific(rng):
    fuse = ViewFusion(1, D)
    views, present = torch.randn(4, 1, D, generator=rng), torch.tensor([[1], [1], [0], [1]]) > 0
    found = fuse(views, views[:, 0], present)
    torch.testing.assert_close(found.vectors, views[:, 0] / 2)
    assert torch.equal(found.attention, present.float())
    assert not found.gates.any()
    assert not [*fuse.parameters()]


@pytest.mark.parametrize("masked", [False, True])
def test_contrast_of_users_and_positives_leaves_out_nodes_without_a_view(rng, masked):
    batch = Triplets(torch.tensor([0, 2]), torch.tensor([1, 4]), torch.tensor([[2], [3]]))
    index = pairs_with_negatives(batch)
    views, behaviour = (torch.randn(6, D, generator=rng) for _ in range(2))
    viewed = torch.tensor([True, False, True, True, True, False])  # user 2 has no view
    found = contrast_views(index, views, behaviour, 0.5, viewed if masked else None)
    expected = torch.zeros(())
    for rows in ([0] if masked else [0, 1], [2, 4]):  # users; positives, each before its negative
        terms = []
        for n in rows:
            alike = {m: torch.cosine_similarity(views[n], behaviour[m], 0) / 0.5 for m in rows}
            terms.append(torch.logsumexp(torch.stack([*alike.values()]), 0) - alike[n])
        expected += torch.stack(terms).mean()
    torch.testing.assert_close(found, expected)
