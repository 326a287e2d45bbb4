"""Nearest neighbours of items by cosine of content.

Shapes: I items, F width of a modality, k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmrec.config.bars import working
from mmrec.config.errors import DataError
from mmrec.data.corpus import Modality
from mmrec.graphs.cache import cached
from mmrec.graphs.sparse import csr_matrix, symmetric_normalization

# Part of all cache keys: increase it if the result for the same arguments changes.
_VERSION = 1

_LOW_BITS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Nearest neighbours of each item, most similar first.

    Attributes:
        index: neighbours, [I, k] int64; -1 for items without content.
        similarity: cosines, [I, k] float32; 0 for items without content.
    """

    index: Tensor
    similarity: Tensor


def knn_graph(
    features: Tensor,
    k: int,
    *,
    present: Tensor | None = None,
    block: int = 1024,
    self_loops: bool = False,
) -> Neighbours:
    """Return the exact k nearest neighbours of each item; ties are resolved by lower index.

    Absent items, and items whose features are all zero, have no neighbours and are not neighbours
    of others. Similarities are computed in tiles, so the peak memory depends on `block`, not on I.

    Args:
        features: [I, F] float32, may be memory-mapped.
        k: number of neighbours per item.
        present: mask of the items, [I] bool; None marks all as present.
        block: size of a tile; affects only speed and memory.
        self_loops: whether an item can be its own neighbour.

    Raises:
        DataError: a feature is not finite.
        ValueError: fewer than k neighbours exist.
    """
    norm = torch.cat(
        [
            torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
            for rows in features.chunk(-(-len(features) // block))
        ]
    ).float()  # [I]
    if not norm.isfinite().all():
        row = int((~norm.isfinite()).nonzero()[0])
        raise DataError(
            file="features",
            row=row,
            problem="the vector is not finite",
            hint="use zeros for items without content",
        )
    usable = norm > 0 if present is None else present & (norm > 0)  # [I]
    items = usable.nonzero().squeeze(1)  # [P] items with content
    others = len(items) - (not self_loops)
    if not 1 <= k <= others:
        raise ValueError(
            f"k={k} neighbours are not possible: {len(items)} of {len(features)} items have "
            f"content, so k must be from 1 to {max(others, 0)}"
        )

    def unit(positions: Tensor) -> Tensor:
        rows = items[positions]
        return features[rows] / norm[rows, None]

    blocks = torch.arange(len(items), device=features.device).chunk(-(-len(items) // block))
    best = torch.full((len(items), k), torch.iinfo(torch.int64).min, device=features.device)

    def offer(rows: Tensor, columns: Tensor, tile: Tensor) -> None:
        both = torch.cat([best[rows], _top_keys(tile, columns, k)], dim=1)
        best[rows] = both.topk(k, sorted=False).values

    # Cosines are symmetric: a tile above the diagonal is used for its rows and its columns.
    tiles = len(blocks) * (len(blocks) + 1) // 2
    with working("content neighbours", tiles, "tile") as advance:
        for number, rows in enumerate(blocks):
            left = unit(rows)
            for columns in blocks[number:]:
                if columns is rows:
                    tile = left @ left.T
                    if not self_loops:
                        tile.fill_diagonal_(-torch.inf)
                else:
                    tile = left @ unit(columns).T
                    offer(columns, rows, tile.T.contiguous())
                offer(rows, columns, tile)
                advance()

    similarity, position = _from_keys(best.sort(dim=1, descending=True).values)
    index = torch.full((len(features), k), -1, device=features.device)
    index[items] = items[position]
    cosine = torch.zeros(len(features), k, device=features.device)
    cosine[items] = similarity.clamp(-1, 1)
    return Neighbours(index, cosine)


def content_knn(modality: Modality, k: int, *, self_loops: bool = False) -> Neighbours:
    """Return the `knn_graph` of a modality, using the cache."""

    def build() -> dict[str, Tensor]:
        neighbours = knn_graph(
            modality.features, k, present=modality.present, self_loops=self_loops
        )
        return {"index": neighbours.index, "similarity": neighbours.similarity}

    tensors = cached(
        "knn",
        {"version": _VERSION, "features": modality.digest, "k": k, "self_loops": self_loops},
        build,
    )
    return Neighbours(**tensors)


def knn_adjacency(
    neighbours: Neighbours,
    *,
    weights: Literal["similarity", "binary"],
    normalize: Literal["symmetric", "row", "none"],
    symmetrize: bool,
) -> Tensor:
    """Return neighbours as a matrix, with the neighbours of item i in row i.

    Args:
        neighbours: neighbours of each item.
        weights: `similarity` uses cosines and drops those that are not positive; `binary` uses 1
            for each neighbour.
        normalize: with row sums d, `symmetric` gives w_ij / sqrt(d_i d_j), `row` gives w_ij / d_i,
            and `none` gives w_ij.
        symmetrize: add each edge in both directions.

    Returns:
        [I, I] sparse CSR float32. Items without neighbours have an empty row.
    """
    n_items, k = neighbours.index.shape
    column = neighbours.index.flatten()
    row = torch.arange(n_items, device=column.device).repeat_interleave(k)
    match weights:
        case "similarity":
            value = neighbours.similarity.flatten()
            kept = (column >= 0) & (value > 0)
        case "binary":
            value = torch.ones_like(neighbours.similarity).flatten()
            kept = column >= 0
        case _:
            raise ValueError(f"weights must be similarity or binary, found {weights}")
    row, column, value = row[kept], column[kept], value[kept]
    if symmetrize:
        row, column, value = _union(row, column, value, n_items)

    match normalize:
        case "symmetric":
            value = symmetric_normalization(row, column, value, n_items)
        case "row":
            value = value / value.new_zeros(n_items).index_add_(0, row, value)[row]
        case "none":
            pass
        case _:
            raise ValueError(f"normalize must be symmetric, row or none, found {normalize}")
    return csr_matrix(row, column, value, (n_items, n_items))


def _union(row: Tensor, column: Tensor, value: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Add each edge in both directions, without duplicates."""
    key, order = torch.cat([row * size + column, column * size + row]).sort()
    first = key.diff(prepend=key.new_tensor([-1])) != 0
    key, value = key[first], value.repeat(2)[order][first]  # duplicates have equal cosines
    return key // size, key % size, value


def _top_keys(tile: Tensor, columns: Tensor, k: int) -> Tensor:
    """Return the k largest entries of each row as integer keys.

    Keys sort by similarity, then by lower column. The high half of a key holds the bits of the
    float, transformed so that integers sort like floats.
    """
    bits = (tile + 0.0).view(torch.int32)  # adding zero makes -0.0 and 0.0 equal
    bits ^= (bits >> 31) & _LOW_BITS
    keys = bits.long().bitwise_left_shift_(32).bitwise_or_(_LOW_BITS - columns)
    return keys.topk(min(k, len(columns)), sorted=False).values


def _from_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the similarities and columns of the keys of `_top_keys`."""
    bits = (keys >> 32).int()
    bits ^= (bits >> 31) & _LOW_BITS
    return bits.view(torch.float32), _LOW_BITS - (keys & _LOW_BITS)
