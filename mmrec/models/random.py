"""Random ranking, the chance level of each metric. A baseline without a paper."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from mmrec.data import Queries, TrainingView
from mmrec.models.base import Recommender


class Random(Recommender):
    """Rank the catalogue in a fixed, uniformly random order per user.

    Args:
        corpus: only the numbers of users and items are used.
        seed: random seed of the orders, which do not depend on the other users of a batch.
    """

    closed_form = True
    reads_content = False

    def __init__(self, corpus: TrainingView, *, seed: int = 0) -> None:
        super().__init__(corpus)
        self.salt = random.Random(seed).getrandbits(62)

    def score(self, encoded: None, queries: Queries) -> Tensor:
        """Return a hash of user and item in [0, 1): [B, I]."""
        items = torch.arange(self.corpus.n_items, device=queries.user.device)
        mixed = (queries.user.unsqueeze(1) * self.corpus.n_items + items) ^ self.salt
        for multiplier in (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15):
            mixed = mixed * multiplier  # splitmix64 with integer overflow
            mixed = mixed ^ ((mixed >> 31) & 0x1FFFFFFFF)
        return (mixed & 0xFFFFFF).float() / 0x1000000
