"""Graphs of users and items, built from training interactions and content."""

from mmrec.graphs.bipartite import (
    degree_weights,
    interaction_block,
    joint_adjacency,
    mean_adjacency,
    normalized_adjacency,
    normalized_interactions,
    sample_edges,
    sampled_adjacency,
)
from mmrec.graphs.cache import cached
from mmrec.graphs.content import (
    check_neighbours,
    content_graphs,
    content_similarity,
    directed_content_graph,
    modality_shares,
    shared_neighbours,
    weighted_content_graph,
)
from mmrec.graphs.cooccurrence import cooccurrence_similarity
from mmrec.graphs.knn import Neighbours, content_knn, knn_adjacency, knn_graph
from mmrec.graphs.low_rank import Factors, truncated_svd
from mmrec.graphs.pseudo import (
    EdgeChoice,
    EdgeStatistics,
    PseudoEdges,
    augmented_adjacency,
    edge_statistics,
    pseudo_edges,
    tail_items,
)
from mmrec.graphs.sparse import (
    csr_matrix,
    elementwise_maximum,
    symmetric_normalization,
)

__all__ = [
    "EdgeChoice",
    "EdgeStatistics",
    "Factors",
    "Neighbours",
    "PseudoEdges",
    "augmented_adjacency",
    "cached",
    "check_neighbours",
    "content_graphs",
    "content_knn",
    "content_similarity",
    "cooccurrence_similarity",
    "csr_matrix",
    "degree_weights",
    "directed_content_graph",
    "edge_statistics",
    "elementwise_maximum",
    "interaction_block",
    "joint_adjacency",
    "knn_adjacency",
    "knn_graph",
    "mean_adjacency",
    "modality_shares",
    "normalized_adjacency",
    "normalized_interactions",
    "pseudo_edges",
    "sample_edges",
    "sampled_adjacency",
    "shared_neighbours",
    "symmetric_normalization",
    "tail_items",
    "truncated_svd",
    "weighted_content_graph",
]
