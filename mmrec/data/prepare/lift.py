"""Whether features belong to their items: content neighbours are shared by more users than chance.

Shape legend: U users, I items, C candidates, Q queries, k neighbours, F width of a modality.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mmrec.config.bars import steps
from mmrec.data.corpus import Interactions, Modality

Rows = npt.NDArray[np.int64]

QUERIES = 1000  # items whose neighbours are looked up
CANDIDATES = 100_000  # items among which they are
NEIGHBOURS = 10
SHUFFLES = 20  # random assignments of features to items that the lift is compared with
SATURATED = 0.8  # share of random pairs with a common user beyond which a lift says nothing
LEAST = 1.05  # a smaller lift shows nothing, whatever shuffled features reach
BLOCK = 2**22  # values of a feature matrix, or of similarities, at a time
TILE = 64  # items whose shared users are counted at a time


@dataclass(frozen=True)
class Lift:
    """How much more often content neighbours share a user than random pairs of items do.

    Attributes:
        value: share of neighbour pairs with a common user, over that of random pairs; None if no
            random pair has one.
        shuffled: the largest value of features that were shuffled among items.
        neighbours: share of neighbour pairs with a common user.
        random: share of random pairs with one.
        queries: Q, items whose neighbours were looked up.
        k: neighbours of each.
    """

    value: float | None
    shuffled: float | None
    neighbours: float
    random: float
    queries: int
    k: int

    @property
    def suspicious(self) -> bool:
        """Whether the features could as well be those of other items, as far as pairs can tell."""
        if self.random > SATURATED:
            return False
        if self.value is None or self.shuffled is None:
            return True
        return self.value < LEAST or self.value <= self.shuffled


class CoInteraction:
    """Which pairs of items have a common user; a dense matrix of all pairs is never made.

    Args:
        interactions: N rows.
        n_users: U.
        n_items: I.
    """

    def __init__(self, interactions: Interactions, n_users: int, n_items: int) -> None:
        user, item = interactions.user.numpy(), interactions.item.numpy()
        ones = np.ones(len(user), dtype=np.int32)
        self.matrix = sparse.csr_array((ones, (item, user)), shape=(n_items, n_users))  # [I, U]
        self.matrix.sum_duplicates()
        self.matrix.data[:] = 1

    @property
    def pairs(self) -> int:
        """The number of different user-item pairs."""
        return int(self.matrix.nnz)

    def items(self) -> Rows:
        """The items with an interaction, in order."""
        return np.diff(self.matrix.indptr).nonzero()[0].astype(np.int64)

    def users(self, left: Rows, right: Rows) -> Rows:
        """The number of users that the items of each pair share: [P] from two [P]."""
        both = self.matrix[left].multiply(self.matrix[right])
        return np.asarray(both.sum(axis=1), dtype=np.int64)

    def degree(self, items: Rows, candidates: Rows) -> Rows:
        """The number of other candidates that share a user with each item, itself a candidate."""
        counts = np.zeros(len(items), dtype=np.int64)
        others = self.matrix[candidates].T.tocsr()  # [U, C]
        for start in range(0, len(items), TILE):
            shared = self.matrix[items[start : start + TILE]] @ others  # [T, C]
            counts[start : start + TILE] = np.diff(shared.indptr) - 1
        return counts


def usable(modality: Modality, items: Rows) -> Rows:
    """Those of some items that have features which are not all zero."""
    rows = items[modality.present.numpy()[items]]
    features = modality.features.numpy()
    step = max(1, BLOCK // modality.width)
    parts = [rows[start : start + step] for start in range(0, len(rows), step)]
    kept = [part[features[part].any(axis=1)] for part in parts]
    return np.concatenate([rows[:0], *kept])


def nearest(
    modality: Modality, queries: Rows, candidates: Rows, k: int
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Find the k nearest candidates of some items by cosine, best first; never an item itself.

    Features are read once, blockwise; memory does not grow with I.

    Args:
        modality: content.
        queries: [Q] items that have features.
        candidates: [C] items that have features, in order.
        k: fewer than C.

    Returns:
        [Q, k] items, and [Q, k] cosines.
    """
    features = modality.features.numpy()
    left = _unit(features[queries])  # [Q, F]
    item: npt.NDArray[np.int64] = np.empty((len(queries), 0), dtype=np.int64)
    cosine: npt.NDArray[np.float32] = np.empty((len(queries), 0), dtype=np.float32)
    step = max(1, BLOCK // max(modality.width, len(queries)))
    for start in steps(range(0, len(candidates), step), "content neighbours", "blocks"):
        block = candidates[start : start + step]
        found = left @ _unit(features[block]).T  # [Q, B]
        found[queries[:, None] == block] = -np.inf
        cosine = np.concatenate([cosine, found], axis=1)
        item = np.concatenate([item, np.broadcast_to(block, found.shape)], axis=1)
        if item.shape[1] > k:
            best = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
            cosine = np.take_along_axis(cosine, best, axis=1)
            item = np.take_along_axis(item, best, axis=1)
    order = np.lexsort((item, -cosine), axis=1)
    return np.take_along_axis(item, order, axis=1), np.take_along_axis(cosine, order, axis=1)


def content_lift(
    modality: Modality, shared: CoInteraction, *, seed: int = 0, k: int = NEIGHBOURS
) -> Lift | None:
    """Compare content neighbours with random pairs.

    Neighbours of a sample of items are looked up among a sample of candidates. The share of random
    pairs is exact for these items. Shuffled features are those neighbours under other names, so
    that an item which is the neighbour of many stays one.

    Args:
        modality: content.
        shared: users of items.
        seed: of the samples and shuffles.
        k: neighbours of each item.

    Returns:
        None if fewer than k + 2 items have both features and an interaction.
    """
    draw = np.random.default_rng(seed)
    candidates = _sample(usable(modality, shared.items()), CANDIDATES, draw)
    if len(candidates) < k + 2:
        return None
    queries = _sample(candidates, QUERIES, draw)
    neighbours, _ = nearest(modality, queries, candidates, k)
    left, right = queries.repeat(k), neighbours.flatten()
    random = float(shared.degree(queries, candidates).mean() / (len(candidates) - 1))
    found = float((shared.users(left, right) > 0).mean())
    place = np.searchsorted(candidates, right)
    values = []
    for _ in range(SHUFFLES):
        renamed = draw.permutation(candidates)[place]
        other = renamed != left
        values.append(float((shared.users(left[other], renamed[other]) > 0).mean()))
    return Lift(
        value=found / random if random else None,
        shuffled=max(values) / random if random else None,
        neighbours=found,
        random=random,
        queries=len(queries),
        k=k,
    )


def _sample(items: Rows, size: int, draw: np.random.Generator) -> Rows:
    """At most `size` of some items, in order."""
    if len(items) <= size:
        return items
    return np.sort(draw.choice(items, size, replace=False))


def _unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Rows of unit length; large values do not overflow."""
    scaled = rows / np.abs(rows).max(axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return unit


def lift_warning(kind: str, lift: Lift | None) -> str | None:
    """Say that features may be those of other items; None if nothing says so.

    Args:
        kind: name of the modality.
        lift: of its neighbours.
    """
    if lift is None or not lift.suspicious:
        return None
    if lift.value is None:
        return f"{kind}: no two items share a user, so the features cannot be checked"
    return (
        f"{kind}: content neighbours share a user {lift.value:.2f} times as often as random items, "
        f"and shuffled features {lift.shuffled:.2f} times; the features may belong to other items"
    )
