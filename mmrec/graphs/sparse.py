"""Sparse matrices from edge lists."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def csr_matrix(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix with the given entries.

    Indices are int32 where they fit: products are then several times faster on a CPU.

    Args:
        row: [N] int64.
        column: [N] int64; no (row, column) pair twice.
        value: [N].
        shape: of the matrix.

    Returns:
        Sparse CSR, columns ascending within each row.
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
