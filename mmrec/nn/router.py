"""A router that gates experts per user-item pair, and full rankings with it.

Shapes: C channels, E experts, D embedding size, B users, M or I items, N users or items.
"""

from __future__ import annotations

import functools
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmrec.config.checks import check_choice
from mmrec.config.errors import SettingError
from mmrec.nn.gates import gated_sum

Sees = Literal["pair", "user", "item", "all", "nothing"]
Side = Literal["user", "item"]
# Pairs scored at a time: fits the caches of a CPU, and needs few kernel launches on a GPU.
TILE = {"cpu": 2**18, "cuda": 2**22}


class Terms(NamedTuple):
    """Terms of the router's logits that depend on users only or on items only.

    Attributes:
        bias: linear term, [N, E]; None without one.
        channels: channels normalised to unit length, [C, N, D]; [0, N, 1] without pair terms.
    """

    bias: Tensor | None
    channels: Tensor

    def rows(self, index: Tensor | slice) -> Terms:
        """Select users or items."""
        return Terms(None if self.bias is None else self.bias[index], self.channels[:, index])


class PairRouter(nn.Module):
    """Router with expert logits that are linear in the cosines of user and item channels.

    `l_e(u, i) = sum_c A_ec cos(h_u^c, h_i^c) + p_e . h_u + q_e . h_i + b_e`, where `sees` selects
    the terms. The logits of all pairs are computed with a few matrix products.

    Args:
        weights: weight of each channel in each expert, [E, C]. They initialise A, so that pairs
            with a high cosine in a channel are routed to the experts of that channel.
        dim: embedding size D.
        sees: terms: `pair` (cosines), `user` or `item` (linear terms), `all` three, or `nothing`
            (equal gates).
        sharpness: scale of the initial A, `sharpness * (weights - weights.mean(0))`.

    Raises:
        SettingError: `sees` is invalid.
    """

    agree: Tensor

    def __init__(
        self,
        weights: Tensor,
        dim: int,
        *,
        sees: Sees = "pair",
        sharpness: float = 5.0,
    ) -> None:
        super().__init__()
        check_choice(Sees, router=sees)
        self.experts, channels = weights.shape
        self.sees_pair = sees in ("pair", "all")
        width = channels * dim
        sides = [side for side in ("user", "item") if sees in (side, "all")]
        self.sides = nn.ModuleDict({s: nn.Linear(width, self.experts, bias=False) for s in sides})
        for parameter in self.sides.parameters():
            nn.init.zeros_(parameter)
        self.bias = nn.Parameter(torch.zeros(self.experts)) if sees != "nothing" else None
        if self.sees_pair:
            self.agree = nn.Parameter(sharpness * (weights - weights.mean(0)))
        else:
            self.register_buffer("agree", torch.zeros(self.experts, 0), persistent=False)

    def terms(self, side: Side, channels: Tensor) -> Terms:
        """Compute the terms of users or items from their channels [C, N, D]."""
        flat = channels.transpose(0, 1).flatten(1)  # [N, CD]
        bias = self.sides[side](flat) if side in self.sides else None
        if side == "item":
            bias = flat.new_zeros(len(flat), self.experts) if bias is None else bias
            bias = bias if self.bias is None else bias + self.bias
        if not self.sees_pair:
            return Terms(bias, flat.new_zeros(0, len(flat), 1))
        return Terms(bias, normalize(channels, dim=-1))

    def weights(self) -> Tensor:
        """Return A, the weights of cosines in the logits: [E, C]."""
        return self.agree

    def pairs(self, user: Terms, item: Terms) -> Tensor:
        """Return the logits of B users with L items each (BL items): [B, L, E]."""
        assert item.bias is not None
        size = user.channels.shape[1]
        logits = item.bias.view(size, -1, self.experts)
        if user.bias is not None:
            logits = user.bias.unsqueeze(1) + logits
        if not self.sees_pair:
            return logits
        several = item.channels.view(len(item.channels), size, -1, item.channels.shape[-1])
        agreement = (user.channels.unsqueeze(2) * several).sum(-1).movedim(0, -1)  # [B, L, C]
        return torch.matmul(agreement, self.agree.T).add(logits)

    def block(self, user: Terms, item: Terms) -> Tensor:
        """Return the logits of all pairs of users and items, with gradients: [E, B, M]."""
        agreement = user.channels @ item.channels.mT  # [C, B, M]
        logits = (self.agree @ agreement.flatten(1)).view(-1, *agreement.shape[1:])
        for bias, dim in ((user.bias, 2), (item.bias, 1)):
            if bias is not None:
                logits = logits + bias.T.unsqueeze(dim)
        return logits

    @torch.no_grad()
    def scaled(self, user: Terms, item: Terms, temperature: float) -> tuple[Terms, Terms, Tensor]:
        """Return the first three arguments of `ranking`, divided by a temperature."""
        user, item = (
            t if t.bias is None else t._replace(bias=t.bias / temperature) for t in (user, item)
        )
        return user, item, self.weights() / temperature


def cross(user: Terms, item: Terms, weights: Tensor) -> list[Tensor]:
    """Return the logits of all pairs of users and items, one matrix per expert.

    Cosines are added one channel at a time, because a matrix product with only C rows is slow.

    Args:
        user: router terms of B users.
        item: router terms of I items.
        weights: weights of the cosines, [E, C].

    Returns:
        E matrices [B, I].
    """
    agreement = (user.channels @ item.channels.mT).unbind()  # C of [B, I]
    assert item.bias is not None
    found = []
    for e, right in enumerate(item.bias.T.contiguous()):
        logit = right.expand(user.channels.shape[1], -1)
        if user.bias is not None:
            logit = logit + user.bias[:, e : e + 1]
        for c, (plane, weight) in enumerate(zip(agreement, weights[e], strict=True)):
            # The first sum allocates the result; filling it with the bias would add a pass.
            new = c == 0 and user.bias is None
            logit = logit.addcmul(plane, weight) if new else logit.addcmul_(plane, weight)
        found.append(logit.contiguous())
    return found


def ranking(
    user: Terms,
    item: Terms,
    weights: Tensor,
    users: Tensor,
    items: Tensor,
    top_k: int | None,
) -> Tensor:
    """Score all pairs of users and items with the gated sum of expert dot products.

    Args:
        user: router terms of B users.
        item: router terms of I items.
        weights: weights of the cosines, [E, C].
        users: user vectors of the experts, [E, B, D].
        items: item vectors of the experts, [E, I, D].
        top_k: number of experts kept per pair; None keeps all.

    Returns:
        Scores, [B, I].
    """
    return gated_sum(cross(user, item, weights), (users @ items.mT).unbind(), top_k)


@torch.no_grad()
def tiled_ranking(
    rank: Callable[..., Tensor],
    terms: tuple[Terms, Terms, Tensor],
    users: Tensor,
    items: Tensor,
    top_k: int | None,
) -> Tensor:
    """Compute `ranking` for `TILE` pairs at a time, so that intermediate results stay in caches.

    Args:
        rank: `ranking` or `fused_ranking()`.
        terms: result of `PairRouter.scaled` for B users and I items.
        users: user vectors of the experts, [E, B, D].
        items: item vectors of the experts, [E, I, D].
        top_k: number of experts kept per pair; None keeps all.

    Returns:
        Scores, [B, I].
    """
    user, item, weights = terms
    size = max(1, TILE.get(users.device.type, TILE["cuda"]) // users.shape[1])
    tiles = (slice(first, first + size) for first in range(0, items.shape[1], size))
    return torch.cat(
        [rank(user, item.rows(t), weights, users, items[:, t], top_k) for t in tiles], dim=1
    )


@functools.cache
def fused_ranking() -> Callable[..., Tensor]:
    """Return `ranking` compiled into a single pass over memory, at its first call.

    On two CPU threads, MAGNET scores 4,096 users of `baby` in 0.40 s instead of 0.63 s. Compilation
    takes 16.5 s (experiments/benchmarks).

    Raises:
        SettingError: without a GPU, no C++ compiler or no Python headers are found.
    """
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    missing = [] if any(map(shutil.which, compilers)) else [f"no {' or '.join(compilers)}"]
    missing += [] if headers.exists() else [f"no {headers}"]
    if missing and not torch.cuda.is_available():
        raise SettingError(
            setting="model.fused",
            value=True,
            problem="it needs a GPU, or a C++ compiler and the Python headers; found "
            f"{' and '.join(missing)}",
            hint="install them, or set model.fused=false",
        )
    return torch.compile(ranking, dynamic=True)
