"""Most popular: everybody is shown what most users have. A yardstick with no paper."""

from __future__ import annotations

from torch import Tensor

from mmrec.data import Queries, TrainingView
from mmrec.models.base import Recommender


class MostPop(Recommender):
    """An item's score is the number of its train interactions.

    Args:
        corpus: only its train interactions are read.
    """

    closed_form = True
    reads_content = False
    counts: Tensor

    def __init__(self, corpus: TrainingView) -> None:
        super().__init__(corpus)
        self.register_buffer("counts", corpus.item_counts().float())

    def score(self, encoded: None, queries: Queries) -> Tensor:
        """The same for everybody: [B, I]."""
        return self.counts.repeat(len(queries.user), 1)
