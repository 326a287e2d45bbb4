"""DropoutNet: addressing cold start in recommender systems.

Volkovs, Yu and Poutanen, NeurIPS 2017.
https://papers.nips.cc/paper/2017/hash/dbd22ba3bd0df8f385bdac3e9f8be207-Abstract.html

From the paper: factors of the interactions come first (weighted matrix factorisation). A network
for each side takes factors and content, and learns to give the factors' scores back (Eq. 2) while
the item's factors are missing now and then; so it learns to do with content alone. Ours: users have
no content and are never cold; an item lacks its factors in training by chance, in ranking where it
has no interaction; scores are matched on the pairs of a batch and on their negatives; rows of
content have length one, a modality that is absent is zero; one hidden layer.

U users, I items, N of them, M modalities, D dim, B batch, K negatives a pair.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from mmrec.checks import check_at_least, check_share
from mmrec.data import TrainingView, Triplets, require_modalities
from mmrec.losses import norm_penalty, pair_scores
from mmrec.models.base import ContentRecommender, Embeddings
from mmrec.nn import Content, Shelf, filled, lookup, mean_item, weighted_factors


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
        alpha: float = 20.0,
        factor_l2: float = 1.0,
        rounds: int = 10,
        l2: float = 0.0,
    ) -> None:
        check_at_least(1, dim=dim, hidden=hidden, rounds=rounds)
        check_at_least(0, alpha=alpha, l2=l2)
        check_at_least(1e-6, factor_l2=factor_l2)  # without it fewer items than D have no solution
        check_share(dropout=dropout)
        super().__init__(corpus)
        self.dim, self.dropout, self.l2 = dim, dropout, l2
        self.shelf = Shelf(require_modalities(corpus, "dropoutnet"))
        self.solve = partial(weighted_factors, dim=dim, alpha=alpha, l2=factor_l2, rounds=rounds)
        self.solved = False
        self.register_buffer("user_factors", torch.zeros(corpus.n_users, dim))
        self.register_buffer("item_factors", torch.zeros(corpus.n_items, dim))
        self.of_user = _network(dim, hidden, dim)
        self.of_item = _network(dim + sum(self.shelf.widths), hidden, dim)

    def factorise(self) -> None:
        """Solve for the factors, unless they are known or came from a checkpoint."""
        if not self.solved and not self.user_factors.any():
            corpus = self.corpus
            users, items = self.solve(corpus.train, corpus.n_users, corpus.n_items)
            self.user_factors.copy_(users)
            self.item_factors.copy_(items)
        self.solved = True

    def items(self, factors: Tensor, content: Content) -> Tensor:
        """g: [N, D] and content -> [N, D]."""
        found: Tensor = self.of_item(torch.cat([factors, *content.rows], dim=1))
        return found

    def encode(self) -> Embeddings:
        """Both networks over everything; a cold item without content is the mean item."""
        self.factorise()
        content = self.shelf()
        items = self.items(self.item_factors, content)
        known = self.item_factors.any(1, keepdim=True) | content.present
        return Embeddings(
            self.of_user(self.user_factors), filled(items, known, mean_item(items, known))
        )

    def from_content(self, content: Content) -> Tensor:
        """Items without factors."""
        return self.items(self.user_factors.new_zeros(len(content.present), self.dim), content)

    def typical_item(self) -> Tensor:
        """The mean item of the catalogue."""
        return self.encode().items.mean(0)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Eq. 2, over the pairs of a batch and their negatives."""
        self.factorise()
        keeps = torch.rand(self.corpus.n_items, 1, device=self.device) >= self.dropout
        items = self.items(self.item_factors * keeps, self.shelf())
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
