"""Item-item graphs of content."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from mmrec.config.errors import SettingError
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
        SettingError: fewer items have a modality than neighbours are asked for.
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


def check_neighbours(
    modalities: Mapping[str, Modality], k: int, setting: str, *, self_loops: bool = False
) -> None:
    """An item cannot have more neighbours than there are others with the modality.

    Args:
        modalities: by name.
        k: neighbours of each item.
        setting: that gives k.
        self_loops: an item is one of its own neighbours.

    Raises:
        SettingError: names the setting and the modality.
    """
    for name, modality in modalities.items():
        if k - self_loops >= (there := int(modality.present.sum())):
            raise SettingError(
                setting=setting,
                value=k,
                problem=f"only {there} items have {name}",
                hint="give fewer, or leave the modality out with data.modalities=[...]",
            )
