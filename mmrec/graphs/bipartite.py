"""The user-item graph.

U users, I items, N interactions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrec.data.corpus import Interactions, TrainingView
from mmrec.graphs.sparse import csr_matrix, symmetric_normalization


def degree_weights(interactions: Interactions, weights: Tensor | None = None) -> Tensor:
    """[N] float32: w / sqrt(d_u d_i) of each interaction, d summing weights.

    Args:
        interactions: the edges.
        weights: [N] float64, w; 1 each if None.
    """
    user, item = interactions.user, interactions.item
    degrees = torch.bincount(user, weights)[user] * torch.bincount(item, weights)[item]  # [N]
    scale = degrees.double().rsqrt().masked_fill(degrees == 0, 0.0)  # where all weights are zero
    return (scale if weights is None else weights * scale).float()


def normalized_adjacency(
    interactions: Interactions, n_users: int, n_items: int, weights: Tensor | None = None
) -> Tensor:
    """D^-1/2 [[0, R], [R^T, 0]] D^-1/2, the matrix that LightGCN and its kin propagate with.

    Args:
        interactions: the edges, each pair once.
        n_users: U.
        n_items: I.
        weights: [N] float64, of the edges in R; 1 each if None.

    Returns:
        [U+I, U+I] sparse CSR float32, symmetric; users come first. A node without edges has an
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
    """D_u^-1/2 R D_i^-1/2, the upper right block of `normalized_adjacency`.

    Args:
        interactions: the edges, each pair once.
        n_users: U.
        n_items: I.

    Returns:
        [U, I] sparse CSR float32.
    """
    user, item = interactions.user, interactions.item
    return csr_matrix(user, item, degree_weights(interactions), (n_users, n_items))


def mean_adjacency(interactions: Interactions, n_users: int, n_items: int) -> Tensor:
    """D^-1 [[0, R], [R^T, 0]], the mean over the neighbours of each node.

    Args:
        interactions: the edges, each pair once.
        n_users: U.
        n_items: I.

    Returns:
        [U+I, U+I] sparse CSR float32, rows of nodes with edges sum to 1; users come first.
    """
    user, item = interactions.user, interactions.item + n_users
    rows, columns = torch.cat([user, item]), torch.cat([item, user])
    size = n_users + n_items
    degree = torch.bincount(rows, minlength=size)
    return csr_matrix(rows, columns, degree[rows].double().reciprocal().float(), (size, size))


def joint_adjacency(
    interactions: Interactions, n_users: int, n_items: int, item_graph: Tensor, weight: float = 1.0
) -> Tensor:
    """D^-1/2 [[0, R], [R^T, w S]] D^-1/2: interactions and an item graph, normalised together.

    Args:
        interactions: the edges of R, each pair once.
        n_users: U.
        n_items: I.
        item_graph: S, [I, I] sparse CSR with entries of at least 0.
        weight: w, above 0.

    Returns:
        [U+I, U+I] sparse CSR float32; users come first. It is symmetric if S is. D holds the row
        sums; a node without edges has an empty row.
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
    """Return the upper right block of a graph `[[0, R], [..., ...]]`: [U, I] sparse CSR.

    Args:
        adjacency: [U+I, U+I] sparse CSR, users first, without edges between users.
        n_users: U.
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
    """`normalized_adjacency` of a random part of the train interactions.

    Args:
        corpus: whose train interactions are the edges.
        keep: fraction of the edges that survive.
        generator: source of randomness; torch's default if None.
        by_degree: draw edges in proportion to `1 / sqrt(d_u d_i)`, as FREEDOM does, and not evenly.

    Returns:
        [U+I, U+I] sparse CSR float32, normalised by the degrees that are left.
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
    """Edges that survive a dropout, drawn without replacement.

    Args:
        n_edges: N.
        keep: fraction of the edges that survive.
        generator: source of randomness; torch's default if None.
        weights: [N] positive; each draw takes an edge in proportion to its weight among those left.
            Equal if None. FREEDOM draws by `degree_weights`.

    Returns:
        [floor(N * keep)] int64, ascending.

    Raises:
        ValueError: `keep` leaves no edge, or is above 1.
    """
    count = int(n_edges * keep)
    if not 0 < count <= n_edges:
        raise ValueError(
            f"keep is {keep} of {n_edges} edges; give a fraction that leaves one, at most 1"
        )
    # The smallest of exponential arrival times are a weighted draw without replacement;
    # torch.multinomial refuses more than 2^24 categories.
    arrival = torch.empty(n_edges, dtype=torch.float64).exponential_(generator=generator)
    if weights is not None:
        arrival /= weights
    return arrival.topk(count, largest=False, sorted=False).indices.sort().values
