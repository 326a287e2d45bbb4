"""Factors of a user-item matrix, solved and not trained.

U users, I items, N interactions, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from mmrec.data import Interactions

BLOCK = 8192  # interactions whose D x D products are held at a time


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
    """Weighted matrix factorisation of implicit feedback, by alternating least squares.

    Hu, Koren and Volinsky, ICDM 2008. https://doi.org/10.1109/ICDM.2008.22

    Minimises `sum_ui c_ui (r_ui - <x_u, y_i>)^2 + l2 (|X|^2 + |Y|^2)` with `r = 1` and
    `c = 1 + alpha` where there is an interaction, 0 and 1 elsewhere. An item that nobody has gets a
    row of zeros.

    Args:
        train: what is factorised.
        n_users: U.
        n_items: I.
        dim: D.
        alpha: further confidence in what was seen.
        l2: weight of the factors' squared norm.
        rounds: of solving for users and for items.
        seed: of the first items.

    Returns:
        [U, D] and [I, D].
    """
    generator = torch.Generator().manual_seed(seed)
    items = 0.01 * torch.randn(n_items, dim, generator=generator)
    users = items.new_zeros(n_users, dim)
    for _ in tqdm(range(rounds), desc="factors", unit="round", delay=2, leave=False):
        users = _solve(items, train.user, train.item, n_users, alpha, l2)
        items = _solve(users, train.item, train.user, n_items, alpha, l2)
    return users, items


def _solve(
    known: Tensor, row: Tensor, column: Tensor, count: int, alpha: float, l2: float
) -> Tensor:
    """`x_r = (Y'Y + alpha sum_c y_c y_c' + l2 I)^-1 (1 + alpha) sum_c y_c`: [count, D]."""
    dim = known.shape[1]
    base = known.T @ known + l2 * torch.eye(dim)
    order = row.argsort(stable=True)
    row, column = row[order], column[order]
    ends = torch.bincount(row, minlength=count).cumsum(0)
    found, first = known.new_zeros(count, dim), 0
    while first < count:  # whole rows, as many as a block holds
        begin = int(ends[first - 1]) if first else 0
        last = int(torch.searchsorted(ends, begin + BLOCK, right=True))
        last = min(max(last, first + 1), first + BLOCK, count)
        rows = slice(begin, int(ends[last - 1]))
        y, place = known[column[rows]], row[rows] - first  # [n, D] [n]
        left = base.repeat(last - first, 1, 1)
        left.index_add_(0, place, alpha * y.unsqueeze(2) * y.unsqueeze(1))
        right = y.new_zeros(last - first, dim).index_add_(0, place, (1 + alpha) * y)
        found[first:last] = torch.linalg.solve(left, right)
        first = last
    return found
