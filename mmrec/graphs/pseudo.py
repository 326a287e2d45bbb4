"""Edges that content suggests, beside those that users made.

U users, I items, N pseudo-edges.
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

# Part of every cache key: raise it when the same arguments give other edges.
_VERSION = 2

EdgeChoice = Literal["content", "random"]


class PseudoEdges(NamedTuple):
    """User-item pairs that are not in train.

    Attributes:
        user: [N] int64.
        item: [N] int64.
        weight: [N] float32, 0..1; the best of each user has 1.
    """

    user: Tensor
    item: Tensor
    weight: Tensor


def tail_items(corpus: TrainingView) -> Tensor:
    """[I] bool: items of at most the median number of train interactions."""
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
    """For each user the unseen items most like those they have in train; kept in the cache.

    An item is worth its mean similarity (`content_similarity`) to a user's train items, or the sum,
    which ranks alike; only what is worth more than nothing is taken. Memory grows with `block`, not
    with U.

    Args:
        corpus: training interactions and modalities.
        per_user: edges of each user, at most; 0 for none.
        neighbours: of each item and modality, in the similarity.
        tail_only: whether only items of at most the median number of train interactions qualify.
        choice: `content`; or `random`, to compare with: as many edges of each user and of the same
            weights, to items that qualify.
        seed: of the random ones.
        block: users at a time; bears on memory and speed only.

    Raises:
        SettingError: a negative number of edges.
        DataError: there is no content.
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
    """What pseudo-edges are like; a diagnostic, which nothing learns from.

    Attributes:
        edges: how many.
        tail: share that goes to items of at most the median number of train interactions.
        val_hits: share of the validation interactions that are among them.
        val_chance: the same share, had the users' edges gone to any unseen items.
    """

    edges: int
    tail: float
    val_hits: float
    val_chance: float

    def __str__(self) -> str:
        return (
            f"{self.edges:,} pseudo-edges, {self.tail:.0%} to items of at most median popularity; "
            f"{self.val_hits:.2%} of the validation interactions are among them (by chance "
            f"{self.val_chance:.2%}; nothing learns from this)"
        )


def edge_statistics(corpus: Corpus, edges: PseudoEdges) -> EdgeStatistics:
    """Count what pseudo-edges reach."""
    count, val = len(edges.user), corpus.val
    tail = float(tail_items(corpus)[edges.item].float().mean()) if count else 0.0
    codes = edges.user * corpus.n_items + edges.item
    hits = torch.isin(val.user * corpus.n_items + val.item, codes).float().mean()
    drawn = torch.bincount(edges.user, minlength=corpus.n_users)
    unseen = corpus.n_items - corpus.user_counts()
    chance = (drawn / unseen.clamp(min=1))[val.user].mean()
    return EdgeStatistics(count, tail, float(hits), float(chance))


def augmented_adjacency(corpus: TrainingView, edges: PseudoEdges, weight: float) -> Tensor:
    """The normalised user-item graph with pseudo-edges in it.

    `D^-1/2 A D^-1/2`, where A holds 1 for each train interaction and `weight` times its own for
    each pseudo-edge, and D its row sums.

    Args:
        corpus: whose train interactions count in full.
        edges: to add; none may be in train.
        weight: of a pseudo-edge beside an interaction.

    Returns:
        [U+I, U+I] sparse CSR float32, symmetric; users come first.
    """
    train = corpus.train
    both = Interactions(torch.cat([train.user, edges.user]), torch.cat([train.item, edges.item]))
    weights = torch.cat([torch.ones(len(train)), weight * edges.weight]).double()
    return normalized_adjacency(both, corpus.n_users, corpus.n_items, weights)
