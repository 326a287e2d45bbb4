from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.graphs import csr_matrix
from mmrec.nn import LowRankPropagation, Propagation, blended_rows, take_rows


def symmetric(seed, n=6):
    """A random symmetric matrix, half of it empty, dense and sparse."""
    rng = torch.Generator().manual_seed(seed)
    dense = torch.rand(n, n, generator=rng) * (torch.rand(n, n, generator=rng) < 0.4)
    dense = (dense + dense.T) / 2
    row, column = dense.nonzero().unbind(1)
    return dense, csr_matrix(row, column, dense[row, column], (n, n))


def mean_of_powers(dense, x, layers):
    powers = [torch.linalg.matrix_power(dense, n) @ x for n in range(layers + 1)]
    return torch.stack(powers).mean(0)


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(0, 4))
def test_it_is_the_mean_of_matrix_powers_and_so_is_its_gradient(seed, layers):
    dense, sparse = symmetric(seed)
    rng = torch.Generator().manual_seed(seed)
    x, towards = (torch.randn(6, 3, generator=rng) for _ in range(2))
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = Propagation(sparse, layers)(one), mean_of_powers(dense, other, layers)
    torch.testing.assert_close(found, expected)
    (found * towards).sum().backward()
    (expected * towards).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(0, 4))
def test_rows_and_their_gradient_are_those_of_the_whole(seed, layers):
    sparse = symmetric(seed)[1]
    rng = torch.Generator().manual_seed(seed)
    x, towards = torch.randn(6, 3, generator=rng), torch.randn(4, 2, 3, generator=rng)
    index = torch.randint(6, (4, 2), generator=rng)  # with repetitions
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    propagate = Propagation(sparse, layers)
    found, expected = propagate.rows(one, index), propagate(other)[index]
    torch.testing.assert_close(found, expected)
    for rows in (found, expected):
        (rows * towards).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_signal_itself_is_left_alone(layers):
    x = torch.ones(6, 2)
    Propagation(symmetric(0)[1], layers)(x)
    assert torch.equal(x, torch.ones(6, 2))


def test_half_precision_is_only_around_it():
    dense, sparse = symmetric(1)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Propagation(sparse, 2)(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mean_of_powers(dense, x.bfloat16().float(), 2))


def test_the_graph_is_no_part_of_a_checkpoint():
    assert Propagation(symmetric(0)[1], 2).state_dict() == {}


def test_fewer_than_no_steps_are_refused():
    with pytest.raises(ValueError, match="layers must be at least 0, found -1"):
        Propagation(symmetric(0)[1], -1)


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(0, 3))
def test_blended_rows_are_a_weighted_sum_and_so_are_their_gradients(seed, layers):
    generator = torch.Generator().manual_seed(seed)
    pairs = [symmetric(seed), symmetric(seed + 1)]
    index = torch.randint(6, (4, 3), generator=generator)  # with repetitions
    ours, theirs = (torch.randn(6, 4, generator=generator).requires_grad_() for _ in range(2))
    theirs.data.copy_(ours.data)
    share, other = (torch.tensor([0.3, 0.7], requires_grad=True) for _ in range(2))
    parts = [Propagation(sparse, layers) for _, sparse in pairs]
    found = blended_rows(parts, share, ours, index, [take_rows(s, index) for _, s in pairs])
    expected = sum(
        weight * mean_of_powers(dense, theirs, layers)[index]
        for weight, (dense, _) in zip(other, pairs, strict=True)
    )
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=generator)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    if layers:  # without a product the weights, which sum to one, have nothing to choose
        torch.testing.assert_close(share.grad, other.grad)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_a_graph_of_low_rank_propagates_as_its_dense_matrix(layers):
    rng = torch.Generator().manual_seed(0)
    left, right = torch.rand(4, 2, generator=rng), torch.rand(5, 2, generator=rng)
    dense = torch.zeros(9, 9)
    dense[:4, 4:] = left @ right.T
    dense += dense.T.clone()
    one = torch.randn(9, 3, generator=rng, requires_grad=True)
    other = one.detach().clone().requires_grad_()
    found = LowRankPropagation(left, right, layers)(one)
    expected = mean_of_powers(dense, other, layers)
    torch.testing.assert_close(found, expected)
    towards = torch.randn(9, 3, generator=rng)
    (found * towards).sum().backward()
    (expected * towards).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_a_negative_number_of_layers_is_refused_for_low_rank():
    with pytest.raises(ValueError, match="layers must be at least 0, found -1"):
        LowRankPropagation(torch.ones(2, 1), torch.ones(3, 1), -1)
