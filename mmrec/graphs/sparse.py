"""Sparse matrices from edge lists."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor


def csr_matrix(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Create a CSR matrix from its entries.

    Indices are int32 if they fit, which makes products several times faster on a CPU.

    Args:
        row: [N] int64.
        column: [N] int64; each (row, column) pair must be unique.
        value: [N].
        shape: shape of the matrix.

    Returns:
        Sparse CSR matrix with ascending columns in each row.
    """
    rows, columns = shape
    key, order = (row * columns + column).sort()
    start = torch.zeros(rows + 1, dtype=torch.int64, device=row.device)
    torch.cumsum(torch.bincount(row, minlength=rows), 0, out=start[1:])
    fits = max(rows, columns, len(row)) <= torch.iinfo(torch.int32).max
    index_type = torch.int32 if fits else torch.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            start.to(index_type),
            (key % columns).to(index_type),
            value[order],
            shape,
            check_invariants=True,
        )


def symmetric_normalization(row: Tensor, column: Tensor, value: Tensor, size: int) -> Tensor:
    """Divide entries of a square matrix by `sqrt(d_row d_column)`, where d holds the row sums.

    Args:
        row: [N] int64.
        column: [N] int64.
        value: [N], at least 0.
        size: number of rows of the matrix.

    Returns:
        Normalised values in the precision of `value`, [N]; 0 if the sum of the row or column is 0.
    """
    degree = value.new_zeros(size).index_add_(0, row, value)
    scale = degree.rsqrt().masked_fill(degree == 0, 0.0)
    return value * (scale[row] * scale[column])


def elementwise_maximum(matrices: Sequence[Tensor]) -> Tensor:
    """Return the element-wise maximum of sparse matrices.

    Args:
        matrices: sparse CSR matrices of equal shape, with non-negative entries.

    Returns:
        Sparse CSR matrix of the same shape.
    """
    rows, columns = matrices[0].shape
    keys, values = [], []
    for matrix in matrices:
        row, column = matrix.to_sparse().indices()
        keys.append(row * columns + column)
        values.append(matrix.values())
    key, place = torch.unique(torch.cat(keys), return_inverse=True)
    value = torch.cat(values)
    largest = value.new_zeros(len(key)).scatter_reduce_(0, place, value, "amax")
    return csr_matrix(key // columns, key % columns, largest, (rows, columns))
