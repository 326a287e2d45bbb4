"""Check that scores are finite."""

from __future__ import annotations

from torch import Tensor


class NonFiniteScores(ValueError):
    """Raised if a score is NaN or infinite."""


def check_finite(users: Tensor, scores: Tensor, remedy: str) -> None:
    """Check that all scores [B, I] of users [B] are finite.

    Raises:
        NonFiniteScores: a score is NaN or infinite; the message ends with the remedy.
    """
    low, high = scores.aminmax()
    if low.isfinite() and high.isfinite():
        return
    row, item = (~scores.isfinite()).nonzero()[0].tolist()
    raise NonFiniteScores(
        f"the score of user {users[row].item()} for item {item} is {scores[row, item].item()}; "
        f"{remedy}"
    )
