"""Low-rank approximations of sparse matrices.

Shapes: N rows, M columns, r rank.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Factors(NamedTuple):
    """A low-rank matrix `left @ right.T`.

    Attributes:
        left: left factor, [N, r].
        right: right factor, [M, r].
    """

    left: Tensor
    right: Tensor


def truncated_svd(matrix: Tensor, rank: int) -> Factors:
    """Compute the best low-rank approximation of a sparse matrix.

    Neither the matrix nor its approximation is stored densely. The result is deterministic.

    Args:
        matrix: [N, M] sparse CSR.
        rank: number r of largest singular values to keep, below N and M.

    Returns:
        `U sqrt(S)` and `V sqrt(S)` in float32, with singular values in descending order.

    Raises:
        ValueError: `rank` is not from 1 to min(N, M) - 1.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    n, m = matrix.shape
    if not 1 <= rank < min(n, m):
        raise ValueError(
            f"rank must be from 1 to {min(n, m) - 1} for a matrix of {n} x {m}, found {rank}"
        )
    values = matrix.values().double().numpy()
    columns, rows = matrix.col_indices().numpy(), matrix.crow_indices().numpy()
    sparse = csr_array((values, columns, rows), shape=(n, m))
    factors: tuple[np.ndarray, np.ndarray, np.ndarray] = svds(sparse, k=rank, rng=0)
    left, singular, right = factors
    order = singular.argsort()[::-1]
    root = np.sqrt(singular[order].clip(0))
    return Factors(
        torch.from_numpy(left[:, order] * root).float(),
        torch.from_numpy(right[order].T * root).float(),
    )
