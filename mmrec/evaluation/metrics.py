"""Ranking and ranking metrics, as pure functions of tensors.

Accuracy metrics are computed for all cutoffs at once: column r - 1 is the value at cutoff r.

Shapes: B users of a batch, I items, K length of a ranked list, C cutoffs, F width of a modality;
`...` stands for any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TIED_BLOCK = 2**18  # scores processed at a time, which fit the cache of a CPU


def rank_items(scores: Tensor, users: Tensor, k: int) -> Tensor:
    """Return the top-k items of each row, best first.

    Equal scores are ordered by a hash of user and item. The ranking therefore does not depend on
    the batch or the machine, and a model with constant scores ranks at random.

    Args:
        scores: scores of any float type, [B, I], compared as float32; -inf excludes an item.
        users: users, [B] int64, 0..2^31-1.
        k: length of the lists, at most I.

    Returns:
        Items, [B, k] int64; -1 if fewer than k items have a score above -inf.
    """
    scores = scores.float()
    top = scores.topk(min(k + 1, scores.shape[1]))  # k + 1 to detect a tie at the last rank
    ranked = top.indices[:, :k]
    better, worse = top.values[:, :-1], top.values[:, 1:]
    tied = ((better == worse) & (worse > -torch.inf)).any(1).nonzero().squeeze(1)
    for rows in torch.split(tied, max(1, TIED_BLOCK // scores.shape[1])):
        ranked[rows] = _tie_free(scores[rows], users[rows]).topk(k).indices
    return ranked.masked_fill(top.values[:, :k] == -torch.inf, -1)


def _tie_free(scores: Tensor, users: Tensor) -> Tensor:
    """Map scores to integers in the same order without ties: [B, I] float32 -> [B, I] int64."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 converts -0.0 to 0.0
    ordered = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)  # reverse negative floats
    items = torch.arange(scores.shape[1], device=scores.device)
    tie = _mix(_mix(_mix(users.int()))[:, None] + _mix(_mix(items.int())))  # unique in a row
    return ordered.long().bitwise_left_shift_(32).add_(tie)


def _mix(x: Tensor) -> Tensor:
    """Hash int32 values with a bijection that uses integer overflow."""
    return (x >> 16).bitwise_and_(0xFFFF).bitwise_xor_(x).mul_(0x45D9F3B)


def accuracy(hits: Tensor, held_out: Tensor) -> dict[str, Tensor]:
    """Return all accuracy metrics by name, [..., K] each. See `recall` for the arguments."""
    return {
        "recall": recall(hits, held_out),
        "hit_rate": hit_rate(hits),
        "precision": precision(hits),
        "ndcg": ndcg(hits, held_out),
        "mrr": reciprocal_rank(hits),
        "map": average_precision(hits, held_out),
    }


def recall(hits: Tensor, held_out: Tensor) -> Tensor:
    """Recall: share of the held-out items that are in the list.

    Args:
        hits: whether the item at each rank is held out, [..., K] bool.
        held_out: number of held-out items, [...] int64; the recall of lists without any is 0.

    Returns:
        Recall at each cutoff, [..., K] float64.
    """
    return _found(hits) / held_out.clamp(min=1)[..., None]


def hit_rate(hits: Tensor) -> Tensor:
    """Hit rate: 1 if the list has any hit, else 0: [..., K] bool -> [..., K] float64."""
    return _found(hits).clamp(max=1)


def precision(hits: Tensor) -> Tensor:
    """Precision: share of hits in the list: [..., K] bool -> [..., K] float64."""
    return _found(hits) / _ranks(hits)


def ndcg(hits: Tensor, held_out: Tensor) -> Tensor:
    """NDCG with binary relevance. See `recall` for the arguments and the result."""
    discount = 1 / torch.log2(_ranks(hits) + 1)  # [K]
    ideal = discount.cumsum(0)[_attainable(hits, held_out) - 1]  # [..., K]
    return (hits * discount).cumsum(-1) / ideal


def reciprocal_rank(hits: Tensor) -> Tensor:
    """Reciprocal rank of the first hit, 0 without hits: [..., K] bool -> [..., K] float64."""
    return (hits / _ranks(hits)).cummax(-1).values


def average_precision(hits: Tensor, held_out: Tensor) -> Tensor:
    """Average precision: sum of the precision at hits, divided by the attainable number of hits.

    See `recall` for the arguments and the result.
    """
    return (hits * precision(hits)).cumsum(-1) / _attainable(hits, held_out)


def _found(hits: Tensor) -> Tensor:
    return hits.cumsum(-1, dtype=torch.float64)


def _ranks(hits: Tensor) -> Tensor:
    """Return the ranks 1, 2, ..., K: [K] float64."""
    return torch.arange(1, hits.shape[-1] + 1, device=hits.device, dtype=torch.float64)


def _attainable(hits: Tensor, held_out: Tensor) -> Tensor:
    """Return the maximum number of hits in the first r ranks, at least 1: [..., K] int64."""
    return torch.minimum(_ranks(hits).long(), held_out.clamp(min=1)[..., None])


def coverage(recommended: Tensor) -> Tensor:
    """Catalogue coverage: share of the items that are in any list.

    Args:
        recommended: number of lists that contain each item, [..., I] int64.

    Returns:
        Coverage, [...] float64.
    """
    return (recommended > 0).double().mean(-1)


def gini(recommended: Tensor) -> Tensor:
    """Gini coefficient of exposure. See `coverage` for the argument and the result.

    It is 0 if all items are in equally many lists, and 1 - 1/I if all lists contain only one item.
    """
    n_items = recommended.shape[-1]
    rank = torch.arange(1, n_items + 1, device=recommended.device, dtype=torch.float64)
    ascending = recommended.sort(-1).values.double()
    return ((2 * rank - n_items - 1) * ascending).sum(-1) / (n_items * ascending.sum(-1))


def popularity(recommended: Tensor, item_counts: Tensor) -> Tensor:
    """Mean number of training interactions of recommended items.

    Args:
        recommended: number of lists that contain each item, [..., I] int64.
        item_counts: number of training interactions of each item, [I] int64.

    Returns:
        Popularity, [...] float64.
    """
    return (recommended * item_counts).sum(-1) / recommended.sum(-1).double()


def novelty(recommended: Tensor, item_counts: Tensor, n_users: int) -> Tensor:
    """Mean self-information of recommended items, -log2(count / users), in bits.

    Items without training interactions have the same value as those with one: log2(users).

    Args:
        recommended: number of lists that contain each item, [..., I] int64.
        item_counts: number of training interactions of each item, [I] int64.
        n_users: number of users.

    Returns:
        Novelty, [...] float64.
    """
    bits = -torch.log2(item_counts.clamp(min=1).double() / n_users)  # [I]
    return (recommended * bits).sum(-1) / recommended.sum(-1)


def inverse_row_norms(features: Tensor) -> Tensor:
    """Return the inverse Euclidean norm of each row, 0 for rows of zeros: [I, F] -> [I]."""
    norm = torch.linalg.vector_norm(features, dim=1)
    return torch.where(norm > 0, 1 / norm, 0)


def diversity(
    ranked: Tensor, features: Tensor, inverse_norms: Tensor, cutoffs: Sequence[int]
) -> Tensor:
    """Diversity: one minus the mean cosine over all pairs of items in a list.

    The mean cosine of n unit vectors with sum s is (|s|^2 - n) / (n (n - 1)), which avoids loops
    over pairs.

    Args:
        ranked: items, [B, K] int64; -1 for empty ranks.
        features: features of items, [I, F].
        inverse_norms: result of `inverse_row_norms(features)`, [I]; items with 0 have no content
            and are excluded.
        cutoffs: C cutoffs in ascending order; the last one is K.

    Returns:
        Diversity, [B, C]; NaN for lists with fewer than two items with content.
    """
    n_lists, length = ranked.shape
    assert length == cutoffs[-1], f"lists have {length} items, but the last cutoff is {cutoffs[-1]}"
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
    )  # [B * C, F], sums between consecutive cutoffs
    total = between.view(n_lists, len(cutoffs), -1).cumsum(1)  # [B, C, F]
    last = torch.tensor(cutoffs, device=ranked.device) - 1
    n = (weight > 0).cumsum(1)[:, last]  # [B, C]
    cosine = (total.square().sum(-1) - n) / (n * (n - 1))
    return torch.where(n > 1, 1 - cosine, torch.nan)
