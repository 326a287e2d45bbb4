"""Hypergraphs whose hyperedges users and items join with learned weights.

N nodes (U users or I items), A hyperedges, D embedding size.
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
    """Return the weights with which nodes belong to hyperedges: `softmax((h + g) / t)`.

    With Gumbel noise g this is the Gumbel-softmax of Jang et al., ICLR 2017.
    https://arxiv.org/abs/1611.01144

    Args:
        logits: h, [N, A].
        temperature: t; the lower, the closer each node is to a single hyperedge.
        present: [N] bool, nodes that have a logit; the others belong to no hyperedge.
        noise: draw g; otherwise it is zero.

    Returns:
        [N, A], rows sum to 1, or to 0 where a node is not present.
    """
    logits = at_least_float32(logits)
    if noise:
        logits = logits - torch.empty_like(logits).exponential_().log()
    return (logits / temperature).softmax(dim=1) * present.unsqueeze(1)


class Hypergraph(NamedTuple):
    """Users, items and hyperedges after a convolution.

    Attributes:
        users: H_U, [U, A] assignment of users.
        items: H_I, [I, A] assignment of items.
        edges: [A, D] embeddings of hyperedges, in the last layer.
    """

    users: Tensor
    items: Tensor
    edges: Tensor

    def embed(self, nodes: Tensor) -> Tensor:
        """Sum the hyperedges of nodes with their assignment: [N, A] -> [N, D]."""
        with torch.autocast(self.edges.device.type, enabled=False):
            return nodes @ self.edges

    def cosine_factors(self, x: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Factor the cosines of vectors with the embeddings of nodes, `P Q^T`.

        An embedding is a sum of A hyperedges, so that factors need A columns rather than D.

        Args:
            x: [M, D].
            nodes: [N, A] assignment.

        Returns:
            P [M, A] and Q [N, A].
        """
        with torch.autocast(self.edges.device.type, enabled=False):
            return unit_rows(x) @ self.edges.T, nodes * inverse_norm(self.embed(nodes))


class HypergraphConvolution(nn.Module):
    """Pass messages from items to hyperedges, and from these back to items and to users.

    In each layer `E_I <- H_I (H_I^T E_I)`. Users get `H_U (H_I^T E_I)` of the last layer.

    Args:
        layers: number of layers, at least 1.
        dropout: share of the entries of both assignments that are dropped in training. They are
            drawn once per call, for all layers.
    """

    def __init__(self, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = layers
        self.dropout = nn.Dropout(dropout)

    def forward(self, users: Tensor, items: Tensor, x: Tensor) -> Hypergraph:
        """Convolve item embeddings, in the precision of the assignments also under autocast.

        Args:
            users: H_U, [U, A] assignment of users.
            items: H_I, [I, A] assignment of items.
            x: E_I, [I, D].

        Returns:
            The assignments that dropout left, and the hyperedges of the last layer.
        """
        with torch.autocast(x.device.type, enabled=False):
            users, items = self.dropout(users), self.dropout(items)
            edges = items.T @ x.to(items.dtype)  # [A, D]
            for _ in range(self.layers - 1):
                edges = items.T @ (items @ edges)
            return Hypergraph(users, items, edges)
