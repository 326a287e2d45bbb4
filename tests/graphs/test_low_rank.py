from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.graphs import csr_matrix, truncated_svd


def random_matrix(seed, rows=9, columns=7):
    rng = torch.Generator().manual_seed(seed)
    dense = torch.rand(rows, columns, generator=rng)
    dense *= torch.rand(rows, columns, generator=rng) < 0.5
    row, column = dense.nonzero().unbind(1)
    return dense, csr_matrix(row, column, dense[row, column], (rows, columns))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 6))
def test_it_keeps_the_largest_singular_values(seed, rank):
    dense, sparse = random_matrix(seed)
    u, s, vt = torch.linalg.svd(dense.double(), full_matrices=False)
    found = truncated_svd(sparse, rank)
    expected = (u[:, :rank] * s[:rank]) @ vt[:rank]
    torch.testing.assert_close(found.left @ found.right.T, expected.float(), atol=1e-5, rtol=1e-5)
    for factor in found:
        gram = factor.T @ factor
        torch.testing.assert_close(gram, s[:rank].float().diag(), atol=1e-5, rtol=1e-5)


def test_the_same_matrix_has_the_same_factors():
    first, second = (truncated_svd(random_matrix(0)[1], 3) for _ in range(2))
    assert torch.equal(first.left, second.left)
    assert torch.equal(first.right, second.right)


@pytest.mark.parametrize("rank", [0, 7])
def test_a_rank_that_is_not_below_both_sizes_is_refused(rank):
    with pytest.raises(
        ValueError, match=rf"rank must be from 1 to 6 for a matrix of 9 x 7, found {rank}"
    ):
        truncated_svd(random_matrix(0)[1], rank)
