"""EASE: Embarrassingly Shallow Autoencoders for Sparse Data.

Steck, WWW 2019. https://arxiv.org/abs/1905.03375

From the paper: the closed-form solution. Ours: `content_weight`, which adds the content similarity
of items to the item-item weights. This gives a strong and cheap multimodal baseline.

Shapes: U users, I items, B batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmrec.config.bars import working
from mmrec.config.checks import check_at_least
from mmrec.config.errors import SettingError
from mmrec.data import Queries, TrainingView, require_modalities
from mmrec.graphs import content_similarity
from mmrec.models.base import Recommender
from mmrec.nn import UserItems, sparse_matmul

LARGEST = 30_000  # items; a dense matrix of this size takes 3.6 GB


class EASE(Recommender):
    """Linear autoencoder of user histories with a closed-form solution.

    Its parameters are a dense items x items matrix, which limits the size of the catalogue.

    Args:
        corpus: training interactions, and at least one modality if `content_weight` is not 0.
        l2: ridge penalty lambda.
        content_weight: weight of the content similarity, which is added to the item-item weights.
        k: number of neighbours per item and modality in the content similarity.

    Raises:
        SettingError: the catalogue has more than 30,000 items, or the item-item matrix is singular.
    """

    closed_form = True
    weights: Tensor

    def __init__(
        self, corpus: TrainingView, *, l2: float = 250.0, content_weight: float = 0.0, k: int = 10
    ) -> None:
        check_at_least(0, l2=l2, content_weight=content_weight)
        check_at_least(1, k=k)
        super().__init__(corpus)
        if corpus.n_items > LARGEST:
            raise SettingError(
                setting="model",
                value="ease",
                problem=f"EASE solves a dense items x items matrix; found {corpus.n_items} items, "
                f"the limit is {LARGEST}",
                hint="use model=item_knn or a smaller catalogue",
            )
        with working(f"solving the {corpus.n_items:,} x {corpus.n_items:,} matrix of ease"):
            weights = solve(corpus, l2)
        self.reads_content = bool(content_weight)
        if content_weight:
            similarity = content_similarity(require_modalities(corpus, "ease"), k)
            weights += content_weight * similarity.to_dense()
        self.register_buffer("weights", weights)
        self.user_items = UserItems(corpus.train, corpus.n_users, corpus.n_items)

    def score(self, encoded: None, queries: Queries) -> Tensor:
        """Reconstruct the histories: [B, I]."""
        return sparse_matmul(self.user_items(queries.user), self.weights)

    def item_similarity(self, encoded: None, items: Tensor) -> Tensor:
        """Return the item-item weights: [B, I]."""
        return self.weights[items]


def solve(corpus: TrainingView, l2: float) -> Tensor:
    """Return `B = -P / diag(P)` with zero diagonal, `P = (X'X + l2 1)^-1` (Eq. 8): [I, I]."""
    from scipy.sparse import csr_array

    train = corpus.train
    ones = np.ones(len(train), dtype=np.float32)
    shape = (corpus.n_users, corpus.n_items)
    x = csr_array((ones, (train.user.numpy(), train.item.numpy())), shape=shape)
    gram = torch.from_numpy((x.T @ x).toarray())  # [I, I]
    gram.diagonal().add_(l2)
    try:
        torch.linalg.cholesky(gram, out=gram)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        raise SettingError(
            setting="model.l2",
            value=l2,
            problem="the item-item matrix is singular",
            hint="raise model.l2",
        ) from None
    inverse = torch.cholesky_inverse(gram, out=gram)
    weights = inverse.div_(-inverse.diagonal().clone())
    weights.fill_diagonal_(0)
    return weights
