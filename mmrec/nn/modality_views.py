"""Modality views of users and items, and their fusion into a common part and specific parts.

The modality branch of MGCN (Yu et al., MM 2023, https://arxiv.org/abs/2308.03588), which later
models reuse. Ours: support for any number of views, and for nodes that lack some.

Shapes: U users, I items, N nodes (users first, then items) or a selection of them, B selected
users, M selected items, V views, D embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmrec.nn.fusion import masked_softmax
from mmrec.nn.gates import at_least_float32
from mmrec.nn.lookup import BatchIndex
from mmrec.nn.losses import info_nce
from mmrec.nn.sparse import SparseMatrix, sparse_matmul


class ModalityViews(nn.Module):
    """ID embeddings gated by content and propagated over item graphs, one view per modality.

    For item embeddings e and content p_v (for example, projected features):

    - behaviour-guided gate: `z_v = e * sigmoid(W_v p_v + b_v)`
    - items: `x_v = S_v^L z_v`
    - users: `R x_v`

    Items with an empty row of S_v have no view v. Users have the views of their items. Absent views
    are zero.

    Args:
        item_graphs: V item graphs S_v, [I, I] sparse CSR each, directed or symmetric.
        interactions: interaction matrix R with positive entries, [U, I] sparse CSR.
        dim: embedding size D.
        layers: number of propagation steps L over the item graphs, at least 1.

    Attributes:
        present: mask of the views, [U+I, V] bool.
    """

    present: Tensor

    def __init__(
        self, item_graphs: Sequence[Tensor], interactions: Tensor, dim: int, *, layers: int = 1
    ) -> None:
        super().__init__()
        self.layers = layers
        self.gates = nn.ModuleList(nn.Linear(dim, dim) for _ in item_graphs)
        self.item_graphs = nn.ModuleList(SparseMatrix(graph) for graph in item_graphs)
        self.interactions = SparseMatrix(interactions)
        items = torch.stack([graph.crow_indices().diff() > 0 for graph in item_graphs], 1)  # [I, V]
        users = sparse_matmul(interactions, items.to(interactions.dtype)) > 0  # [U, V]
        self.register_buffer("present", torch.cat([users, items]), persistent=False)

    def items(self, ids: Tensor, content: Sequence[Tensor]) -> Tensor:
        """Compute the views of items.

        Args:
            ids: item ID embeddings e, [I, D].
            content: content p_v of each view, [I, D] each.

        Returns:
            Views, [I, V, D].
        """
        views = []
        for gate, graph, shown in zip(self.gates, self.item_graphs, content, strict=True):
            view = ids * torch.sigmoid(gate(shown))
            for _ in range(self.layers):
                view = graph(view)
            views.append(view)
        return torch.stack(views, 1)

    def forward(self, ids: Tensor, content: Sequence[Tensor]) -> Tensor:
        """Compute the views of all nodes, [N, V, D]. See `items` for the arguments."""
        items = self.items(ids, content)
        # One product for all views reads the entries of R only once.
        users = self.interactions(items.flatten(1)).view(-1, *items.shape[1:])
        return torch.cat([users, items])

    def rows(self, ids: Tensor, content: Sequence[Tensor], user: Tensor, item: Tensor) -> Tensor:
        """Compute the views of selected users [B] and items [M]: [B+M, V, D]."""
        items = self.items(ids, content)
        flat = items.flatten(1)
        found = torch.cat([self.interactions.rows(flat, user), embedding(item, flat)])
        return found.view(-1, *items.shape[1:])


class FusedViews(NamedTuple):
    """Fused views of N nodes.

    Attributes:
        vectors: fused vectors, [N, D]; zero for nodes without views.
        attention: weights of the common part, [N, V]; they sum to 1 over the present views.
        gates: weights of the specific parts, [N, V, D]; zero for absent views.
    """

    vectors: Tensor
    attention: Tensor
    gates: Tensor

    def item_weights(self, names: Sequence[str], n_users: int) -> dict[str, Tensor]:
        """Return the attention of each view: [I] each.

        Args:
            names: names of the views.
            n_users: number of users, whose nodes precede the items.
        """
        return dict(zip(names, self.attention[n_users:].unbind(1), strict=True))

    def item_measures(
        self, names: Sequence[str], n_users: int, present: Tensor
    ) -> dict[str, Tensor]:
        """Return the mean gate of each view's specific part: [I] each; empty for a single view.

        Args:
            names: names of the views.
            n_users: number of users, whose nodes precede the items.
            present: mask of the views, [N, V] bool; gates of absent views are NaN.
        """
        if len(names) == 1:
            return {}
        gates = self.gates[n_users:].mean(-1).masked_fill(~present[n_users:], torch.nan)  # [I, V]
        return {f"gate of {name}": gate for name, gate in zip(names, gates.unbind(1), strict=True)}


class ViewFusion(nn.Module):
    """Fuse the views of a node into a common part and one gated specific part per view.

    For views x_v and the behaviour embedding h of a node:

    - attention: `a = softmax_v(q^T tanh(W x_v + b))`, with q, W and b shared by all views
    - common part: `c = sum_v a_v x_v`
    - gates: `g_v = sigmoid(W_v h + b_v)`
    - result: `(c + sum_v g_v * (x_v - c)) / (V + 1)`

    Absent views have attention and gate 0, and V counts the present views. A single view has no
    specific part: the result is `x / 2`, without parameters.

    Args:
        views: number of views V.
        dim: embedding size D.
    """

    def __init__(self, views: int, dim: int) -> None:
        super().__init__()
        self.query: nn.Module | None = None
        self.gate: nn.Module | None = None
        if views > 1:
            self.query = nn.Sequential(
                nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False)
            )
            self.gate = nn.Linear(dim, views * dim)

    def forward(self, views: Tensor, behaviour: Tensor, present: Tensor) -> FusedViews:
        """Fuse the views of nodes.

        Args:
            views: views x_v, [N, V, D], zero if absent.
            behaviour: behaviour embeddings h, [N, D].
            present: mask of the views, [N, V] bool.
        """
        if self.query is None or self.gate is None:
            attention = present.to(views.dtype)
            return FusedViews(views.squeeze(1) / 2, attention, torch.zeros_like(views))
        logits = at_least_float32(self.query(views).squeeze(-1))  # [N, V]
        attention = masked_softmax(logits, present, dim=1)
        gates = torch.sigmoid(self.gate(behaviour)).view_as(views) * present.unsqueeze(-1)
        common = (attention.unsqueeze(-1) * views).sum(1)  # [N, D]
        specific = (gates * (views - common.unsqueeze(1))).sum(1)  # [N, D]
        parts = 1 + present.sum(1, keepdim=True)
        return FusedViews((common + specific) / parts, attention, gates)


def contrast_views(
    index: BatchIndex,
    views: Tensor,
    behaviour: Tensor,
    temperature: float,
    viewed: Tensor | None = None,
) -> Tensor:
    """Contrast fused views with behaviour embeddings: `info_nce` of users plus that of positives.

    Args:
        index: indices of the batch; negatives are ignored.
        views: fused views of `index.nodes`, [B+M, D].
        behaviour: behaviour embeddings of `index.nodes`, [B+M, D].
        temperature: temperature of the cosines.
        viewed: mask of the nodes with any view, [B+M] bool; others are excluded. None includes all.

    Returns:
        A scalar.
    """
    ones, others = (index.parts(*index.sides(rows))[:2] for rows in (views, behaviour))
    if viewed is not None:
        masks = [mask.squeeze(1) for mask in index.parts(*index.sides(viewed.unsqueeze(1)))[:2]]
        ones, others = (
            tuple(rows[mask] for rows, mask in zip(both, masks, strict=True))
            for both in (ones, others)
        )
    terms = [info_nce(x, y, temperature, cosine=True) for x, y in zip(ones, others, strict=True)]
    return torch.stack(terms).sum()
