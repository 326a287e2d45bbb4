"""Content ItemKNN: recommend items with similar content to the user's history.

Item-based nearest neighbours (Sarwar et al., WWW 2001, https://doi.org/10.1145/371920.372071), with
content similarity instead of co-occurrence. Ours: the similarity is averaged over modalities.

Shapes: I items, B batch.
"""

from __future__ import annotations

from torch import Tensor

from mmrec.config.checks import check_at_least
from mmrec.data import Queries, TrainingView, require_modalities
from mmrec.graphs import content_similarity
from mmrec.models.base import Recommender
from mmrec.nn import UserItems, neighbour_values, sparse_matmul


class ItemKNN(Recommender):
    """Score items by their summed content similarity to the user's history.

    Args:
        corpus: training interactions and at least one modality.
        k: number of neighbours per item and modality.
    """

    closed_form = True
    similarity: Tensor

    def __init__(self, corpus: TrainingView, *, k: int = 10) -> None:
        check_at_least(1, k=k)
        super().__init__(corpus)
        similarity = content_similarity(require_modalities(corpus, "item_knn"), k)  # [I, I]
        self.register_buffer("similarity", similarity, persistent=False)
        self.user_items = UserItems(corpus.train, corpus.n_users, corpus.n_items)

    def score(self, encoded: None, queries: Queries) -> Tensor:
        """Sum the similarities to the items of each history: [B, I]."""
        history = self.user_items(queries.user).to_dense().T.contiguous()  # [I, B]
        return sparse_matmul(self.similarity, history).T

    def item_similarity(self, encoded: None, items: Tensor) -> Tensor:
        """Return the content similarity to neighbours, and -inf for other items: [B, I]."""
        return neighbour_values(self.similarity, items)
