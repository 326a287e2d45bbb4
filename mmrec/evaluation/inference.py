"""Top-k items of users from scores."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrec.evaluation.finite import check_finite
from mmrec.evaluation.metrics import rank_items


def best_items(
    scores: Tensor,
    users: Tensor,
    k: int,
    mask: Tensor | None = None,
    allowed: Tensor | None = None,
    ties: Tensor | None = None,
) -> Tensor:
    """Return the top-k items of each row.

    Args:
        scores: scores, [B, I].
        users: users, [B], for error messages and, without `ties`, for the order of equal scores.
        k: length of the lists.
        mask: rows and items to exclude, [2, N].
        allowed: mask of the candidates, [I] bool; None for all items.
        ties: seeds of the order of equal scores, [B] int64; rows with equal seeds have the same
            order.

    Returns:
        Items, best first, [B, min(k, I)] int64; -1 if there are fewer candidates.

    Raises:
        NonFiniteScores: a score is NaN or infinite.
    """
    check_finite(users, scores, "the model has diverged; recommend from another run")
    if mask is not None:
        scores = scores.index_put(tuple(mask), scores.new_tensor(-torch.inf))
    if allowed is not None:
        scores = scores.masked_fill(~allowed.to(scores.device), -torch.inf)
    return rank_items(scores, users if ties is None else ties, min(k, scores.shape[1]))
