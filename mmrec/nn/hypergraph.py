"""Hypergraphs with learned assignments of users and items to hyperedges.

Shapes: N nodes (U users or I items), A hyperedges, D embedding size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmrec.nn.gates import at_least_float32
from mmrec.nn.rows import inverse_norm, unit_rows


def soft_assignment(
    logits: Tensor, temperature: float, present: Tensor, *, noise: bool = False
) -> Tensor:
    """Return the weights of hyperedges for each node: `softmax((h + g) / t)`.

    With Gumbel noise g, this is the Gumbel-softmax of Jang et al., ICLR 2017.
    https://arxiv.org/abs/1611.01144

    Args:
        logits: logits h, [N, A].
        temperature: temperature t; a lower value concentrates each node on a single hyperedge.
        present: mask of the nodes that have logits, [N] bool; others belong to no hyperedge.
        noise: sample g; otherwise it is zero.

    Returns:
        Assignment [N, A]; rows sum to 1, or to 0 for absent nodes.
    """
    logits = at_least_float32(logits)
    if noise:
        logits = logits - torch.empty_like(logits).exponential_().log()
    return (logits / temperature).softmax(dim=1) * present.unsqueeze(1)


class Hypergraph(NamedTuple):
    """Result of a hypergraph convolution.

    Attributes:
        users: assignment H_U of users, [U, A].
        items: assignment H_I of items, [I, A].
        edges: embeddings of hyperedges in the last layer, [A, D].
    """

    users: Tensor
    items: Tensor
    edges: Tensor

    def embed(self, nodes: Tensor) -> Tensor:
        """Sum hyperedge embeddings weighted by an assignment: [N, A] -> [N, D]."""
        with torch.autocast(self.edges.device.type, enabled=False):
            return nodes @ self.edges

    def cosine_factors(self, x: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Factorize the cosines between vectors and node embeddings as `P Q^T`.

        Node embeddings are sums of A hyperedges, so the factors have A columns instead of D.

        Args:
            x: vectors, [M, D].
            nodes: assignment of nodes, [N, A].

        Returns:
            P [M, A] and Q [N, A].
        """
        with torch.autocast(self.edges.device.type, enabled=False):
            return unit_rows(x) @ self.edges.T, nodes * inverse_norm(self.embed(nodes))


class HypergraphConvolution(nn.Module):
    """Pass messages from items to hyperedges, and from hyperedges to items and users.

    Each layer computes `E_I <- H_I (H_I^T E_I)`. Users are `H_U (H_I^T E_I)` of the last layer.

    Args:
        layers: number of layers, at least 1.
        dropout: dropout rate of both assignments in training, in [0, 1). Entries are sampled once
            per call and shared by all layers.
    """

    def __init__(self, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = layers
        self.dropout = nn.Dropout(dropout)

    def forward(self, users: Tensor, items: Tensor, x: Tensor) -> Hypergraph:
        """Apply the layers in the precision of the assignments, also under autocast.

        Args:
            users: assignment H_U of users, [U, A].
            items: assignment H_I of items, [I, A].
            x: item embeddings E_I, [I, D].

        Returns:
            The assignments after dropout, and the hyperedges of the last layer.
        """
        with torch.autocast(x.device.type, enabled=False):
            users, items = self.dropout(users), self.dropout(items)
            edges = items.T @ x.to(items.dtype)  # [A, D]
            for _ in range(self.layers - 1):
                edges = items.T @ (items @ edges)
            return Hypergraph(users, items, edges)
