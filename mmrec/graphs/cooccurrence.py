"""Which items are found together in the histories of users."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmrec.data.corpus import Interactions
from mmrec.graphs.sparse import csr_matrix

BLOCK = 2048  # items whose counts are in memory at a time


def cooccurrence_similarity(
    interactions: Interactions, n_users: int, n_items: int, k: int, shrinkage: float = 0.0
) -> Tensor:
    """Similarity of items by the users that they share, `n_ij / sqrt((n_i + s)(n_j + s))`.

    n_ij counts users who have both items, n_i those who have one; without shrinkage s it is the
    cosine of their columns in the binary user-item matrix.

    Args:
        interactions: of users with items; a pair counts once.
        n_users: U.
        n_items: I.
        k: most similar items that are kept of each item; of equals, those of lower index.
        shrinkage: s, 0 or more. It makes similarities of rare items smaller.

    Returns:
        [I, I] sparse CSR, directed: column i holds what is similar to item i, so that the product
        with the weights of items sums over them. Zero diagonal.
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
    """The entries of a sparse matrix that are among the k largest of their rows."""
    order = torch.from_numpy(np.lexsort((column.numpy(), -value.numpy(), row.numpy())))
    row, column, value = row[order], column[order], value[order]
    length = torch.bincount(row)
    kept = torch.arange(len(row)) - (length.cumsum(0) - length)[row] < k
    return row[kept], column[kept], value[kept]
