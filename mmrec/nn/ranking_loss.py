"""The ranking loss of a batch: pairwise comparisons, or a softmax over the items of the batch.

Shapes: I items, B pairs of a batch, K negatives of a pair, M selected items, D embedding size.
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

    `bpr` compares the dot product of each pair with those of the user and the pair's negatives.
    `softmax` is cross-entropy of the user's positive among all distinct positives of the batch,
    with cosines divided by a temperature as logits (SSM: Wu et al.,
    https://arxiv.org/abs/2201.02327); it does not read negatives. Popular items are in more batches
    and would be penalized for it; to correct this, the log of an item's probability to be in the
    batch is subtracted from its logit (Yi et al., RecSys 2019,
    https://doi.org/10.1145/3298689.3346996).

    Args:
        corpus: batches are drawn from its train interactions.
        loss: `bpr` or `softmax`.
        temperature: of the softmax.
        corrected: subtract the log probability of an item to be in the batch.

    Attributes:
        softmax: whether the loss is `softmax`.
    """

    share: Tensor  # [I] share of the train interactions

    def __init__(
        self, corpus: TrainingView, loss: Loss, temperature: float, *, corrected: bool = True
    ) -> None:
        super().__init__()
        check_choice(Loss, loss=loss)
        check_at_least(0.01, temperature=temperature)  # below, a single logit decides
        self.softmax, self.temperature, self.corrected = loss == "softmax", temperature, corrected
        counts = corpus.item_counts()
        self.register_buffer("share", counts / counts.sum(), persistent=False)

    def index(self, batch: Triplets) -> BatchIndex:
        """Return the indices of the users and items that the loss compares."""
        return distinct_items(batch) if self.softmax else pairs_with_negatives(batch)

    def normalized(self, x: Tensor) -> Tensor:
        """Normalize vectors to length one for the cosines of `softmax`; return others unchanged."""
        return normalize(at_least_float32(x), dim=-1) if self.softmax else x

    def forward(self, index: BatchIndex, *parts: Tensor) -> dict[str, Tensor]:
        """Compute the loss by name.

        Args:
            index: from `index`.
            parts: embeddings, from `BatchIndex.parts` or `BatchIndex.rows`.
        """
        if index.own is None:
            return {"bpr": bpr(*pair_scores(*parts))}
        users, items = map(self.normalized, parts)
        return self.softmax_loss(index, users @ items.T)

    def softmax_loss(self, index: BatchIndex, scores: Tensor) -> dict[str, Tensor]:
        """Compute the softmax loss by name from cosines [B, M] of users and distinct items."""
        assert index.own is not None
        chance = None
        if self.corrected:
            draws = len(index.user)
            chance = -torch.expm1(draws * torch.log1p(-self.share[index.item]))
        return {"softmax": batch_softmax(scores / self.temperature, index.own, chance)}
