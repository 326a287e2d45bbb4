"""DropoutNet: addressing cold start in recommender systems.

Volkovs, Yu and Poutanen, NeurIPS 2017.
https://papers.nips.cc/paper/2017/hash/dbd22ba3bd0df8f385bdac3e9f8be207-Abstract.html

From the paper: a preference model comes first (weighted matrix factorization). A network for users
and one for items take its factors and content, and learn to reproduce its scores (Eq. 2) while the
factors of some items are set to zero, so that they learn to do without. Ours: users have no content
and are never cold; the factors of an item are zero in training at random, in ranking if it has no
interaction; scores are matched on the pairs of a batch and on their negatives; rows of content have
length one, an absent modality is zero; one hidden layer.

U users, I items, N of them, M modalities, D dim, B batch, K negatives a pair.
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
    """`s = <f(U_u), g(V_i, content_i)>`, with `V_i = 0` where the item is cold.

    Args:
        corpus: what the model learns from; it needs at least one modality.
        dim: D, of factors and of the networks' outputs.
        hidden: width of the networks' hidden layer.
        dropout: share of a batch's items whose factors are hidden.
        alpha: of the factors, as in `weighted_factors`.
        factor_l2: of the factors, likewise.
        rounds: of solving for the factors.
        l2: weight of the squared norm of a batch's outputs.
        teacher: the factors, for example those of `WMF`; None: they are solved for, with `alpha`,
            `factor_l2` and `rounds`.

    Raises:
        SettingError: the teacher's embeddings are not D wide.
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
        check_at_least(1e-6, factor_l2=factor_l2)  # without it fewer items than D have no solution
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
                problem=f"the teacher's embeddings are {width} wide",
                hint="give both the same dim",
            )
        # Zero factors stand for cold users and items, where a trained teacher has initial vectors.
        warm_users, warm_items = corpus.user_counts() > 0, corpus.item_counts() > 0
        self.register_buffer("user_factors", teacher.users * warm_users.unsqueeze(1))
        self.register_buffer("item_factors", teacher.items * warm_items.unsqueeze(1))
        self.of_user = _network(dim, hidden, dim)
        self.of_item = _network(dim + sum(self.item_features.widths), hidden, dim)

    @classmethod
    def teacher_in(cls, state: Mapping[str, Tensor]) -> Embeddings:
        """The factors."""
        return Embeddings(state["user_factors"], state["item_factors"])

    def items(self, factors: Tensor, content: Content) -> Tensor:
        """g: [N, D] and content -> [N, D]."""
        found: Tensor = self.of_item(torch.cat([factors, *content.rows], dim=1))
        return found

    def encode(self) -> Embeddings:
        """Both networks over everything; a cold item without content is the mean item."""
        content = self.item_features()
        items = self.items(self.item_factors, content)
        known = self.item_factors.any(1, keepdim=True) | content.present
        return Embeddings(
            self.of_user(self.user_factors), fill_missing(items, known, mean_item(items, known))
        )

    def from_content(self, content: Content) -> Tensor:
        """Items without factors."""
        return self.items(self.user_factors.new_zeros(len(content.present), self.dim), content)

    def fallback_item(self) -> Tensor:
        """The mean item of the catalogue."""
        return self.encode().items.mean(0)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Eq. 2, over the pairs of a batch and their negatives."""
        keeps = torch.rand(self.corpus.n_items, 1, device=self.device) >= self.dropout
        items = self.items(self.item_factors * keeps, self.item_features())
        user, *shown = lookup(batch, self.user_factors, items)
        found = self.of_user(user), *shown  # of the batch, not of everybody
        wanted = lookup(batch, self.user_factors, self.item_factors)
        apart = [a - b for a, b in zip(pair_scores(*found), pair_scores(*wanted), strict=True)]
        return {
            "scores": torch.cat([x.flatten() for x in apart]).square().mean(),
            "l2": self.l2 * norm_penalty("squared", *found),
        }


def _network(width: int, hidden: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, dim))
