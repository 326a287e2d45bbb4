"""Random ranking: what a number means only beside chance. A yardstick with no paper."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from mmrec.data import Queries, TrainingView
from mmrec.models.base import Recommender


class Random(Recommender):
    """Scores that know nothing: each user has a fixed, uniformly drawn order of the catalogue.

    Args:
        corpus: only its sizes are read.
        seed: of the order; a user's does not depend on who else is asked for.
    """

    closed_form = True
    reads_content = False

    def __init__(self, corpus: TrainingView, *, seed: int = 0) -> None:
        super().__init__(corpus)
        self.salt = random.Random(seed).getrandbits(62)

    def score(self, encoded: None, queries: Queries) -> Tensor:
        """A hash of user and item: [B, I] in 0..1."""
        items = torch.arange(self.corpus.n_items, device=queries.user.device)
        mixed = (queries.user.unsqueeze(1) * self.corpus.n_items + items) ^ self.salt
        for multiplier in (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15):
            mixed = mixed * multiplier  # splitmix64, wrapping around
            mixed = mixed ^ ((mixed >> 31) & 0x1FFFFFFFF)
        return (mixed & 0xFFFFFF).float() / 0x1000000
