"""Refuse scores that cannot be ranked."""

from __future__ import annotations

from torch import Tensor


class NonFiniteScores(ValueError):
    """A model gave NaN or infinity where a score was due."""


def check_finite(users: Tensor, scores: Tensor, remedy: str) -> None:
    """Refuse scores [B, I] of users [B] that cannot be ranked.

    Raises:
        NonFiniteScores: names the first that is NaN or infinite, and the remedy.
    """
    low, high = scores.aminmax()
    if low.isfinite() and high.isfinite():
        return
    row, item = (~scores.isfinite()).nonzero()[0].tolist()
    raise NonFiniteScores(
        f"the score of user {users[row].item()} for item {item} is {scores[row, item].item()}; "
        f"{remedy}"
    )
