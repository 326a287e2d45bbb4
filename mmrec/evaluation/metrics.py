"""Ranking, and what a ranking is worth: pure functions of tensors.

Shape legend: B users of a batch, I items, K length of a ranked list, C cutoffs, F width of a
modality; `...` stands for any leading dimensions.

The accuracy of a list is given at every cutoff at once: column r - 1 is the value at cutoff r.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TIED_BLOCK = 2**18  # scores at a time: stays in the processor's cache and bounds the memory


def rank_items(scores: Tensor, users: Tensor, k: int) -> Tensor:
    """The k best items of every row, best first.

    Equal scores are ordered by a hash of user and item alone. So the ranking depends neither on the
    batch nor on the machine, and a model that scores everything alike ranks at random.

    Args:
        scores: [B, I] of any float type, compared as float32; -inf: never to be ranked.
        users: [B] int64, 0..2^31-1.
        k: length of the list, at most I.

    Returns:
        [B, k] int64; -1 where fewer than k items may be ranked.
    """
    scores = scores.float()
    top = scores.topk(min(k + 1, scores.shape[1]))  # one more, to see a tie across the edge
    ranked = top.indices[:, :k]
    better, worse = top.values[:, :-1], top.values[:, 1:]
    tied = ((better == worse) & (worse > -torch.inf)).any(1).nonzero().squeeze(1)
    for rows in torch.split(tied, max(1, TIED_BLOCK // scores.shape[1])):
        ranked[rows] = _tie_free(scores[rows], users[rows]).topk(k).indices
    return ranked.masked_fill(top.values[:, :k] == -torch.inf, -1)


def _tie_free(scores: Tensor, users: Tensor) -> Tensor:
    """[B, I] float32 -> [B, I] int64: distinct in a row, in the order of the scores."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes one zero of two
    ordered = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)  # negatives grow downwards
    items = torch.arange(scores.shape[1], device=scores.device)
    tie = _mix(_mix(_mix(users.int()))[:, None] + _mix(_mix(items.int())))  # distinct in a row
    return ordered.long().bitwise_left_shift_(32).add_(tie)


def _mix(x: Tensor) -> Tensor:
    """A bijection of int32 that leaves no visible order; the product wraps around on purpose."""
    return (x >> 16).bitwise_and_(0xFFFF).bitwise_xor_(x).mul_(0x45D9F3B)


def accuracy(hits: Tensor, held_out: Tensor) -> dict[str, Tensor]:
    """Every accuracy metric by name, each [..., K]; arguments as for `recall`."""
    return {
        "recall": recall(hits, held_out),
        "hit_rate": hit_rate(hits),
        "precision": precision(hits),
        "ndcg": ndcg(hits, held_out),
        "mrr": reciprocal_rank(hits),
        "map": average_precision(hits, held_out),
    }


def recall(hits: Tensor, held_out: Tensor) -> Tensor:
    """Share of the held-out items that are found.

    Args:
        hits: [..., K] bool, in rank order.
        held_out: [...] int64, number of held-out items; a list with none is worth 0.

    Returns:
        [..., K] float64.
    """
    return _found(hits) / held_out.clamp(min=1)[..., None]


def hit_rate(hits: Tensor) -> Tensor:
    """1 once anything is found: [..., K] bool -> [..., K] float64."""
    return _found(hits).clamp(max=1)


def precision(hits: Tensor) -> Tensor:
    """Share of the list that is found: [..., K] bool -> [..., K] float64."""
    return _found(hits) / _ranks(hits)


def ndcg(hits: Tensor, held_out: Tensor) -> Tensor:
    """Discounted gain over that of the best list possible; as `recall`."""
    discount = 1 / torch.log2(_ranks(hits) + 1)  # [K]
    ideal = discount.cumsum(0)[_attainable(hits, held_out) - 1]  # [..., K]
    return (hits * discount).cumsum(-1) / ideal


def reciprocal_rank(hits: Tensor) -> Tensor:
    """1 / rank of the first hit, else 0: [..., K] bool -> [..., K] float64."""
    return (hits / _ranks(hits)).cummax(-1).values


def average_precision(hits: Tensor, held_out: Tensor) -> Tensor:
    """Mean over attainable hits of the precision at their ranks; as `recall`."""
    return (hits * precision(hits)).cumsum(-1) / _attainable(hits, held_out)


def _found(hits: Tensor) -> Tensor:
    return hits.cumsum(-1, dtype=torch.float64)


def _ranks(hits: Tensor) -> Tensor:
    """[K] float64: 1, 2, ..., K."""
    return torch.arange(1, hits.shape[-1] + 1, device=hits.device, dtype=torch.float64)


def _attainable(hits: Tensor, held_out: Tensor) -> Tensor:
    """[..., K] int64: how many hits the first r ranks can hold, at least 1."""
    return torch.minimum(_ranks(hits).long(), held_out.clamp(min=1)[..., None])


def coverage(recommended: Tensor) -> Tensor:
    """Share of the catalogue that is recommended to anybody.

    Args:
        recommended: [..., I] int64, in how many lists an item stands.

    Returns:
        [...] float64.
    """
    return (recommended > 0).double().mean(-1)


def gini(recommended: Tensor) -> Tensor:
    """Inequality of exposure; as `coverage`.

    0 if all items stand in equally many lists, 1 - 1/I if one item fills them all.
    """
    n_items = recommended.shape[-1]
    rank = torch.arange(1, n_items + 1, device=recommended.device, dtype=torch.float64)
    ascending = recommended.sort(-1).values.double()
    return ((2 * rank - n_items - 1) * ascending).sum(-1) / (n_items * ascending.sum(-1))


def popularity(recommended: Tensor, item_counts: Tensor) -> Tensor:
    """Mean number of train interactions of a recommended item.

    Args:
        recommended: [..., I] int64, in how many lists an item stands.
        item_counts: [I] int64, train interactions.

    Returns:
        [...] float64.
    """
    return (recommended * item_counts).sum(-1) / recommended.sum(-1).double()


def novelty(recommended: Tensor, item_counts: Tensor, n_users: int) -> Tensor:
    """Mean self-information of a recommended item, -log2(count / users), in bits.

    An item without train interactions is as surprising as one that a single user has: log2(users).

    Args:
        recommended: [..., I] int64, in how many lists an item stands.
        item_counts: [I] int64, train interactions.
        n_users: how many users could have interacted.

    Returns:
        [...] float64.
    """
    bits = -torch.log2(item_counts.clamp(min=1).double() / n_users)  # [I]
    return (recommended * bits).sum(-1) / recommended.sum(-1)


def inverse_row_norms(features: Tensor) -> Tensor:
    """1 / Euclidean norm of each row, 0 for a row of zeros: [I, F] -> [I]."""
    norm = torch.linalg.vector_norm(features, dim=1)
    return torch.where(norm > 0, 1 / norm, 0)


def diversity(
    ranked: Tensor, features: Tensor, inverse_norms: Tensor, cutoffs: Sequence[int]
) -> Tensor:
    """One minus the mean cosine of all pairs of items in a list.

    n unit vectors that sum to s have a mean cosine of (|s|^2 - n) / (n (n - 1)): no pair is formed.

    Args:
        ranked: [B, K] int64; -1 is no item.
        features: [I, F].
        inverse_norms: [I], as `inverse_row_norms(features)`; 0: no content, left out of the pairs.
        cutoffs: rising, C of them; the last is K.

    Returns:
        [B, C]; NaN for a list in which fewer than two items have content.
    """
    n_lists, length = ranked.shape
    assert length == cutoffs[-1], f"lists of {length} items, the last cutoff is {cutoffs[-1]}"
    start = torch.tensor((0, *cutoffs[:-1]), device=ranked.device)
    offsets = torch.arange(n_lists, device=ranked.device)[:, None] * length + start  # [B, C]
    items = ranked.clamp(min=0)
    weight = inverse_norms[items].masked_fill(ranked < 0, 0)  # [B, K]
    between = F.embedding_bag(
        items.flatten(),
        features,
        offsets.flatten(),
        mode="sum",
        per_sample_weights=weight.flatten(),
    )  # [B * C, F], from one cutoff to the next
    total = between.view(n_lists, len(cutoffs), -1).cumsum(1)  # [B, C, F]
    last = torch.tensor(cutoffs, device=ranked.device) - 1
    n = (weight > 0).cumsum(1)[:, last]  # [B, C]
    cosine = (total.square().sum(-1) - n) / (n * (n - 1))
    return torch.where(n > 1, 1 - cosine, torch.nan)
