"""What users have, as rows of the train matrix."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from mmrec.data import Interactions
from mmrec.data.batches import ranges


class UserItems(nn.Module):
    """Rows of the binary user-item train matrix, cut out for a block of users.

    Args:
        train: the interactions.
        n_users: U.
        n_items: I.
    """

    start: Tensor
    item: Tensor

    def __init__(self, train: Interactions, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        # Rows are summed in order of their items, whatever the order of the interactions.
        grouped = Interactions(train.user, train.item, train.item).by_user(n_users)
        self.register_buffer("start", grouped.start, persistent=False)
        self.register_buffer("item", grouped.item, persistent=False)

    def forward(self, users: Tensor) -> Tensor:
        """[B] -> [B, I] sparse CSR of ones."""
        first, count = self.start[users], self.start[users + 1] - self.start[users]
        crow = torch.zeros(len(users) + 1, dtype=torch.int64, device=users.device)
        crow[1:] = count.cumsum(0)
        _, place = ranges(first, count)
        values = torch.ones(len(place), device=users.device)
        return csr(crow, self.item[place], values, (len(users), self.n_items))


def csr(crow: Tensor, col: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A CSR tensor, without the notice that CSR is in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(crow, col, values, size, check_invariants=False)
