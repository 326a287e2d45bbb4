"""Item graphs from content.

Shapes: I items, k neighbours per item.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from mmrec.config.errors import SettingError
from mmrec.data import Modality
from mmrec.graphs.knn import content_knn, knn_adjacency
from mmrec.graphs.sparse import csr_matrix


def content_similarity(modalities: Mapping[str, Modality], k: int) -> Tensor:
    """Return cosines of nearest neighbours, averaged over modalities.

    Args:
        modalities: modalities by name.
        k: number of neighbours per item and modality; edges are added in both directions.

    Returns:
        [I, I] sparse CSR, symmetric, with zero diagonal and entries in 0..1.

    Raises:
        SettingError: too few items have a modality for k neighbours.
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
    """Build a symmetrically normalised graph of nearest neighbours by cosine for each modality.

    Args:
        modalities: modalities by name.
        k: number of neighbours per item; edges are added in both directions.

    Returns:
        One symmetric [I, I] sparse CSR matrix per modality.
    """
    return [
        knn_adjacency(
            content_knn(modality, k), weights="similarity", normalize="symmetric", symmetrize=True
        )
        for modality in modalities.values()
    ]


def modality_shares(
    modalities: Mapping[str, Modality], weights: Mapping[str, float] | None
) -> dict[str, float]:
    """Return the share of each modality in the item graph of FREEDOM; shares sum to 1.

    Args:
        modalities: modalities by name.
        weights: weight of each modality. None gives `image` a share of 0.1 and divides the rest
            among the others, as in published models; without `image` all shares are equal.

    Raises:
        SettingError: the names are not those of the modalities, a weight is negative, or all
            weights are zero.
    """
    if weights is None:
        others = len(modalities) - 1
        if "image" not in modalities or not others:
            return dict.fromkeys(modalities, 1 / len(modalities))
        return {name: 0.1 if name == "image" else 0.9 / others for name in modalities}
    total = sum(weights.values())
    if weights.keys() != modalities.keys() or min(weights.values()) < 0 or not total > 0:
        example = ",".join(f"{name}:1" for name in modalities)
        raise SettingError(
            setting="model.modality_weights",
            value=dict(weights),
            expected=f"a weight of at least 0 for each modality, for example {{{example}}}",
        )
    return {name: weights[name] / total for name in modalities}


def weighted_content_graph(
    modalities: Mapping[str, Modality], shares: Mapping[str, float], neighbours: int
) -> Tensor:
    """Build the item graph of FREEDOM: the weighted sum of one binary graph per modality.

    Zhou and Shen, MM 2023, Eq. 1 to 4. https://arxiv.org/abs/2211.06924

    Args:
        modalities: modalities by name.
        shares: weight of each modality.
        neighbours: number of nearest neighbours per item by cosine, including the item itself. Each
            edge of a modality has the weight `share / neighbours`.

    Returns:
        [I, I] sparse CSR, directed.
    """
    graphs = [
        shares[name]
        * knn_adjacency(
            content_knn(modality, neighbours, self_loops=True),
            weights="binary",
            normalize="symmetric",
            symmetrize=False,
        )
        for name, modality in modalities.items()
    ]
    return sum(graphs[1:], start=graphs[0])


def shared_neighbours(modalities: Mapping[str, Modality], neighbours: int) -> Tensor:
    """Connect each item to the items that are its neighbours in all of its modalities.

    Modalities that an item lacks are ignored.

    Args:
        modalities: modalities by name.
        neighbours: number of nearest neighbours per item and modality by cosine, including the item
            itself.

    Returns:
        [I, I] sparse CSR, directed, with entries of 1 and zero diagonal.
    """
    n_items = len(next(iter(modalities.values())).present)
    found, has = [], torch.zeros(n_items, dtype=torch.int64)
    for modality in modalities.values():
        index = content_knn(modality, neighbours, self_loops=True).index  # [I, k]
        has += index[:, 0] >= 0  # number of modalities with non-zero features
        item = torch.arange(n_items).unsqueeze(1).expand_as(index)
        kept = (index >= 0) & (index != item)
        found.append(item[kept] * n_items + index[kept])
    pairs, times = torch.unique(torch.cat(found), return_counts=True)
    pairs = pairs[times == has[pairs // n_items]]
    ones = torch.ones(len(pairs))
    return csr_matrix(pairs // n_items, pairs % n_items, ones, (n_items, n_items))


def directed_content_graph(modality: Modality, k: int) -> Tensor:
    """Build a directed item graph of a modality, with an edge from each item to its neighbours.

    Entries are cosines c_ij divided by `sqrt(d_i d_j)`, where d holds the row sums.

    Args:
        modality: features and presence.
        k: number of neighbours per item, including the item itself.

    Returns:
        [I, I] sparse CSR. Items without the modality have an empty row and column.
    """
    return knn_adjacency(
        content_knn(modality, k, self_loops=True),
        weights="similarity",
        normalize="symmetric",
        symmetrize=False,
    )


def check_neighbours(
    modalities: Mapping[str, Modality], k: int, setting: str, *, self_loops: bool = False
) -> None:
    """Check that enough items have each modality for k neighbours.

    Args:
        modalities: modalities by name.
        k: number of neighbours per item.
        setting: name of the setting k, for the error.
        self_loops: whether each item is its own neighbour.

    Raises:
        SettingError: too few items have a modality.
    """
    for name, modality in modalities.items():
        if k - self_loops >= (there := int(modality.present.sum())):
            raise SettingError(
                setting=setting,
                value=k,
                problem=f"only {there} items have modality {name}",
                hint="use fewer neighbours, or exclude the modality with data.modalities=[...]",
            )
