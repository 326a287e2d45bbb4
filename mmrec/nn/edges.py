"""Attention and weighted sums over user-item edges with computed weights.

Shapes: U users, I items, E edges, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrec.nn.gates import at_least_float32
from mmrec.nn.sparse import SparseMatrix, row_of_entries


def edge_softmax(logits: Tensor, node: Tensor, size: int, mask: Tensor | None = None) -> Tensor:
    """Softmax over the edges of each node.

    Args:
        logits: logits of edges, [E].
        node: node of each edge, [E], in any order.
        size: number of nodes.
        mask: mask of the edges to include, [E] bool; others have weight 0. None includes all.

    Returns:
        Weights [E] in at least float32, which sum to 1 over the included edges of each node.
    """
    logits = at_least_float32(logits)
    if mask is not None:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    with torch.no_grad():  # the subtracted maximum does not change the softmax
        largest = logits.new_zeros(size).scatter_reduce(0, node, logits, "amax", include_self=False)
        largest = largest[node]
    powers = (logits - largest).exp()
    if mask is not None:
        powers = powers * mask
    total = logits.new_zeros(size).index_add(0, node, powers)
    return powers / torch.where(total > 0, total, 1.0)[node]


class InteractionEdges(nn.Module):
    """Edges of the user-item graph, sorted by user, then item.

    All weights and logits use this order. Weighted sums are sparse products instead of PyG's
    `MessagePassing`, which creates a row per edge. For 118,500 edges with D = 64, forward and
    backward take 0.02 s instead of 0.10 s on one CPU thread, and save 29 MiB of memory.

    Args:
        interactions: [U, I] sparse CSR; its entries are the edges, its values are ignored.

    Attributes:
        user: user of each edge, [E] int64.
        item: item of each edge, [E] int64.
    """

    user: Tensor
    item: Tensor
    order: Tensor

    def __init__(self, interactions: Tensor) -> None:
        super().__init__()
        self.users = SparseMatrix(interactions, weighted=True)
        # A shared tensor would become two tensors when it is moved to another device.
        self.items = SparseMatrix(self.users.transposed.clone(), weighted=True)
        self.register_buffer("user", row_of_entries(interactions), persistent=False)
        self.register_buffer("item", interactions.col_indices().long(), persistent=False)
        order = (self.item * len(interactions) + self.user).argsort()  # by item, then user
        self.register_buffer("order", order, persistent=False)

    def dots(self, users: Tensor, items: Tensor) -> Tensor:
        """Return dot products of users [U, D] and items [I, D] along the edges: [E]."""
        return self.users.dots(users, items)

    def user_softmax(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax over the items of each user: [E]. See `edge_softmax`."""
        return edge_softmax(logits, self.user, len(self.users.matrix), mask)

    def item_softmax(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Softmax over the users of each item: [E]. See `edge_softmax`."""
        return edge_softmax(logits, self.item, len(self.items.matrix), mask)

    def to_users(self, weights: Tensor, items: Tensor) -> Tensor:
        """Sum the items [I, D] of each user, weighted by edge weights [E]: [U, D]."""
        product: Tensor = self.users(items, weights)
        return product

    def to_items(self, weights: Tensor, users: Tensor) -> Tensor:
        """Sum the users [U, D] of each item, weighted by edge weights [E]: [I, D]."""
        product: Tensor = self.items(users, weights[self.order])
        return product
