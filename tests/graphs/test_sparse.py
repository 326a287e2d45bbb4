from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.graphs import csr_matrix, elementwise_maximum


@settings(max_examples=50)
@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
def test_the_maximum_is_that_of_dense_matrices_and_stores_every_place_once(seed, count, n, m):
    rng = torch.Generator().manual_seed(seed)
    dense = [
        torch.rand(n, m, generator=rng) * (torch.rand(n, m, generator=rng) < 0.4)
        for _ in range(count)
    ]
    sparse = []
    for matrix in dense:
        row, column = matrix.nonzero().unbind(1)
        sparse.append(csr_matrix(row, column, matrix[row, column], (n, m)))
    expected = torch.stack(dense).amax(0)
    found = elementwise_maximum(sparse)
    assert torch.equal(found.to_dense(), expected)
    assert len(found.values()) == expected.count_nonzero()
    assert found.col_indices().dtype == torch.int32
