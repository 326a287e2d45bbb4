"""Entropies and balance losses of gates, computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mmrec.nn import entropies, even_gates, imbalance


def equal(gates):
    return torch.full_like(gates, 1 / gates.shape[1])


def test_entropies_of_gates_computed_by_hand():
    sure = torch.eye(4)
    pair, load = entropies(sure, equal(sure))
    assert float(pair) == pytest.approx(0, abs=1e-6)
    assert float(load) == pytest.approx(1)
    two = torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 3)
    pair, load = entropies(two, equal(two))
    assert float(pair) == pytest.approx(math.log(2) / math.log(4))
    assert float(load) == pytest.approx(math.log(2) / math.log(4))
    pair, load = entropies(torch.ones(3, 1), torch.ones(3, 1))
    assert float(pair) == float(load) == 0


def test_entropies_are_over_what_rows_have():
    gates = torch.tensor([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.0] * 4])
    even = even_gates(gates > 0)
    torch.testing.assert_close(even, gates)
    pair, load = entropies(gates, even)
    assert float(pair) == float(load) == pytest.approx(1)  # nothing is decided, all is shared
    gates[1] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    pair, load = entropies(gates, even)
    assert float(pair) == pytest.approx(0.5)
    apart = 0.625 * math.log(0.625 / 0.375) + 0.125 * math.log(0.125 / 0.375)
    assert float(load) == pytest.approx(1 - apart / math.log(8))


def test_a_rare_expert_with_more_than_its_share_is_not_more_than_even():
    even = even_gates(torch.tensor([[True, False]] * 8 + [[True, True]] * 2))
    rare = torch.tensor([[1.0, 0.0]] * 8 + [[0.0, 1.0]] * 2)
    pair, load = entropies(rare, even)
    assert float(pair) == 0  # of the two rows that have a choice
    assert 0.9 < float(load) < 1
    assert float(entropies(even, even)[0]) == float(entropies(even, even)[1]) == pytest.approx(1)


def test_imbalance_of_gates_computed_by_hand():
    assert imbalance(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == 0
    # Shares of .75 and .25: half of log(.5 / .75), half of log(.5 / .25).
    found = imbalance(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    torch.testing.assert_close(found, torch.tensor((0.4054651 * -0.5) + (0.6931472 * 0.5)))


def test_imbalance_pulls_at_an_expert_that_is_nearly_gone_where_the_entropy_does_not():
    def pull(loss, far=9.0):
        logits = torch.tensor([[0.0, 0.0, -far]], requires_grad=True)
        loss(logits.softmax(-1)).backward()
        return -float(logits.grad[0, 2])

    assert pull(imbalance) > 0.3
    assert pull(imbalance, far=40.0) == pytest.approx(1 / 3)
    assert 0 < pull(lambda gates: 1 - entropies(gates, equal(gates))[1]) < 0.01


def test_imbalance_has_finite_gradients_where_no_pair_wants_an_expert():
    gates = torch.tensor([[1.0, 0.0]], requires_grad=True)
    imbalance(gates).backward()
    assert gates.grad.isfinite().all()


def test_imbalance_of_what_nobody_has_is_nothing():
    gates = torch.rand(4, 2, requires_grad=True)
    nobody = torch.zeros(4, dtype=torch.bool)
    found = imbalance(gates.softmax(-1), nobody)
    found.backward()
    assert found == 0
    assert gates.grad.isfinite().all()


def test_entropies_have_finite_gradients_where_gates_vanish():
    gates = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    sum(entropies(gates, equal(gates))).backward()
    assert gates.grad.isfinite().all()
