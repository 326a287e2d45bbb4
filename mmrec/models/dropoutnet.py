"""DropoutNet: addressing cold start in recommender systems.

Volkovs, Yu and Poutanen, NeurIPS 2017.
https://papers.nips.cc/paper/2017/hash/dbd22ba3bd0df8f385bdac3e9f8be207-Abstract.html

From the paper: a preference model (weighted matrix factorization) is trained first. A user network
and an item network take its factors and the content, and learn to reproduce its scores (Eq. 2)
while the factors of random items are set to zero, so that the item network learns to rely on
content. Ours: users have no content, and cold-start users are not supported; item factors are zero
at random in training, and in ranking for items without interactions; scores are matched on the
pairs of a batch and their negatives; content rows are normalised to unit length, and absent
modalities are zero; networks have one hidden layer.

Shapes: U users, I items, N selected items, M modalities, D embedding size, B batch, K negatives per
pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mmrec.config.checks import check_at_least, check_share
from mmrec.config.errors import SettingError
from mmrec.data import TrainingView, Triplets, require_modalities
from mmrec.models.base import Embeddings
from mmrec.models.content import ContentRecommender
from mmrec.nn import Content, ItemFeatures, fill_missing, lookup, mean_item, weighted_factors
from mmrec.nn.losses import norm_penalty, pair_scores


class DropoutNet(ContentRecommender):
    """`s = <f(U_u), g(V_i, content_i)>`, with `V_i = 0` for cold-start items.

    Args:
        corpus: training interactions and at least one modality.
        dim: size D of the factors and of the outputs of both networks.
        hidden: width of the hidden layer of both networks.
        dropout: share of items whose factors are set to zero in each batch, in [0, 1].
        alpha: weight of interactions in the factorization; see `weighted_factors`.
        factor_l2: L2 penalty of the factorization; see `weighted_factors`.
        rounds: number of alternating least squares rounds of the factorization.
        l2: weight of the squared norm of the outputs in a batch.
        teacher: factors of a pretrained model, for example `WMF`; None computes them with
            `weighted_factors`.

    Raises:
        SettingError: the teacher's embeddings do not have size `dim`.
    """

    user_factors: Tensor
    item_factors: Tensor

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 128,
        hidden: int = 256,
        dropout: float = 0.5,
        alpha: Annotated[float, Ge(0)] = 20.0,
        factor_l2: Annotated[float, Ge(1e-6)] = 1.0,
        rounds: Annotated[int, Ge(1)] = 10,
        l2: float = 0.0,
        teacher: Embeddings | None = None,
    ) -> None:
        check_at_least(1, dim=dim, hidden=hidden, rounds=rounds)
        check_at_least(0, alpha=alpha, l2=l2)
        check_at_least(1e-6, factor_l2=factor_l2)  # 0 is singular with fewer than D interactions
        check_share(dropout=dropout)
        super().__init__(corpus)
        self.dim, self.dropout, self.l2 = dim, dropout, l2
        self.item_features = ItemFeatures(require_modalities(corpus, "dropoutnet"))
        if teacher is None:
            teacher = Embeddings(
                *weighted_factors(
                    *(corpus.train, corpus.n_users, corpus.n_items, dim),
                    alpha=alpha,
                    l2=factor_l2,
                    rounds=rounds,
                )
            )
        if (width := teacher.items.shape[1]) != dim:
            raise SettingError(
                setting="model.dim",
                value=dim,
                problem=f"the teacher's embeddings have size {width}",
                hint="use the same dim in both runs",
            )
        # A trained teacher has untrained initial vectors for cold users and items: use zeros.
        warm_users, warm_items = corpus.user_counts() > 0, corpus.item_counts() > 0
        self.register_buffer("user_factors", teacher.users * warm_users.unsqueeze(1))
        self.register_buffer("item_factors", teacher.items * warm_items.unsqueeze(1))
        self.of_user = _network(dim, hidden, dim)
        self.of_item = _network(dim + sum(self.item_features.widths), hidden, dim)

    @classmethod
    def teacher_in(cls, state: Mapping[str, Tensor]) -> Embeddings:
        """Return the factors."""
        return Embeddings(state["user_factors"], state["item_factors"])

    def items(self, factors: Tensor, content: Content) -> Tensor:
        """Apply the item network g: factors [N, D] and content -> [N, D]."""
        found: Tensor = self.of_item(torch.cat([factors, *content.rows], dim=1))
        return found

    def encode(self) -> Embeddings:
        """Apply both networks; cold-start items without content get the mean item."""
        content = self.item_features()
        items = self.items(self.item_factors, content)
        known = self.item_factors.any(1, keepdim=True) | content.present
        return Embeddings(
            self.of_user(self.user_factors), fill_missing(items, known, mean_item(items, known))
        )

    def from_content(self, content: Content) -> Tensor:
        """Encode items with zero factors."""
        return self.items(self.user_factors.new_zeros(len(content.present), self.dim), content)

    def fallback_item(self) -> Tensor:
        """Return the mean item of the catalogue: [D]."""
        return self.encode().items.mean(0)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return the squared error of scores (Eq. 2) on the batch's pairs and their negatives."""
        keeps = torch.rand(self.corpus.n_items, 1, device=self.device) >= self.dropout
        items = self.items(self.item_factors * keeps, self.item_features())
        user, *shown = lookup(batch, self.user_factors, items)
        found = self.of_user(user), *shown  # only the users of the batch
        wanted = lookup(batch, self.user_factors, self.item_factors)
        apart = [a - b for a, b in zip(pair_scores(*found), pair_scores(*wanted), strict=True)]
        return {
            "scores": torch.cat([x.flatten() for x in apart]).square().mean(),
            "l2": self.l2 * norm_penalty("squared", *found),
        }


def _network(width: int, hidden: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, dim))
