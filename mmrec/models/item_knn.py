"""Content ItemKNN: items like those that a user has, by what they look like.

The item-based neighbourhood of Sarwar et al., WWW 2001 (https://doi.org/10.1145/371920.372071),
with the similarity of content in the place of co-occurrence. Ours: the mean over modalities.

I items, B batch.
"""

from __future__ import annotations

from torch import Tensor

from mmrec.config.checks import check_at_least
from mmrec.data import Queries, TrainingView, require_modalities
from mmrec.graphs import content_similarity
from mmrec.models.base import Recommender
from mmrec.nn import UserItems, neighbour_values, sparse_matmul


class ItemKNN(Recommender):
    """A score is the summed content similarity to the items in the user's history.

    Args:
        corpus: its train interactions and modalities are read.
        k: neighbours of each item and modality that count.
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
        """Sum over the history of each item's neighbours: [B, I]."""
        history = self.user_items(queries.user).to_dense().T.contiguous()  # [I, B]
        return sparse_matmul(self.similarity, history).T

    def item_similarity(self, encoded: None, items: Tensor) -> Tensor:
        """Content similarity to the items' neighbours; other items are -inf: [B, I]."""
        return neighbour_values(self.similarity, items)
