"""Item neighbours of the last items of a sequence, a yardstick for models of sequences.

Item-based neighbourhoods of Sarwar et al., WWW 2001 (https://doi.org/10.1145/371920.372071), as
Hidasi et al. (https://arxiv.org/abs/1511.06939, Section 4.1) use them: what other users have beside
the last item. Ours: more than one item may count, older ones less.

B sequences, N items of all of them, I items.
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
    """A score is the similarity to the last items of the sequence, summed with a decay.

    `s_j = sum_a decay^a sim(i_a, j)`, where i_0 is the last item and i_a the one a places before
    it, and `sim` counts the users whom both items share (`cooccurrence_similarity`).

    Args:
        corpus: only its train interactions are read.
        k: most similar items of each item that count.
        last: items of the sequence that count.
        decay: weight of an item relative to the next one, 0 to 1.
        shrinkage: makes similarities of rare items smaller.
    """

    closed_form = True
    needs_history = True
    reads_negatives = False
    reads_content = False
    similarity: Tensor  # [I, I], column i holds what is similar to item i

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
        """Sum over the last items of each sequence: [B, I], 0 without a history."""
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
        """Similarity to the items' neighbours; other items are -inf: [B, I]."""
        return neighbour_values(self.similarity, items)
