"""Item-item graphs of content."""

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


def modality_shares(
    modalities: Mapping[str, Modality], weights: Mapping[str, float] | None
) -> dict[str, float]:
    """Return the share of each modality in an item graph as FREEDOM has it; shares sum to 1.

    Args:
        modalities: by name.
        weights: of each modality. None gives `image` the share of 0.1 and divides the rest among
            the others, as published models do; without `image` all shares are equal.

    Raises:
        SettingError: weights that do not name the modalities, or are negative, or all zero.
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
            expected=f"a weight of 0 or more for each modality, for example {{{example}}}",
        )
    return {name: weights[name] / total for name in modalities}


def weighted_content_graph(
    modalities: Mapping[str, Modality], shares: Mapping[str, float], neighbours: int
) -> Tensor:
    """Build an item graph as FREEDOM does: the weighted sum of binary graphs of each modality.

    Zhou and Shen, MM 2023, Eq. 1 to 4. https://arxiv.org/abs/2211.06924

    Args:
        modalities: by name.
        shares: weight of each modality.
        neighbours: nearest items of each item by cosine, itself included. A modality gives each of
            them the same weight, `share / neighbours`.

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
    """Connect each item with the items that are near to it in all of its modalities.

    Args:
        modalities: by name.
        neighbours: nearest items of each item by cosine, itself included, in each modality.

    Returns:
        [I, I] sparse CSR, directed, entries of 1, zero diagonal. Modalities that an item lacks are
        left out of its condition.
    """
    n_items = len(next(iter(modalities.values())).present)
    found, has = [], torch.zeros(n_items, dtype=torch.int64)
    for modality in modalities.values():
        index = content_knn(modality, neighbours, self_loops=True).index  # [I, k]
        has += index[:, 0] >= 0  # modalities with features other than zero
        item = torch.arange(n_items).unsqueeze(1).expand_as(index)
        kept = (index >= 0) & (index != item)
        found.append(item[kept] * n_items + index[kept])
    pairs, times = torch.unique(torch.cat(found), return_counts=True)
    pairs = pairs[times == has[pairs // n_items]]
    ones = torch.ones(len(pairs))
    return csr_matrix(pairs // n_items, pairs % n_items, ones, (n_items, n_items))


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
