"""Item-item graphs of content."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from mmrec.data import Modality
from mmrec.graphs.knn import content_knn, knn_adjacency


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
    return reduce(torch.add, graphs) * (1 / len(graphs))
