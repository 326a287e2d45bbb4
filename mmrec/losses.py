"""Losses as pure functions of scores and embeddings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

Norm = Literal["squared", "frobenius"]


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking: mean of `-log sigmoid(positive - negative)`.

    Rendle et al., UAI 2009. https://arxiv.org/abs/1205.2618

    Args:
        positive: [B] scores of observed pairs.
        negative: [B, K] scores of the same users with items they have not.

    Returns:
        A scalar, the mean over all B x K comparisons.
    """
    return softplus(negative - positive.unsqueeze(-1)).mean()


def pair_scores(users: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Dot products of users with an observed item and with the items they have not.

    Args:
        users: [B, D].
        positives: [B, D].
        negatives: [B, K, D].

    Returns:
        Scores [B] and [B, K].
    """
    return (users * positives).sum(-1), (users.unsqueeze(1) * negatives).sum(-1)


def batch_softmax(logits: Tensor, own: Tensor, chance: Tensor | None = None) -> Tensor:
    """Cross-entropy over the items that a batch happens to hold, as if over all there are.

    `mean_b -log softmax_m(l_bm - log p_m)_own`. Yi et al., RecSys 2019.
    https://doi.org/10.1145/3298689.3346996

    Args:
        logits: [B, M].
        own: [B] the item that each row is to find.
        chance: [M] of each item to be among the M, above 0; None: there are no others.
    """
    return cross_entropy(logits if chance is None else logits - chance.log(), own)


def info_nce(one: Tensor, others: Tensor, temperature: float, own: Tensor | None = None) -> Tensor:
    """Each row is to find its own among others: mean of `-log softmax(<x, y> / t)_own`.

    Van den Oord et al. https://arxiv.org/abs/1807.03748

    Args:
        one: [B, D].
        others: [N, D].
        temperature: t.
        own: [B] rows of `others`; None: the same row.

    Returns:
        A scalar; 0 without rows.
    """
    if not len(one):
        return one.sum()
    own = torch.arange(len(one), device=one.device) if own is None else own
    return batch_softmax(one @ others.T / temperature, own)


def norm_penalty(norm: Norm, *rows: Tensor) -> Tensor:
    """How large a batch's embeddings are, per row of the batch.

    Args:
        norm: `squared` is `sum ||x||^2 / 2B`, the penalty of the papers; `frobenius` is
            `sum ||x||_F / B`, weaker the larger the embeddings are, on which many published
            numbers rest.
        rows: what a batch looks up; the first tensor's length is B.
    """
    if norm == "squared":
        return torch.stack([x.square().sum() for x in rows]).sum() / (2 * len(rows[0]))
    return torch.stack([x.norm() for x in rows]).sum() / len(rows[0])
