"""Losses as pure functions of scores and embeddings."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, softplus

from mmrec.nn.gates import at_least_float32
from mmrec.nn.rows import unit_rows

Norm = Literal["squared", "frobenius"]
LOGITS = (2**20, 2**27)  # logits that exist at a time, on a CPU (4 MB, its cache) and on a GPU
LARGEST = 40.0  # logit whose power, summed over any catalogue, is finite in float32


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


def _bounded(rows: Tensor, items: Tensor) -> bool:
    """Tell whether all logits are small enough that `exp` needs no subtraction of the largest.

    By the Cauchy-Schwarz inequality no logit is larger than the product of the largest norms. On a
    CPU this spares two passes over the logits, 15 % of the loss. A GPU would have to wait for it.
    """
    if rows.device.type != "cpu" or not len(rows):
        return False
    return bool(rows.norm(dim=1).max() * items.norm(dim=1).max() < LARGEST)


class _FullCrossEntropy(torch.autograd.Function):
    """Cross-entropy over all items whose gradients are computed with it, block by block."""

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

    Logits exist for a block of rows at a time, which fits a CPU's cache, and gradients are computed
    with the loss. At 800 rows, 12,101 items and D = 64 that takes 0.4 of the time of autograd on
    one matrix of logits (`python -m experiments.benchmarks --only SASRec`).

    Args:
        rows: [T, D].
        items: [I, D].
        target: [T] int64.
        weights: [T] of the rows, without a gradient; the mean is over T, not over the weights.
            None: 1 each.

    Returns:
        A scalar in float32, or in float64 where the arguments are; 0 without targets.
    """
    at_least = torch.promote_types(torch.promote_types(rows.dtype, items.dtype), torch.float32)
    weights = rows.new_ones(len(rows)) if weights is None else weights
    with torch.autocast(rows.device.type, enabled=False):
        loss: Tensor = _FullCrossEntropy.apply(  # type: ignore[no-untyped-call]
            rows.to(at_least), items.to(at_least), target, weights.to(at_least).unsqueeze(1)
        )
    return loss


def sampled_bce(positive: Tensor, negative: Tensor, power: float = 1.0) -> Tensor:
    """Binary cross-entropy of targets and sampled negatives, the mean over all of them.

    With a power below 1 it is gBCE, `-log sigmoid(positive)^power` for targets, which undoes the
    overconfidence of sampling. Petrov and Macdonald, RecSys 2023. https://arxiv.org/abs/2308.07192

    Args:
        positive: [T] scores of targets.
        negative: [T, K] scores of negatives.
        power: beta, above 0, see `gbce_power`.

    Returns:
        A scalar.
    """
    loss = power * softplus(-positive) + softplus(negative).sum(1)
    return loss.mean() / (1 + negative.shape[1])


def sampled_softmax(positive: Tensor, negative: Tensor, chance: Tensor) -> Tensor:
    """Cross-entropy of targets over sampled negatives, corrected for how they were sampled.

    Mean of `-log(exp(s+) / (exp(s+) + sum_k exp(s_k) / (K q_k)))`: the sum is an unbiased estimate
    of that over all items that can be drawn. Bengio and Senecal, IEEE Trans. Neural Networks 2008;
    subtracting `log q` from logits is known as logQ correction.

    Args:
        positive: [T] scores of targets.
        negative: [T, K] scores of negatives.
        chance: [T, K] q, the probability of each negative in one draw.

    Returns:
        A scalar, in at least float32.
    """
    corrected = at_least_float32(negative) - (chance * negative.shape[1]).log()
    logits = torch.cat([at_least_float32(positive).unsqueeze(1), corrected], 1)  # [T, 1 + K]
    return cross_entropy(logits, torch.zeros_like(positive, dtype=torch.int64))


def gbce_power(negatives: int, n_items: int, calibration: float) -> float:
    """Return beta of gBCE (Eq. 14 of its paper).

    Args:
        negatives: K.
        n_items: I, above K.
        calibration: t; 0: plain binary cross-entropy; 1: scores are unbiased.
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
    """Each row is to find its own among others: mean of `-log softmax(<x, y> / t)_own`.

    Van den Oord et al. https://arxiv.org/abs/1807.03748

    Unless pairs are excluded, logits exist for a block of rows at a time. At 2,048 rows and D = 64
    that takes 0.4 of the time of autograd on one matrix of logits (one CPU thread).

    Args:
        one: [B, D].
        others: [N, D].
        temperature: t.
        own: [B] rows of `others`; None: the same row.
        cosine: divide the rows of both by their norms first, in at least float32.
        excluded: [B, N] bool, pairs that are left out of the softmax; never an own one.
        weights: [B] of the rows; the mean is over B, not over the weights. None: 1 each.

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
