"""BPR: Bayesian Personalized Ranking from Implicit Feedback.

Rendle et al., UAI 2009. https://arxiv.org/abs/1205.2618

Matrix factorisation learned by pairwise comparisons. From the paper: score and criterion. Ours:
`norm` (see LightGCN); the paper's separate weights for users, positives and negatives are one.

D dim, B batch, K negatives a pair.
"""

from __future__ import annotations

from torch import Tensor, nn

from mmrec.config.checks import check_at_least, check_choice
from mmrec.data import TrainingView, Triplets
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import lookup
from mmrec.nn.losses import Norm, bpr, norm_penalty, pair_scores


class BPR(Recommender):
    """A user's score for an item is the dot product of two free vectors.

    Args:
        corpus: what the model learns from; only its train interactions are read.
        dim: embedding size D.
        l2: weight of the norm of a batch's embeddings.
        norm: `squared` as in the paper, or `frobenius`.
    """

    reads_content = False

    def __init__(
        self, corpus: TrainingView, *, dim: int = 64, l2: float = 1e-2, norm: Norm = "squared"
    ) -> None:
        check_at_least(1, dim=dim)
        check_choice(Norm, norm=norm)
        check_at_least(0, l2=l2)
        super().__init__(corpus)
        self.l2, self.norm = l2, norm
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        nn.init.xavier_normal_(self.user.weight)
        nn.init.xavier_normal_(self.item.weight)

    def encode(self) -> Embeddings:
        """The tables as they are."""
        return Embeddings(self.user.weight, self.item.weight)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """BPR-Opt."""
        rows = lookup(batch, *self.encode())  # [B, D] [B, D] [B, K, D]
        return {
            "bpr": bpr(*pair_scores(*rows)),
            "l2": self.l2 * norm_penalty(self.norm, *rows),
        }
