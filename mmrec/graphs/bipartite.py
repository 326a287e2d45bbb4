"""User-item graphs.

Shapes: U users, I items, N interactions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrec.data.corpus import Interactions, TrainingView
from mmrec.graphs.sparse import csr_matrix, symmetric_normalization


def degree_weights(interactions: Interactions, weights: Tensor | None = None) -> Tensor:
    """Return `w / sqrt(d_u d_i)` of each interaction, where degrees d are sums of weights w.

    Args:
        interactions: edges of the graph.
        weights: weights w, [N] float64; None for 1.

    Returns:
        Normalised weights, [N] float32.
    """
    user, item = interactions.user, interactions.item
    degrees = torch.bincount(user, weights)[user] * torch.bincount(item, weights)[item]  # [N]
    scale = degrees.double().rsqrt().masked_fill(degrees == 0, 0.0)  # 0 if all weights are 0
    return (scale if weights is None else weights * scale).float()


def normalized_adjacency(
    interactions: Interactions, n_users: int, n_items: int, weights: Tensor | None = None
) -> Tensor:
    """Return the normalised adjacency `D^-1/2 [[0, R], [R^T, 0]] D^-1/2` used by LightGCN.

    Args:
        interactions: edges of the graph, each pair once.
        n_users: number of users U.
        n_items: number of items I.
        weights: weights of the edges in R, [N] float64; None for 1.

    Returns:
        [U+I, U+I] sparse CSR float32, symmetric, with users first. Nodes without edges have an
        empty row.
    """
    user, item = interactions.user, interactions.item + n_users
    size = n_users + n_items
    return csr_matrix(
        torch.cat([user, item]),
        torch.cat([item, user]),
        degree_weights(interactions, weights).repeat(2),
        (size, size),
    )


def normalized_interactions(interactions: Interactions, n_users: int, n_items: int) -> Tensor:
    """Return `D_u^-1/2 R D_i^-1/2`, the upper right block of `normalized_adjacency`.

    Args:
        interactions: edges of the graph, each pair once.
        n_users: number of users U.
        n_items: number of items I.

    Returns:
        [U, I] sparse CSR float32.
    """
    user, item = interactions.user, interactions.item
    return csr_matrix(user, item, degree_weights(interactions), (n_users, n_items))


def mean_adjacency(interactions: Interactions, n_users: int, n_items: int) -> Tensor:
    """Return `D^-1 [[0, R], [R^T, 0]]`, the mean over the neighbours of each node.

    Args:
        interactions: edges of the graph, each pair once.
        n_users: number of users U.
        n_items: number of items I.

    Returns:
        [U+I, U+I] sparse CSR float32, with users first. Rows of nodes with edges sum to 1.
    """
    user, item = interactions.user, interactions.item + n_users
    rows, columns = torch.cat([user, item]), torch.cat([item, user])
    size = n_users + n_items
    degree = torch.bincount(rows, minlength=size)
    return csr_matrix(rows, columns, degree[rows].double().reciprocal().float(), (size, size))


def joint_adjacency(
    interactions: Interactions, n_users: int, n_items: int, item_graph: Tensor, weight: float = 1.0
) -> Tensor:
    """Return `D^-1/2 [[0, R], [R^T, w S]] D^-1/2`: a joint graph of interactions and items.

    Args:
        interactions: edges of R, each pair once.
        n_users: number of users U.
        n_items: number of items I.
        item_graph: item graph S, [I, I] sparse CSR with non-negative entries.
        weight: weight w of the item graph, above 0.

    Returns:
        [U+I, U+I] sparse CSR float32, with users first; symmetric if S is symmetric. D holds the
        row sums. Nodes without edges have an empty row.
    """
    user, item = interactions.user, interactions.item + n_users
    row, column = item_graph.to_sparse().indices() + n_users
    rows, columns = torch.cat([user, item, row]), torch.cat([item, user, column])
    ones = torch.ones(2 * len(user), dtype=torch.float64)
    values = torch.cat([ones, weight * item_graph.values().double()])
    size = n_users + n_items
    values = symmetric_normalization(rows, columns, values, size)
    return csr_matrix(rows, columns, values.float(), (size, size))


def interaction_block(adjacency: Tensor, n_users: int) -> Tensor:
    """Return the upper right block R of a graph `[[0, R], [..., ...]]`: [U, I] sparse CSR.

    Args:
        adjacency: [U+I, U+I] sparse CSR, with users first, without edges between users.
        n_users: number of users U.
    """
    start = adjacency.crow_indices()[: n_users + 1]
    entries = slice(int(start[-1]))
    return torch.sparse_csr_tensor(
        start,
        adjacency.col_indices()[entries] - n_users,
        adjacency.values()[entries],
        (n_users, len(adjacency) - n_users),
        check_invariants=True,
    )


def sampled_adjacency(
    corpus: TrainingView,
    keep: float,
    *,
    generator: torch.Generator | None = None,
    by_degree: bool = False,
) -> Tensor:
    """Return the `normalized_adjacency` of a random sample of the training interactions.

    Args:
        corpus: training interactions.
        keep: fraction of the edges to keep.
        generator: random generator; None uses the default generator of PyTorch.
        by_degree: sample edges in proportion to `1 / sqrt(d_u d_i)`, as in FREEDOM, instead of
            uniformly.

    Returns:
        [U+I, U+I] sparse CSR float32, normalised by the degrees of the sample.
    """
    train = corpus.train
    weights = degree_weights(train).double() if by_degree else None
    edges = sample_edges(len(train), keep, generator=generator, weights=weights)
    return normalized_adjacency(train.select(edges), corpus.n_users, corpus.n_items)


def sample_edges(
    n_edges: int,
    keep: float,
    *,
    generator: torch.Generator | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Sample edges without replacement.

    Args:
        n_edges: number of edges N.
        keep: fraction of the edges to keep.
        generator: random generator; None uses the default generator of PyTorch.
        weights: positive weights, [N]; each draw selects an edge in proportion to its weight among
            the remaining edges. None samples uniformly.

    Returns:
        Indices of the sampled edges in ascending order, [floor(N * keep)] int64.

    Raises:
        ValueError: no edge would be kept, or `keep` is above 1.
    """
    count = int(n_edges * keep)
    if not 0 < count <= n_edges:
        raise ValueError(
            f"keep must be at most 1 and keep at least one edge; found {keep} of {n_edges} edges"
        )
    # The smallest exponential arrival times are a weighted sample without replacement;
    # torch.multinomial is limited to 2^24 categories.
    arrival = torch.empty(n_edges, dtype=torch.float64).exponential_(generator=generator)
    if weights is not None:
        arrival /= weights
    return arrival.topk(count, largest=False, sorted=False).indices.sort().values
