"""Planted sequences: what comes next depends on the last item, by a known law.

Shape legend: U users, I items, C categories, M modalities, D factors, F width of a modality,
S items of a category, A users who go on, R of those who go on to one category.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from mmrec.config.errors import SettingError
from mmrec.data.choices import exponential
from mmrec.data.corpus import (
    Categories,
    Interactions,
    Modality,
    Seed,
    Size,
    Source,
    content_hash,
    lexsort,
)
from mmrec.data.planting import (
    BEGIN,
    DOMINANT,
    FEWEST,
    SPAN,
    Roles,
    by_modality,
    check_modalities,
    check_range,
    deal,
    draw_activity,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class SequentialTruth(Roles):
    """What was planted; every role is `dominant/<modality>`, and the category decides it.

    Attributes:
        preferred: [C] int64, the modality that shows the styles of a category.
        transition: [C, C] float32, the chance of the next category; rows sum to one.
        style: [I, D] float32, rows of norm 1.
        turn: [D, D] float32, orthogonal: the next style is near `turn @ style`.
    """

    preferred: Tensor
    transition: Tensor
    style: Tensor
    turn: Tensor


def planted_sequential(
    *,
    users: Size = 1000,
    items: Size = 3000,
    interactions_per_user: float = 8.0,
    modalities: Sequence[str] = ("visual", "textual"),
    widths: Size | Mapping[str, Size] = 64,
    factors: Size = 8,
    categories: Size = 10,
    successors: Size = 2,
    within_modality: bool = True,
    chance: float = 0.2,
    noise: float | Mapping[str, float] = 0.3,
    missing: float | Mapping[str, float] = 0.05,
    popularity_skew: float = 0.0,
    strength: float = 16.0,
    seed: Seed = 0,
) -> tuple[Source, SequentialTruth]:
    """Make sequences with a known truth.

    An item has a category c and a style s, uniform on the unit sphere. Each category prefers one
    modality m(c), which shows the styles of its items; the others have noise instead. All show the
    category, by its centre mu_c, so that the features of an item do not tell by themselves which
    modality matters:

        f_im = sqrt(D) A_m (s_i if m = m(c_i) else 0) + B_m mu_c(i)
               + sqrt([m != m(c_i)] + noise_m^2) * N(0, 1),       A_m, B_m ~ N(0, 1/D)

    A user begins with an item by popularity b. The category of the last item decides the next one:
    with probability `1 - chance` one of its successors, else any category:

        P(c' | c) = (1 - chance) [c' in successors(c)] / |successors(c)| + chance / C

    The style of the last item i decides which item j of that category is next, among those that
    the user does not have yet, with a fixed orthogonal matrix Q:

        P(j | i, c') ~ b_j exp(strength * <Q s_i, s_j>),    log b_j ~ popularity_skew * N(0, 1)

    Args:
        users: U.
        items: I.
        interactions_per_user: mean, 5 or more; log-normal, cut at the items of a category.
        modalities: their names.
        widths: F, of all modalities or by name.
        factors: D.
        categories: C, of equal size; modalities are preferred by equal parts of them.
        successors: categories that usually follow a category; fewer if there are no more.
        within_modality: whether successors prefer the same modality; False: they may be any.
        chance: 0..1, how often any category follows.
        noise: standard deviation beside a signal of 1, of all modalities or by name.
        missing: share of the items that lack the modality, of all modalities or by name.
        popularity_skew: standard deviation of an item's log popularity.
        strength: of style; at 0 popularity alone decides which item of a category is next.
        seed: the same seed gives the same bytes.

    Returns:
        The source, its interactions ordered by user and time, and the truth.

    Raises:
        SettingError: an argument out of its range, or an unknown modality.
    """
    names = tuple(modalities)
    _check_sizes(users, items, interactions_per_user, names, factors, categories, successors)
    check_range("chance", chance, 0, 1)
    check_range("popularity_skew", popularity_skew, 0)
    check_range("strength", strength, 0)
    width = by_modality("widths", widths, names, 1)
    sigma = by_modality("noise", noise, names, 0)
    absent = by_modality("missing", missing, names, 0, 1)
    rng = Generator().manual_seed(seed)

    category = torch.randperm(items, generator=rng) % categories  # [I]
    preferred = torch.randperm(categories, generator=rng) % len(names)  # [C]
    transition = _transition(preferred, successors, chance, rng, within_modality=within_modality)
    centre = torch.randn(categories, factors, generator=rng)  # [C, D]
    style = normalize(torch.randn(items, factors, generator=rng), dim=1)  # [I, D]
    turn = torch.linalg.qr(torch.randn(factors, factors, generator=rng)).Q  # [D, D]
    role = preferred[category]  # [I]
    present = torch.stack([deal([share, 1 - share], items, rng) for share in absent], 1).bool()
    shown = {}
    for m, name in enumerate(names):
        signal = torch.cat([math.sqrt(factors) * style * (role == m)[:, None], centre[category]], 1)
        shown[name] = _modality(signal, role == m, present[:, m], width[m], sigma[m], rng)

    popularity = popularity_skew * torch.randn(items, generator=rng)  # [I]
    activity = draw_activity(users, interactions_per_user, items // categories, rng)  # [U]
    pull = strength * style @ turn.T  # [I, D]
    user, item = _walk(category, transition, pull, style, popularity, activity, rng)
    moment = torch.rand(len(user), generator=rng, dtype=torch.float64)
    time = BEGIN + (moment[lexsort(user, moment)] * SPAN).long()

    labels = tuple(f"category {c}" for c in range(categories))
    content: list[Tensor | str] = [f"{users} users", user, item, time, category]
    for name, modality in shown.items():
        content += [name, modality.digest]
    source = Source(
        name="planted_sequential",
        n_users=users,
        n_items=items,
        interactions=Interactions(user, item, time),
        fingerprint=content_hash(content),
        modalities=shown,
        categories=Categories(torch.arange(items), category, labels),
    )
    informs = role[:, None] == torch.arange(len(names))  # [I, M]
    return source, SequentialTruth(
        role_names=tuple(DOMINANT + name for name in names),
        role=role,
        informative=(informs & present).float(),
        category=category,
        preferred=preferred,
        transition=transition,
        style=style,
        turn=turn,
    )


def _transition(
    preferred: Tensor, successors: int, chance: float, rng: Generator, *, within_modality: bool
) -> Tensor:
    """Draw the successors of each category, and return the chances of what comes next: [C, C]."""
    count = len(preferred)
    transition = torch.full((count, count), chance / count)
    for c in range(count):
        allowed = (preferred == preferred[c]).nonzero()[:, 0]
        if not within_modality:
            allowed = torch.arange(count)
        chosen = allowed[torch.randperm(len(allowed), generator=rng)[:successors]]
        transition[c, chosen] += (1 - chance) / len(chosen)
    return transition


def _modality(
    signal: Tensor, informs: Tensor, present: Tensor, width: int, noise: float, rng: Generator
) -> Modality:
    """Features of one modality from its signal [I, 2 D], and of which items it shows the style."""
    mixing = torch.randn(signal.shape[1], width, generator=rng) * math.sqrt(2 / signal.shape[1])
    blur = (~informs[:, None] + noise**2).sqrt() * torch.randn(len(signal), width, generator=rng)
    features = signal @ mixing + blur  # [I, F]
    features[~present] = 0
    return Modality(features, present, content_hash([features, present]))


def _walk(
    category: Tensor,
    transition: Tensor,
    pull: Tensor,
    style: Tensor,
    popularity: Tensor,
    activity: Tensor,
    rng: Generator,
) -> tuple[Tensor, Tensor]:
    """Let users go from item to item.

    Args:
        category: [I].
        transition: [C, C].
        pull: [I, D]; its dot product with a style is a logit of the next item.
        style: [I, D].
        popularity: [I], of an item's log.
        activity: [U], the number of items; at most those of the smallest category.
        rng: random generator.

    Returns:
        User and item, [N] each, by user and in order.
    """
    members = [(category == c).nonzero()[:, 0] for c in range(len(transition))]
    slot = torch.empty_like(category)  # place of an item in its category
    for each in members:
        slot[each] = torch.arange(len(each))
    met = torch.empty(len(activity), int(activity.max()), dtype=torch.long)  # [U, L]
    met[:, 0] = torch.multinomial(popularity.exp(), len(met), replacement=True, generator=rng)
    for step in range(1, met.shape[1]):
        active = (activity > step).nonzero()[:, 0]  # [A]
        last = met[active, step - 1]
        following = torch.multinomial(transition[category[last]], 1, generator=rng)[:, 0]
        for c, items in enumerate(members):
            rows = active[following == c]  # [R]
            logits = pull[met[rows, step - 1]] @ style[items].T + popularity[items]  # [R, S]
            row, place = (category[met[rows, :step]] == c).nonzero(as_tuple=True)
            logits[row, slot[met[rows, :step][row, place]]] = -torch.inf
            gumbel = -exponential(logits.shape, rng).log()
            met[rows, step] = items[(logits + gumbel).argmax(1)]
    there = torch.arange(met.shape[1]) < activity[:, None]  # [U, L]
    return there.nonzero()[:, 0], met[there]


def _check_sizes(
    users: int,
    items: int,
    interactions_per_user: float,
    names: tuple[str, ...],
    factors: int,
    categories: int,
    successors: int,
) -> None:
    check_range("users", users, 1)
    check_range("interactions_per_user", interactions_per_user, FEWEST)
    check_modalities(names)
    check_range("factors", factors, 1)
    check_range("categories", categories, 1)
    check_range("successors", successors, 1)
    if items < categories * interactions_per_user:
        raise SettingError(
            setting="items",
            value=items,
            problem=f"too few for {categories} categories without repeats",
            expected=f"{math.ceil(categories * interactions_per_user)} or more",
        )
