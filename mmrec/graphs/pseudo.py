"""Pseudo-edges: additional user-item edges from content similarity.

Shapes: U users, I items, N pseudo-edges.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mmrec.config.bars import steps
from mmrec.config.checks import check_at_least
from mmrec.data import Corpus, Interactions, TrainingView, content_hash, require_modalities
from mmrec.data.batches import ranges
from mmrec.graphs.bipartite import normalized_adjacency
from mmrec.graphs.cache import Key, cached
from mmrec.graphs.content import content_similarity
from mmrec.graphs.sparse import csr_matrix

# Part of all cache keys: increase it if the result for the same arguments changes.
_VERSION = 2

EdgeChoice = Literal["content", "random"]


class PseudoEdges(NamedTuple):
    """Weighted user-item pairs that are not in the training interactions.

    Attributes:
        user: [N] int64.
        item: [N] int64.
        weight: [N] float32 in 0..1; the largest weight of each user is 1.
    """

    user: Tensor
    item: Tensor
    weight: Tensor


def tail_items(corpus: TrainingView) -> Tensor:
    """Return the mask of items with at most the median number of training interactions: [I]."""
    counts = corpus.item_counts()
    return counts <= counts.median()


def pseudo_edges(
    corpus: TrainingView,
    *,
    per_user: int,
    neighbours: int,
    tail_only: bool = True,
    choice: EdgeChoice = "content",
    seed: int = 0,
    block: int = 1024,
) -> PseudoEdges:
    """Connect each user to the unseen items most similar to their training items.

    Items are ranked by the sum of their content similarities (`content_similarity`) to the training
    items of a user; only positive sums give an edge. The result is cached. The peak memory depends
    on `block`, not on U.

    Args:
        corpus: training interactions and at least one modality.
        per_user: maximum number of edges per user; 0 for none.
        neighbours: number of neighbours per item and modality in the content similarity.
        tail_only: add edges only to items with at most the median number of training interactions.
        choice: `content`, or `random` as a control: the same number of edges per user and the same
            weights, with random eligible items.
        seed: random seed of `random`.
        block: number of users processed at a time; affects only memory and speed.

    Raises:
        SettingError: `per_user` is negative, or too few items have a modality.
        DataError: the data have no modality.
    """
    check_at_least(0, pseudo_edges=per_user)
    train = corpus.train
    modalities = require_modalities(corpus, "with pseudo-edges")

    def build() -> dict[str, Tensor]:
        everything = torch.ones(corpus.n_items, dtype=torch.bool)
        qualifies = tail_items(corpus) if tail_only else everything
        similarity = content_similarity(modalities, neighbours)
        generator = torch.Generator().manual_seed(seed)
        grouped = Interactions(train.user, train.item).by_user(corpus.n_users)
        most = min(per_user, corpus.n_items)
        found = []
        starts = range(0, corpus.n_users, block)
        for first in steps(starts, "pseudo-edges", "block"):
            last = min(first + block, corpus.n_users)
            start = grouped.start[first : last + 1]
            rows, places = ranges(start[:-1], start.diff())
            columns = grouped.item[places]
            shape = (last - first, corpus.n_items)
            history = csr_matrix(rows, columns, torch.ones(len(rows)), shape)
            barred = (~qualifies).repeat(last - first, 1)
            barred[rows, columns] = True
            alike = (history @ similarity).to_dense().masked_fill_(barred, 0)
            worth, to = alike.topk(most, dim=1)
            kept = worth > 0
            if choice == "random":
                luck = 1 - torch.rand(shape, generator=generator)  # above 0
                to = luck.masked_fill_(barred, 0).topk(most, dim=1).indices
            who = torch.arange(first, last).unsqueeze(1).expand_as(kept)
            weight = worth / worth[:, :1].clamp(min=1e-12)
            found.append((who[kept], to[kept], weight[kept]))
        whole = (torch.cat(column) for column in zip(*found, strict=True))
        return dict(zip(PseudoEdges._fields, whole, strict=True))

    if per_user == 0:
        none = torch.zeros(0, dtype=torch.int64)
        return PseudoEdges(none, none, torch.zeros(0))
    key: dict[str, Key] = {
        "version": _VERSION,
        "train": content_hash([train.user, train.item]),
        "features": {name: modality.digest for name, modality in modalities.items()},
        "per_user": per_user,
        "neighbours": neighbours,
        "tail_only": tail_only,
        "choice": choice,
        "seed": seed if choice == "random" else None,
    }
    return PseudoEdges(**cached("pseudo", key, build))


class EdgeStatistics(NamedTuple):
    """Statistics of pseudo-edges, for diagnosis only; models do not use them.

    Attributes:
        edges: number of edges.
        tail: share of edges to items with at most the median number of training interactions.
        val_hits: share of the validation interactions that equal a pseudo-edge.
        val_chance: expected share for random edges of the same users to unseen items.
    """

    edges: int
    tail: float
    val_hits: float
    val_chance: float

    def __str__(self) -> str:
        return (
            f"{self.edges:,} pseudo-edges, {self.tail:.0%} to items of at most median popularity; "
            f"they contain {self.val_hits:.2%} of the validation interactions (by chance "
            f"{self.val_chance:.2%}; not used for training)"
        )


def edge_statistics(corpus: Corpus, edges: PseudoEdges) -> EdgeStatistics:
    """Compute the statistics of pseudo-edges."""
    count, val = len(edges.user), corpus.val
    tail = float(tail_items(corpus)[edges.item].float().mean()) if count else 0.0
    codes = edges.user * corpus.n_items + edges.item
    hits = torch.isin(val.user * corpus.n_items + val.item, codes).float().mean()
    drawn = torch.bincount(edges.user, minlength=corpus.n_users)
    unseen = corpus.n_items - corpus.user_counts()
    chance = (drawn / unseen.clamp(min=1))[val.user].mean()
    return EdgeStatistics(count, tail, float(hits), float(chance))


def augmented_adjacency(corpus: TrainingView, edges: PseudoEdges, weight: float) -> Tensor:
    """Return the normalised user-item graph with pseudo-edges.

    The graph is `D^-1/2 A D^-1/2`, where A is 1 for training interactions and `weight` times the
    weight of the edge for pseudo-edges, and D holds the row sums of A.

    Args:
        corpus: training interactions.
        edges: pseudo-edges, which must not be in the training interactions.
        weight: weight of pseudo-edges relative to interactions.

    Returns:
        [U+I, U+I] sparse CSR float32, symmetric, with users first.
    """
    train = corpus.train
    both = Interactions(torch.cat([train.user, edges.user]), torch.cat([train.item, edges.item]))
    weights = torch.cat([torch.ones(len(train)), weight * edges.weight]).double()
    return normalized_adjacency(both, corpus.n_users, corpus.n_items, weights)
