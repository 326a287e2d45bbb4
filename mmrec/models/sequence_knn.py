"""SequenceKNN: neighbours of the last items of a sequence, a baseline for sequential models.

Item-based nearest neighbours (Sarwar et al., WWW 2001, https://doi.org/10.1145/371920.372071) of
the last item, as in Hidasi et al. (https://arxiv.org/abs/1511.06939, Section 4.1). Ours: several
last items count, with a decay.

Shapes: B sequences, N items in all sequences, I items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrec.config.checks import check_at_least, check_share
from mmrec.data import Queries, TrainingView
from mmrec.graphs import cooccurrence_similarity
from mmrec.models.base import Recommender
from mmrec.nn import neighbour_values, sparse_matmul


class SequenceKNN(Recommender):
    """Score items by their similarity to the last items of the sequence, summed with a decay.

    `s_j = sum_a decay^a sim(i_a, j)`, where i_0 is the last item and i_a the item a positions
    before it. See `cooccurrence_similarity` for `sim`.

    Args:
        corpus: training interactions with an order; content is not used.
        k: number of neighbours per item.
        last: number of last items of the sequence that are used.
        decay: weight of an item relative to the following one, in [0, 1].
        shrinkage: shrinkage of the similarities of items with few interactions.
    """

    closed_form = True
    needs_history = True
    reads_negatives = False
    reads_content = False
    similarity: Tensor  # [I, I], the neighbours of item i are in column i

    def __init__(
        self,
        corpus: TrainingView,
        *,
        k: int = 100,
        last: int = 3,
        decay: float = 0.5,
        shrinkage: float = 20.0,
    ) -> None:
        check_at_least(1, k=k, last=last)
        check_at_least(0, shrinkage=shrinkage)
        check_share(decay=decay)
        super().__init__(corpus)
        self.last, self.decay = last, decay
        size = corpus.n_users, corpus.n_items
        similarity = cooccurrence_similarity(corpus.train, *size, k, shrinkage)
        self.register_buffer("similarity", similarity, persistent=False)

    def score(self, encoded: None, queries: Queries) -> Tensor:
        """Sum similarities to the last items of each sequence: [B, I], 0 without a history."""
        history = queries.require_history()
        sequence = torch.arange(len(history.length), device=history.item.device)
        sequence = sequence.repeat_interleave(history.length)  # [N]
        age = history.last()[sequence] - torch.arange(len(sequence), device=sequence.device)
        recent = age < self.last
        weight = torch.full_like(age[recent], self.decay, dtype=torch.float32) ** age[recent]
        weights = weight.new_zeros(self.corpus.n_items, len(history.length))  # [I, B]
        place = history.item[recent], sequence[recent]
        weights.index_put_(place, weight, accumulate=True)
        return sparse_matmul(self.similarity, weights).T

    def item_similarity(self, encoded: None, items: Tensor) -> Tensor:
        """Return the similarity to neighbours, and -inf for other items: [B, I]."""
        return neighbour_values(self.similarity, items)
