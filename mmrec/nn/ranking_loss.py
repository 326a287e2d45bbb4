"""Ranking loss of a batch: pairwise comparisons, or a softmax over the items of the batch.

Shapes: I items, B pairs of a batch, K negatives per pair, M selected items, D embedding size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmrec.config.checks import check_at_least, check_choice
from mmrec.data import TrainingView, Triplets
from mmrec.nn.gates import at_least_float32
from mmrec.nn.lookup import BatchIndex, distinct_items, pairs_with_negatives
from mmrec.nn.losses import batch_softmax, bpr, pair_scores

Loss = Literal["bpr", "softmax"]


class RankingLoss(nn.Module):
    """BPR with sampled negatives, or softmax over the items of a batch.

    `bpr` compares the dot product of each positive pair with those of its negatives. `softmax` is
    the cross-entropy of the user's positive item over all distinct positives of the batch, with
    cosines divided by a temperature as logits (SSM: Wu et al., https://arxiv.org/abs/2201.02327).
    It does not use sampled negatives. Popular items are in more batches, which would lower their
    scores. As a correction, the log probability of an item to be in the batch is subtracted from
    its logit (Yi et al., RecSys 2019, https://doi.org/10.1145/3298689.3346996).

    Args:
        corpus: training interactions from which batches are sampled.
        loss: `bpr` or `softmax`.
        temperature: temperature of the softmax.
        corrected: correct the logits for the probability of an item to be in the batch.

    Attributes:
        softmax: whether the loss is `softmax`.
    """

    share: Tensor  # [I] share of the training interactions

    def __init__(
        self, corpus: TrainingView, loss: Loss, temperature: float, *, corrected: bool = True
    ) -> None:
        super().__init__()
        check_choice(Loss, loss=loss)
        check_at_least(0.01, temperature=temperature)  # below, a single logit dominates
        self.softmax, self.temperature, self.corrected = loss == "softmax", temperature, corrected
        counts = corpus.item_counts()
        self.register_buffer("share", counts / counts.sum(), persistent=False)

    def index(self, batch: Triplets) -> BatchIndex:
        """Return the indices of the users and items compared by the loss."""
        return distinct_items(batch) if self.softmax else pairs_with_negatives(batch)

    def normalized(self, x: Tensor) -> Tensor:
        """Normalise vectors to unit length for `softmax`; return them unchanged for `bpr`."""
        return normalize(at_least_float32(x), dim=-1) if self.softmax else x

    def forward(self, index: BatchIndex, *parts: Tensor) -> dict[str, Tensor]:
        """Return the loss by name.

        Args:
            index: result of `index`.
            parts: embeddings, as returned by `BatchIndex.parts` or `BatchIndex.rows`.
        """
        if index.own is None:
            return {"bpr": bpr(*pair_scores(*parts))}
        users, items = map(self.normalized, parts)
        return self.softmax_loss(index, users @ items.T)

    def softmax_loss(self, index: BatchIndex, scores: Tensor) -> dict[str, Tensor]:
        """Return the softmax loss by name from cosines [B, M] of users and distinct items."""
        assert index.own is not None
        chance = None
        if self.corrected:
            draws = len(index.user)
            chance = -torch.expm1(draws * torch.log1p(-self.share[index.item]))
        return {"softmax": batch_softmax(scores / self.temperature, index.own, chance)}
