"""The best items of users, from scores."""

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
    """The k best of each row: [B, min(k, I)]; -1 where there are fewer candidates.

    Args:
        scores: [B, I].
        users: [B], for errors and, without `ties`, for the order of equal scores.
        k: length of a list.
        mask: [2, N] rows and items that are not candidates.
        allowed: [I] bool, items that are candidates for anybody; None: all.
        ties: [B] int64; rows with the same number order equal scores alike.

    Raises:
        NonFiniteScores: a score is NaN or infinite.
    """
    check_finite(users, scores, "the model has diverged: recommend from another run")
    if mask is not None:
        scores = scores.index_put(tuple(mask), scores.new_tensor(-torch.inf))
    if allowed is not None:
        scores = scores.masked_fill(~allowed.to(scores.device), -torch.inf)
    return rank_items(scores, users if ties is None else ties, min(k, scores.shape[1]))
