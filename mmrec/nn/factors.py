"""Closed-form matrix factorization.

Shapes: U users, I items, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrec.config.bars import steps
from mmrec.data import Interactions

BLOCK = 2**16  # entries solved at a time; a few [BLOCK, D] matrices are in memory


@torch.no_grad()
def weighted_factors(
    train: Interactions,
    n_users: int,
    n_items: int,
    dim: int,
    *,
    alpha: float = 20.0,
    l2: float = 1.0,
    rounds: int = 10,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Factorize implicit feedback by alternating least squares.

    Hu, Koren and Volinsky, ICDM 2008. https://doi.org/10.1109/ICDM.2008.22

    Minimises `sum_ui c_ui (r_ui - <x_u, y_i>)^2 + l2 (|X|^2 + |Y|^2)`, with `r = 1` and
    `c = 1 + alpha` for interactions, and `r = 0` and `c = 1` for all other pairs. Users and items
    without interactions have a row of zeros.

    Args:
        train: training interactions.
        n_users: number of users U.
        n_items: number of items I.
        dim: embedding size D.
        alpha: additional confidence in observed interactions.
        l2: weight of the squared norm of the factors.
        rounds: number of rounds, each of which solves for users and for items.
        seed: random seed of the initial item factors.

    Returns:
        User factors [U, D] and item factors [I, D].
    """
    generator = torch.Generator().manual_seed(seed)
    items = 0.01 * torch.randn(n_items, dim, generator=generator)
    users = items.new_zeros(n_users, dim)
    for _ in steps(range(rounds), "factors", "round"):
        users = _solve(items, train.user, train.item, n_users, alpha, l2)
        items = _solve(users, train.item, train.user, n_items, alpha, l2)
    return users, items


def _solve(
    known: Tensor, row: Tensor, column: Tensor, count: int, alpha: float, l2: float
) -> Tensor:
    """Return `x_r = (B + alpha Y_r'Y_r)^-1 (1 + alpha) Y_r' 1`, `B = Y'Y + l2 I`: [count, D].

    Y_r holds the n rows of Y that interact with r. If n < D, the equal expression
    `(1 + alpha) B^-1 Y_r' (I + alpha Y_r B^-1 Y_r')^-1 1` needs n equations instead of D.
    """
    known, dim = known.double(), known.shape[1]  # B can be nearly singular
    base = known.T @ known + l2 * torch.eye(dim, dtype=known.dtype)
    inverse = torch.linalg.inv(base)
    taken = torch.bincount(row, minlength=count)
    by_row, by_size = row.argsort(stable=True), taken.argsort(descending=True, stable=True)
    start = taken.cumsum(0) - taken
    known = torch.cat([known, known.new_zeros(1, dim)])  # padding of short rows
    found = known.new_zeros(count, dim)
    first, filled_rows = 0, int((taken > 0).sum())
    while first < filled_rows:  # longest rows first; a block holds rows of similar length
        longest = int(taken[by_size[first]])
        rows = by_size[first : first + max(1, BLOCK // max(dim, longest))]
        place = torch.arange(longest)
        filled = place < taken[rows].unsqueeze(1)  # [b, n]
        nth = (start[rows].unsqueeze(1) + place).clamp(max=len(by_row) - 1)
        y = known[torch.where(filled, column[by_row[nth]], -1)]  # [b, n, D]
        if longest < dim:
            left = torch.eye(longest, dtype=y.dtype) + alpha * (y @ inverse @ y.mT)
            shares = torch.linalg.solve(left, filled.to(y.dtype))  # [b, n]
            found[rows] = (shares.unsqueeze(1) @ y).squeeze(1) @ inverse
        else:
            found[rows] = torch.linalg.solve(base + alpha * (y.mT @ y), y.sum(1))
        first += len(rows)
    return (1 + alpha) * found.float()
