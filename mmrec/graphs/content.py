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

    Raises:
        ValueError: fewer items have a modality than neighbours are asked for.
    """
    check_neighbours(modalities, k, "model.k")
    graphs = [
        knn_adjacency(
            content_knn(modality, k), weights="similarity", normalize="none", symmetrize=True
        )
        for modality in modalities.values()
    ]
    return reduce(torch.add, graphs) * (1 / len(graphs))


def content_graphs(modalities: Mapping[str, Modality], k: int) -> list[Tensor]:
    """Build an item graph of each modality: near neighbours by cosine, symmetrically normalised.

    Args:
        modalities: by name.
        k: neighbours of each item; an edge chosen by either end counts for both.

    Returns:
        [I, I] sparse CSR for each modality, symmetric.
    """
    return [
        knn_adjacency(
            content_knn(modality, k), weights="similarity", normalize="symmetric", symmetrize=True
        )
        for modality in modalities.values()
    ]


def directed_content_graph(modality: Modality, k: int) -> Tensor:
    """Build the item graph of a modality in which each row holds the item and its neighbours.

    Entries are cosines c_ij divided by `sqrt(d_i d_j)`, where d holds the row sums.

    Args:
        modality: features and presence.
        k: neighbours of each item, itself included.

    Returns:
        [I, I] sparse CSR; an item without the modality has an empty row and column.
    """
    return knn_adjacency(
        content_knn(modality, k, self_loops=True),
        weights="similarity",
        normalize="symmetric",
        symmetrize=False,
    )


def check_neighbours(modalities: Mapping[str, Modality], k: int, setting: str) -> None:
    """An item cannot have more neighbours than there are others with the modality.

    Raises:
        ValueError: names the setting and the modality.
    """
    for name, modality in modalities.items():
        if k >= (there := int(modality.present.sum())):
            raise ValueError(
                f"{setting} is {k}, but {there} items have {name}; give fewer, or leave it out "
                "with data.modalities=[...]"
            )
