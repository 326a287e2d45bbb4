"""Item-item graphs of content."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmrec.data import Modality
from mmrec.graphs.knn import content_knn, knn_adjacency
from mmrec.graphs.sparse import csr_matrix


def content_similarity(modalities: Mapping[str, Modality], k: int) -> Tensor:
    """Mean over modalities of the cosine between near neighbours.

    Args:
        modalities: by name.
        k: neighbours of each item in each modality; an edge chosen by either end counts for both.

    Returns:
        [I, I] sparse CSR, symmetric, zero diagonal; entries in 0..1.
    """
    graphs = [
        knn_adjacency(
            content_knn(modality, k), weights="similarity", normalize="none", symmetrize=True
        )
        for modality in modalities.values()
    ]
    n_items = graphs[0].shape[0]
    row = torch.cat(
        [torch.arange(n_items).repeat_interleave(g.crow_indices().diff().long()) for g in graphs]
    )
    key = row * n_items + torch.cat([g.col_indices().long() for g in graphs])
    key, place = key.unique(return_inverse=True)
    values = torch.cat([g.values() for g in graphs]) / len(graphs)
    value = torch.zeros(len(key)).index_add_(0, place, values)
    return csr_matrix(key // n_items, key % n_items, value, (n_items, n_items))
