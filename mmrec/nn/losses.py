"""Losses as pure functions of scores and embeddings.

Shapes: B rows of a batch, K negatives per row, D embedding size, I items, M items of a batch, T
targets, N candidates.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, softplus

from mmrec.nn.gates import at_least_float32
from mmrec.nn.rows import unit_rows

Norm = Literal["squared", "frobenius"]
LOGITS = (2**20, 2**27)  # logits computed at a time on a CPU (4 MB, fits the cache) and on a GPU
LARGEST = 40.0  # logits up to this value can be exponentiated and summed in float32


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking: mean of `-log sigmoid(positive - negative)`.

    Rendle et al., UAI 2009. https://arxiv.org/abs/1205.2618

    Args:
        positive: scores of observed pairs, [B].
        negative: scores of the same users with negative items, [B, K].

    Returns:
        A scalar, the mean over all B x K comparisons.
    """
    return softplus(negative - positive.unsqueeze(-1)).mean()


def pair_scores(users: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Return the dot products of users with their positive and negative items.

    Args:
        users: user vectors, [B, D].
        positives: vectors of observed items, [B, D].
        negatives: vectors of negative items, [B, K, D].

    Returns:
        Scores of positives [B] and of negatives [B, K].
    """
    return (users * positives).sum(-1), (users.unsqueeze(1) * negatives).sum(-1)


def batch_softmax(logits: Tensor, own: Tensor, chance: Tensor | None = None) -> Tensor:
    """Cross-entropy over the items of a batch, corrected for their sampling probabilities.

    `mean_b -log softmax_m(l_bm - log p_m)_own`. Yi et al., RecSys 2019.
    https://doi.org/10.1145/3298689.3346996

    Args:
        logits: logits of the batch's items, [B, M].
        own: column of the positive item of each row, [B].
        chance: probability p of each item to be in the batch, [M], above 0; None applies no
            correction.

    Returns:
        A scalar.
    """
    return cross_entropy(logits if chance is None else logits - chance.log(), own)


def _bounded(rows: Tensor, items: Tensor) -> bool:
    """Return whether `exp` of the logits is safe without subtracting their maximum.

    By the Cauchy-Schwarz inequality, the product of the largest norms bounds the logits. On a CPU,
    this saves two passes over the logits, 15 % of the time. A GPU would need to synchronize.
    """
    if rows.device.type != "cpu" or not len(rows):
        return False
    return bool(rows.norm(dim=1).max() * items.norm(dim=1).max() < LARGEST)


class _FullCrossEntropy(torch.autograd.Function):
    """Cross-entropy over all items that computes its gradients in the forward pass, by block."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, items: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        gradient, of_items = torch.empty_like(rows), torch.zeros_like(items)
        size = max(64, LOGITS[rows.device.type == "cuda"] // len(items))
        buffer = rows.new_empty(min(size, len(rows)), len(items))
        total = -(weights * (rows * items[target])).sum()
        small = _bounded(rows, items)
        blocks = (torch.split(each, size) for each in (rows, gradient, weights))
        for x, out, weight in zip(*blocks, strict=True):
            logits = torch.mm(x, items.T, out=buffer[: len(x)])  # [block, I]
            largest = None if small else logits.amax(1, keepdim=True)
            powers = (logits if largest is None else logits.sub_(largest)).exp_()
            norm = powers.sum(1, keepdim=True)  # [block, 1]
            total += (weight * (norm.log() if largest is None else largest + norm.log())).sum()
            share = weight / norm
            torch.mm(powers, items, out=out).mul_(share)
            of_items.addmm_(powers.T, x * share)
        gradient -= weights * items[target]
        of_items.index_add_(0, target, weights * rows, alpha=-1)
        ctx.save_for_backward(gradient, of_items)
        ctx.count = count = max(len(rows), 1)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gradient, of_items = ctx.saved_tensors
        scale = grad / ctx.count
        return scale * gradient, scale * of_items, None, None


def full_cross_entropy(
    rows: Tensor, items: Tensor, target: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy over the whole catalogue: mean of `-log softmax(rows @ items.T)_target`.

    Logits are computed in blocks of rows that fit the cache of a CPU, and gradients are computed in
    the forward pass. For 800 rows, 12,101 items and D = 64, this takes 40 % of the time of autograd
    with a full matrix of logits (`python -m experiments.benchmarks --only SASRec`).

    Args:
        rows: states, [T, D].
        items: item vectors, [I, D].
        target: target item of each row, [T] int64.
        weights: weights of rows without a gradient, [T]. The mean is over T, not over the weights.
            None gives all rows weight 1.

    Returns:
        A scalar in float32, or in float64 for float64 arguments; 0 without targets.
    """
    at_least = torch.promote_types(torch.promote_types(rows.dtype, items.dtype), torch.float32)
    weights = rows.new_ones(len(rows)) if weights is None else weights
    with torch.autocast(rows.device.type, enabled=False):
        loss: Tensor = _FullCrossEntropy.apply(  # type: ignore[no-untyped-call]
            rows.to(at_least), items.to(at_least), target, weights.to(at_least).unsqueeze(1)
        )
    return loss


def sampled_bce(positive: Tensor, negative: Tensor, power: float = 1.0) -> Tensor:
    """Binary cross-entropy, averaged over targets and sampled negatives.

    With a power below 1, this is gBCE: `-log sigmoid(positive)^power` for targets corrects the
    overconfidence caused by sampling. Petrov and Macdonald, RecSys 2023.
    https://arxiv.org/abs/2308.07192

    Args:
        positive: scores of targets, [T].
        negative: scores of negatives, [T, K].
        power: beta of gBCE, above 0; see `gbce_power`.

    Returns:
        A scalar.
    """
    loss = power * softplus(-positive) + softplus(negative).sum(1)
    return loss.mean() / (1 + negative.shape[1])


def sampled_softmax(positive: Tensor, negative: Tensor, chance: Tensor) -> Tensor:
    """Cross-entropy over the target and sampled negatives, with logQ correction.

    Mean of `-log(exp(s+) / (exp(s+) + sum_k exp(s_k) / (K q_k)))`, where the sum is an unbiased
    estimate of the sum over all items that can be sampled. Bengio and Senecal, IEEE Trans. Neural
    Networks 2008.

    Args:
        positive: scores of targets, [T].
        negative: scores of negatives, [T, K].
        chance: probability q of each negative in one draw, [T, K].

    Returns:
        A scalar, in at least float32.
    """
    corrected = at_least_float32(negative) - (chance * negative.shape[1]).log()
    logits = torch.cat([at_least_float32(positive).unsqueeze(1), corrected], 1)  # [T, 1 + K]
    return cross_entropy(logits, torch.zeros_like(positive, dtype=torch.int64))


def gbce_power(negatives: int, n_items: int, calibration: float) -> float:
    """Return the power beta of gBCE (Eq. 14 of its paper).

    Args:
        negatives: number of negatives K.
        n_items: number of items I, above K.
        calibration: calibration t in [0, 1]; 0 gives binary cross-entropy, 1 unbiased scores.
    """
    rate = negatives / (n_items - 1)
    return 1 - calibration * (1 - rate)


def info_nce(
    one: Tensor,
    others: Tensor,
    temperature: float,
    own: Tensor | None = None,
    *,
    cosine: bool = False,
    excluded: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """InfoNCE contrastive loss: mean of `-log softmax(<x, y> / t)_own`.

    Van den Oord et al. https://arxiv.org/abs/1807.03748

    Unless pairs are excluded, logits are computed in blocks of rows. For 2,048 rows and D = 64 on
    one CPU thread, this takes 40 % of the time of autograd with a full matrix of logits.

    Args:
        one: anchors, [B, D].
        others: candidates, [N, D].
        temperature: temperature t.
        own: row of the positive of each anchor in `others`, [B]; None for the same row.
        cosine: normalise both to unit length, in at least float32.
        excluded: pairs to exclude from the softmax, [B, N] bool; positives must not be excluded.
        weights: weights of anchors, [B]. The mean is over B, not over the weights. None gives all
            anchors weight 1.

    Returns:
        A scalar; 0 without rows.
    """
    if not len(one):
        return one.sum()
    if cosine:
        one, others = unit_rows(one), unit_rows(others)
    own = torch.arange(len(one), device=one.device) if own is None else own
    if excluded is None:
        return full_cross_entropy(one / temperature, others, own, weights)
    logits = (one @ others.T / temperature).masked_fill(excluded, -torch.inf)
    terms = cross_entropy(logits, own, reduction="none")
    return (terms if weights is None else weights * terms).mean()


def norm_penalty(norm: Norm, *rows: Tensor) -> Tensor:
    """Return the norm of the embeddings of a batch, divided by the batch size.

    Args:
        norm: `squared` is `sum ||x||^2 / 2B`, as in most papers; `frobenius` is `sum ||x||_F / B`,
            used for many published results, which penalises large embeddings less.
        rows: embeddings of a batch; the length of the first tensor is B.

    Returns:
        A scalar.
    """
    if norm == "squared":
        return torch.stack([x.square().sum() for x in rows]).sum() / (2 * len(rows[0]))
    return torch.stack([x.norm() for x in rows]).sum() / len(rows[0])
