"""BPR: Bayesian Personalized Ranking from Implicit Feedback.

Rendle et al., UAI 2009. https://arxiv.org/abs/1205.2618

Matrix factorization trained on pairs of a positive and a negative item. From the paper: score and
criterion. Ours: `norm` (see LightGCN); one L2 weight, where the paper has separate weights for
users, positives and negatives.

Shapes: D embedding size, B batch, K negatives per pair.
"""

from __future__ import annotations

from torch import Tensor, nn

from mmrec.config.checks import check_at_least, check_choice
from mmrec.data import TrainingView, Triplets
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import lookup
from mmrec.nn.losses import Norm, bpr, norm_penalty, pair_scores


class BPR(Recommender):
    """Matrix factorization with one embedding per user and item, scored by dot product.

    Args:
        corpus: training interactions; content is not used.
        dim: embedding size D.
        l2: weight of the norm of the batch's embeddings.
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
        """Return the embedding tables."""
        return Embeddings(self.user.weight, self.item.weight)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return the BPR-Opt criterion and the L2 penalty of the batch."""
        rows = lookup(batch, *self.encode())  # [B, D] [B, D] [B, K, D]
        return {
            "bpr": bpr(*pair_scores(*rows)),
            "l2": self.l2 * norm_penalty(self.norm, *rows),
        }
