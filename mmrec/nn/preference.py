"""What a batch says of who likes what: pairwise comparisons, or a softmax over its items.

B batch, K negatives, M items that a batch is compared by, D dim, I items.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmrec.checks import check_at_least, check_choice
from mmrec.data import TrainingView, Triplets
from mmrec.losses import batch_softmax, bpr, pair_scores
from mmrec.nn.gates import single
from mmrec.nn.lookup import Picked, distinct_items, pairs_with_negatives

Loss = Literal["bpr", "softmax"]


class Preference(nn.Module):
    """How a batch's observed pairs are held against what else there is.

    `bpr` compares each pair's dot product with those of the user and the pair's negatives. With
    `softmax` a user is to find the own item among all that are in the batch, by cosines over a
    temperature (SSM: Wu et al., https://arxiv.org/abs/2201.02327); popular items, which stand in
    more batches, are not held down for it: the log of an item's chance to be there is taken off
    its logit (Yi et al., RecSys 2019, https://doi.org/10.1145/3298689.3346996). Negatives are then
    not read.

    Args:
        corpus: whose train interactions batches are made of.
        loss: `bpr` or `softmax`.
        temperature: of the softmax.
        corrected: whether popular items are not held down.
    """

    share: Tensor  # [I] of train interactions

    def __init__(
        self, corpus: TrainingView, loss: Loss, temperature: float, *, corrected: bool = True
    ) -> None:
        super().__init__()
        check_choice(Loss, loss=loss)
        check_at_least(0.01, temperature=temperature)  # below, one rival decides
        self.softmax, self.temperature, self.corrected = loss == "softmax", temperature, corrected
        counts = corpus.item_counts()
        self.register_buffer("share", counts / counts.sum(), persistent=False)

    def pick(self, batch: Triplets) -> Picked:
        """The rows that are needed."""
        return distinct_items(batch) if self.softmax else pairs_with_negatives(batch)

    def compared(self, x: Tensor) -> Tensor:
        """Vectors as a score takes them: of length one for cosines."""
        return normalize(single(x), dim=-1) if self.softmax else x

    def forward(self, picked: Picked, *parts: Tensor) -> dict[str, Tensor]:
        """The term, by its name, of `Picked.parts`."""
        if picked.own is None:
            return {"bpr": bpr(*pair_scores(*parts))}
        users, items = map(self.compared, parts)
        return self.among(picked, users @ items.T)

    def among(self, picked: Picked, scores: Tensor) -> dict[str, Tensor]:
        """The softmax of a batch's users over its distinct items: [B, M]."""
        assert picked.own is not None
        chance = None
        if self.corrected:
            draws = len(picked.user)
            chance = -torch.expm1(draws * torch.log1p(-self.share[picked.item]))
        return {"softmax": batch_softmax(scores / self.temperature, picked.own, chance)}
