"""Graphs over users and items, built once from train interactions and content."""

from mmrec.graphs.bipartite import (
    degree_weights,
    joint_adjacency,
    mean_adjacency,
    normalized_adjacency,
    normalized_interactions,
    sample_edges,
    sampled_adjacency,
)
from mmrec.graphs.cache import cached
from mmrec.graphs.content import check_neighbours, content_graphs, content_similarity
from mmrec.graphs.knn import Neighbours, content_knn, knn_adjacency, knn_graph
from mmrec.graphs.pseudo import (
    EdgeChoice,
    EdgeStatistics,
    PseudoEdges,
    augmented_adjacency,
    edge_statistics,
    pseudo_edges,
    tail_items,
)
from mmrec.graphs.sparse import csr_matrix

__all__ = [
    "EdgeChoice",
    "EdgeStatistics",
    "Neighbours",
    "PseudoEdges",
    "augmented_adjacency",
    "cached",
    "check_neighbours",
    "content_graphs",
    "content_knn",
    "content_similarity",
    "csr_matrix",
    "degree_weights",
    "edge_statistics",
    "joint_adjacency",
    "knn_adjacency",
    "knn_graph",
    "mean_adjacency",
    "normalized_adjacency",
    "normalized_interactions",
    "pseudo_edges",
    "sample_edges",
    "sampled_adjacency",
    "tail_items",
]
