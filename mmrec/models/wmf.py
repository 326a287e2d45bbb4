"""WMF: Collaborative Filtering for Implicit Feedback Datasets.

Hu, Koren and Volinsky, ICDM 2008. https://doi.org/10.1109/ICDM.2008.22

From the paper: the objective with confidence `1 + alpha`, and alternating least squares. Ours:
items without interactions have a zero vector.

Shapes: U users, I items, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmrec.config.checks import check_at_least
from mmrec.config.errors import SettingError
from mmrec.data import TrainingView
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import weighted_factors


class WMF(Recommender):
    """Weighted matrix factorization by alternating least squares, solved at first use.

    Args:
        corpus: training interactions; content is not used.
        dim: embedding size D.
        alpha: additional confidence in observed interactions; unobserved ones have confidence 1.
        l2: weight of the squared norm of the factors, at least 1e-6.
        rounds: number of rounds, each of which solves for users and for items.
    """

    closed_form = True
    reads_content = False
    users: Tensor
    items: Tensor

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 128,
        alpha: float = 20.0,
        l2: float = 1.0,
        rounds: int = 10,
    ) -> None:
        check_at_least(1, dim=dim, rounds=rounds)
        check_at_least(0, alpha=alpha)
        check_at_least(1e-6, l2=l2)  # 0 is singular for items with fewer than D interactions
        super().__init__(corpus)
        self.dim, self.alpha, self.l2, self.rounds = dim, alpha, l2, rounds
        self.register_buffer("users", torch.zeros(corpus.n_users, dim))
        self.register_buffer("items", torch.zeros(corpus.n_items, dim))

    def solve(self) -> None:
        """Compute the factors.

        Raises:
            SettingError: the factors are not finite.
        """
        corpus = self.corpus
        found = weighted_factors(
            *(corpus.train, corpus.n_users, corpus.n_items, self.dim),
            alpha=self.alpha,
            l2=self.l2,
            rounds=self.rounds,
        )
        if not all(factors.isfinite().all() for factors in found):
            raise SettingError(
                setting="model.alpha",
                value=self.alpha,
                problem=f"with model.l2={self.l2} the factors are not finite",
                hint="lower model.alpha or raise model.l2",
            )
        self.users.copy_(found[0])
        self.items.copy_(found[1])

    def encode(self) -> Embeddings:
        """Return the factors of users and items."""
        if not self.items.any():
            self.solve()
        return Embeddings(self.users, self.items)
