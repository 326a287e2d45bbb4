"""MostPop: recommend the most popular items to all users. A baseline without a paper."""

from __future__ import annotations

from torch import Tensor

from mmrec.data import Queries, TrainingView
from mmrec.models.base import Recommender


class MostPop(Recommender):
    """Score items by their number of training interactions.

    Args:
        corpus: training interactions; content is not used.
    """

    closed_form = True
    reads_content = False
    counts: Tensor

    def __init__(self, corpus: TrainingView) -> None:
        super().__init__(corpus)
        self.register_buffer("counts", corpus.item_counts().float())

    def score(self, encoded: None, queries: Queries) -> Tensor:
        """Return the same scores for all users: [B, I]."""
        return self.counts.repeat(len(queries.user), 1)
