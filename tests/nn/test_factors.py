import pytest
import torch

from mmrec.data import Interactions
from mmrec.nn import factors, weighted_factors


def drawn(seed=0, n_users=9, n_items=7, share=0.4):
    generator = torch.Generator().manual_seed(seed)
    seen = torch.rand(n_users, n_items, generator=generator) < share
    seen[:, 3] = False  # an item that nobody has
    user, item = seen.nonzero(as_tuple=True)
    return Interactions(user, item), seen.float()


def objective(seen, users, items, alpha, l2):
    confidence = 1 + alpha * seen
    wrong = (confidence * (seen - users @ items.T) ** 2).sum()
    return wrong + l2 * (users.square().sum() + items.square().sum())


@pytest.mark.parametrize("dim", [2, 3, 6])  # rows of fewer and of more entries than that
@pytest.mark.parametrize("block", [1, 12, 8192])
def test_solved_factors_are_where_the_objective_is_flat(dim, block, monkeypatch):
    monkeypatch.setattr(factors, "BLOCK", block)
    train, seen = drawn()
    users, items = weighted_factors(train, 9, 7, dim, alpha=4.0, l2=0.5, rounds=500)
    users, items = users.double().requires_grad_(), items.double().requires_grad_()
    objective(seen.double(), users, items, 4.0, 0.5).backward()
    assert users.grad.abs().max() < 1e-3
    assert items.grad.abs().max() < 1e-3


def test_more_rounds_only_lower_the_objective():
    train, seen = drawn(1)
    values = [
        objective(seen, *weighted_factors(train, 9, 7, 3, alpha=4.0, l2=0.5, rounds=n), 4.0, 0.5)
        for n in (1, 2, 4, 8)
    ]
    assert values == sorted(values, reverse=True)


def test_an_item_that_nobody_has_is_zero():
    train, _ = drawn()
    assert not weighted_factors(train, 9, 7, 3)[1][3].any()


def test_the_same_seed_gives_the_same_factors():
    train, _ = drawn()
    one, two = (weighted_factors(train, 9, 7, 3, seed=5) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
