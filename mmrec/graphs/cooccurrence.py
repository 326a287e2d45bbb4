"""Item similarity from co-occurrence in user histories."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmrec.data.corpus import Interactions
from mmrec.graphs.sparse import csr_matrix

BLOCK = 2048  # items processed at a time


def cooccurrence_similarity(
    interactions: Interactions, n_users: int, n_items: int, k: int, shrinkage: float = 0.0
) -> Tensor:
    """Return co-occurrence similarities of items, `n_ij / sqrt((n_i + s)(n_j + s))`.

    n_ij is the number of users with both items, and n_i the number of users with item i. Without
    shrinkage s, this is the cosine of the columns of the binary user-item matrix.

    Args:
        interactions: user-item pairs; repeated pairs count once.
        n_users: number of users U.
        n_items: number of items I.
        k: number of most similar items kept per item; ties are resolved by lower index.
        shrinkage: shrinkage s, at least 0, which lowers the similarities of rare items.

    Returns:
        [I, I] sparse CSR, directed, with zero diagonal. Column i holds the neighbours of item i, so
        that the product with item weights sums over neighbours.
    """
    from scipy import sparse

    codes = torch.unique(interactions.user * n_items + interactions.item)
    user, item = codes // n_items, codes % n_items
    ones = torch.ones(len(codes), dtype=torch.float32)
    has = sparse.csr_matrix((ones.numpy(), (user.numpy(), item.numpy())), (n_users, n_items))
    users_of = has.T.tocsr()
    scale = (torch.bincount(item, minlength=n_items).double() + shrinkage).rsqrt()  # [I]
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, n_items, BLOCK):
        counts = (users_of[start : start + BLOCK] @ has).tocoo()
        row, column = (torch.from_numpy(x).long() for x in (counts.row, counts.col))
        row += start
        value = torch.from_numpy(counts.data).double() * scale[row] * scale[column]
        other = row != column
        found.append(_largest(row[other], column[other], value[other], k))
    row, column, value = (torch.cat(part) for part in zip(*found, strict=True))
    return csr_matrix(column, row, value.float(), (n_items, n_items))


def _largest(row: Tensor, column: Tensor, value: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k largest entries of each row of a sparse matrix."""
    order = torch.from_numpy(np.lexsort((column.numpy(), -value.numpy(), row.numpy())))
    row, column, value = row[order], column[order], value[order]
    length = torch.bincount(row)
    kept = torch.arange(len(row)) - (length.cumsum(0) - length)[row] < k
    return row[kept], column[kept], value[kept]
