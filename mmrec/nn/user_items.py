"""Rows of the training matrix."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from mmrec.data import Interactions
from mmrec.data.batches import ranges


class UserItems(nn.Module):
    """Select rows of the binary user-item training matrix.

    Args:
        train: training interactions.
        n_users: number of users U.
        n_items: number of items I.
    """

    start: Tensor
    item: Tensor

    def __init__(self, train: Interactions, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        # Sorting by item makes sums over rows independent of the order of the interactions.
        grouped = Interactions(train.user, train.item, train.item).by_user(n_users)
        self.register_buffer("start", grouped.start, persistent=False)
        self.register_buffer("item", grouped.item, persistent=False)

    def forward(self, users: Tensor) -> Tensor:
        """Return the rows of users [B]: [B, I] sparse CSR of ones."""
        first, count = self.start[users], self.start[users + 1] - self.start[users]
        crow = torch.zeros(len(users) + 1, dtype=torch.int64, device=users.device)
        crow[1:] = count.cumsum(0)
        _, place = ranges(first, count)
        values = torch.ones(len(place), device=users.device)
        return csr(crow, self.item[place], values, (len(users), self.n_items))


def csr(crow: Tensor, col: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """Create a CSR tensor without PyTorch's warning that CSR is in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(crow, col, values, size, check_invariants=False)
