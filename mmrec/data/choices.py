"""Choices of the users of planted data, among the items that they meet.

Shape legend: I items, C categories, N interactions, B users of a block, K items that a user meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

LAUNCH = 0.8  # of the time span: cold items do not exist before
WHOLE = 2048  # size of the largest catalogue that users meet as a whole
NEVER = -1e9  # finite: interpolating between infinities gives NaN


def exponential(shape: Sequence[int], rng: Generator) -> Tensor:
    """Draw from the exponential distribution with mean 1."""
    return torch.empty(shape).exponential_(generator=rng)


class CategoryLayout(NamedTuple):
    """The catalogue sorted by category, for drawing items.

    Attributes:
        order: [I] int64, items sorted by category.
        end: [I] float64, ascending: category plus the cumulative share within it.
        share: [I] float64, by item: its probability once its category is drawn.
    """

    order: Tensor
    end: Tensor
    share: Tensor


def by_category(category: Tensor, popularity: Tensor) -> CategoryLayout:
    """Divide each category among its items [I], half by popularity and half evenly."""
    size = torch.bincount(category).double()  # [C]
    weight = popularity.double().exp()  # [I]
    total = torch.zeros_like(size).index_add_(0, category, weight)
    share = (weight / total[category] + 1 / size[category]) / 2
    order = category.argsort(stable=True)
    return CategoryLayout(order, share[order].cumsum(0), share)


def sample_items(
    layout: CategoryLayout, liking: Tensor, draws: int, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Draw the items that users meet, with importance weights.

    Args:
        layout: the catalogue.
        liking: [B, C], logit of the mean item of each category.
        draws: K, unless users meet the whole catalogue.
        rng: random generator.

    Returns:
        Items [B, K] int64, and [B, K] float32: minus the log of the probability to be met; NEVER
        for an item that was drawn before.
    """
    users, items = len(liking), len(layout.order)
    if items <= WHOLE:
        return torch.arange(items).expand(users, -1), torch.zeros(users, items)
    category = (liking.double().softmax(1) + 1 / liking.shape[1]) / 2  # [B, C]
    # Running sums of exponentials are sorted uniforms, so that a repeated item follows itself.
    sums = exponential((users, draws + 1), rng).double().cumsum(1)
    place = sums[:, :-1] / sums[:, -1:]  # [B, K]
    upper = category.cumsum(1)  # [B, C]
    drawn = torch.searchsorted(upper[:, :-1].contiguous(), place)
    chance = category.gather(1, drawn)
    within = 1 - (upper.gather(1, drawn) - place) / chance
    slot = torch.bucketize(drawn + within, layout.end[:-1])
    met = layout.order[slot]
    met_once = -torch.expm1(draws * torch.log1p(-chance * layout.share[met]))
    log_weight = -met_once.log().float()
    log_weight[:, 1:].masked_fill_(met[:, 1:] == met[:, :-1], NEVER)
    return met, log_weight


def choose(
    logits: Tensor, late: Tensor | None, activity: Tensor, rng: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Let users choose their best remaining item at each of their moments.

    Args:
        logits: [B, K, 2] at the beginning and at the end of the time span.
        late: [B, K] bool, items that cannot be chosen before LAUNCH.
        activity: [B] int64, descending, the number of choices.
        rng: random generator.

    Returns:
        Row 0..B-1, column 0..K-1 and moment 0..1 of each choice, all [N].
    """
    begin, end = (x.contiguous() for x in logits.unbind(2))
    # Not sorted: the best choices must not all come first.
    moments = torch.rand(len(activity), int(activity[0]), generator=rng, dtype=torch.float64)
    rows = torch.arange(len(activity))
    taken = []
    for slot in range(int(activity[0])):
        active = int((activity > slot).sum())
        moment = moments[:active, slot, None]  # [A, 1]
        value = torch.lerp(begin[:active], end[:active], moment.float())
        if late is not None:
            value.masked_fill_(late[:active] & (moment < LAUNCH), NEVER)
        best, column = value.max(1, keepdim=True)
        assert (best > NEVER / 2).all()
        begin[:active].scatter_(1, column, NEVER)
        end[:active].scatter_(1, column, NEVER)
        taken.append((rows[:active], column[:, 0], moment[:, 0]))
    row, column, moment = (torch.cat(part) for part in zip(*taken, strict=True))
    return row, column, moment
