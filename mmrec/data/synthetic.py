"""Planted data: interactions and item content whose truth is known.

Shape legend: U users, I items, M modalities, D factors, F width of a modality, N interactions,
B users of a block, K items that a user meets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from mmrec.config.errors import SettingError
from mmrec.data.choices import by_category, choose, exponential, sample_items
from mmrec.data.corpus import Categories, Interactions, Modality, Seed, Size, Source, content_hash
from mmrec.data.planting import (
    BEGIN,
    DOMINANT,
    FEWEST,
    SPAN,
    Roles,
    by_modality,
    check_modalities,
    check_names,
    check_range,
    deal,
    draw_activity,
)

ROLE_SHARES = {"dominant": 0.6, "balanced": 0.2, "complementary": 0.2}
MET = 24  # draws from a larger one for each interaction
BLOCK = 64  # users at a time: what they need fits in a cache


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth(Roles):
    """What was planted; roles are `dominant/<modality>` for each, `balanced`, `complementary`.

    Attributes:
        preference: [U, M] float32, how much a user heeds each modality; rows sum to one.
        user_factors: [2, U, D] float32, a user's interests at the begin and at the end.
        item_factors: [I, D] float32, each factor of mean 0 and variance 1 over the items.
    """

    preference: Tensor
    user_factors: Tensor
    item_factors: Tensor


def planted(
    *,
    users: Size = 2000,
    items: Size = 1000,
    interactions_per_user: float = 12.0,
    modalities: Sequence[str] = ("visual", "textual"),
    widths: Size | Mapping[str, Size] = 64,
    factors: Size = 16,
    roles: Mapping[str, float] = ROLE_SHARES,
    noise: float | Mapping[str, float] = 0.4,
    missing: float | Mapping[str, float] = 0.05,
    popularity_skew: float = 0.7,
    preference_strength: float = 0.25,
    drift: float = 0.3,
    categories: Size = 20,
    cold_items: float = 0.0,
    strength: float = 4.0,
    seed: Seed = 0,
) -> tuple[Source, Truth]:
    """Make a data set with a known truth.

    An item's factors are half its category's and half its own: `v_i ~ mu_category(i) + own_i`. Its
    role says which of them a modality carries, as a mask `c_im`: in a *dominant* item one modality
    carries all and the others none; in a *balanced* one every modality carries all; in a
    *complementary* one each carries its own block. Noise makes up for what is not carried, so that
    every modality has one scale:

        f_im = A_m (c_im * v_i) + sqrt(1 - mean(c_im) + noise_m^2) * N(0, 1),   A_m ~ N(0, 1/D)

    A user's interests move on a straight line over the span of the data, from `u(0)` to
    `u(1) = sqrt(1 - drift^2) u(0) + drift * N(0, 1)`. A user heeds the modalities by `p_u`, uniform
    on the simplex, which weighs each factor of an item by who carries it (`c_im` is 0 where the
    modality is missing), with s the preference strength:

        w_uid = 1 - s + s * M * sum_m p_um c_imd / max(1, sum_m c_imd)
        x_ui(t) = sum_d w_uid u_ud(t) v_id / sqrt(D)

    At each of their moments, spread evenly over the span and filled in random order, users take
    what they do not have yet with the largest

        strength * x_ui(t) + log b_i + g_ui,   log b_i ~ popularity_skew * N(0, 1),   g ~ Gumbel

    which, without drift, draws from the softmax over the catalogue without replacement.

    Beyond 2,048 items, a user meets only a sample: 24 draws for each interaction, of a category by
    taste, then of an item in it by popularity, both mixed with even chances. Logits are corrected
    for the chance to be met. Time and memory then grow with the interactions and not with
    users x items, for choices that are close to, if less sharp than, those from the catalogue.

    Args:
        users: U.
        items: I.
        interactions_per_user: their mean, 5 or more; log-normal, and cut at a quarter of the items.
        modalities: their names.
        widths: F, of all modalities or by name.
        factors: D.
        roles: share of the items in each kind of role; modalities have equal parts of `dominant`.
        noise: standard deviation beside a signal of 1, of all modalities or by name.
        missing: share of the items that lack the modality, of all modalities or by name.
        popularity_skew: standard deviation of an item's log popularity.
        preference_strength: 0..1.
        drift: 0..1; at 1 the last interests have nothing to do with the first.
        categories: their number; of equal size, and an item bears one.
        cold_items: 0..0.5, share of the items that come in the last fifth of the span;
            `Source.cold` gives half to validation and half to test, and is None without any.
        strength: of taste; at 0 popularity and chance decide alone.
        seed: the same seed gives the same bytes.

    Returns:
        The source, its interactions ordered by user and time, and the truth.

    Raises:
        SettingError: an argument out of its range, or an unknown role or modality.
    """
    names = tuple(modalities)
    _check_sizes(users, items, interactions_per_user, names, factors, categories)
    _check_roles(roles)
    check_range("popularity_skew", popularity_skew, 0)
    check_range("preference_strength", preference_strength, 0, 1)
    check_range("drift", drift, 0, 1)
    check_range("cold_items", cold_items, 0, 0.5)
    check_range("strength", strength, 0)
    width = by_modality("widths", widths, names, 1)
    sigma = by_modality("noise", noise, names, 0)
    absent = by_modality("missing", missing, names, 0, 1)
    rng = Generator().manual_seed(seed)

    category = torch.randperm(items, generator=rng) % categories  # [I]
    centre = torch.randn(categories, factors, generator=rng)  # [C, D]
    item = centre[category] + torch.randn(items, factors, generator=rng)
    item = (item - item.mean(0)) / item.std(0, correction=0)  # [I, D]
    shares = [roles.get("dominant", 0) / len(names)] * len(names)
    shares += [roles.get("balanced", 0), roles.get("complementary", 0)]
    role = deal(shares, items, rng)  # [I]
    present = torch.stack([deal([share, 1 - share], items, rng) for share in absent], 1).bool()
    carried = _carried(len(names), factors)[role] & present[:, :, None]  # [I, M, D]
    shown = {
        name: _modality(item, carried[:, m], present[:, m], width[m], sigma[m], rng)
        for m, name in enumerate(names)
    }
    cold = deal([1 - cold_items, cold_items / 2, cold_items / 2], items, rng).to(torch.int8)  # [I]
    popularity = popularity_skew * torch.randn(items, generator=rng)  # [I]

    begin = torch.randn(users, factors, generator=rng)  # [U, D]
    end = math.sqrt(1 - drift**2) * begin + drift * torch.randn(users, factors, generator=rng)
    preference = exponential((users, len(names)), rng)
    preference /= preference.sum(1, keepdim=True)  # [U, M]
    activity = draw_activity(users, interactions_per_user, items // 4, rng)  # [U]

    # x_ui is a dot product once u is repeated for each p_um, and v for each c_im.
    seen = len(names) * carried / carried.sum(1, keepdim=True).clamp(min=1)  # [I, M, D]
    plain = torch.full_like(item[:, None], 1 - preference_strength)
    weight = torch.cat([plain, preference_strength * seen], 1)  # [I, 1+M, D]
    taste = (strength / math.sqrt(factors) * weight * item[:, None]).flatten(1)  # [I, (1+M)D]
    heed = torch.cat([torch.ones(users, 1), preference], 1)[:, :, None]  # [U, 1+M, 1]
    interests = torch.stack([(heed * u[:, None]).flatten(1) for u in (begin, end)], 2)
    mean = torch.zeros_like(centre).index_add_(0, category, item)
    mean /= torch.bincount(category)[:, None]  # [C, D]
    liking = strength / math.sqrt(factors) * (begin + end) / 2 @ mean.T  # [U, C]
    layout = by_category(category, popularity)

    rows = []
    for block in torch.split(activity.argsort(descending=True, stable=True), BLOCK):
        met, log_weight = sample_items(
            layout, liking[block], MET * int(activity[block[0]]), rng
        )  # [B, K]
        base = log_weight + popularity[met] - exponential(met.shape, rng).log()
        appeal = taste.index_select(0, met.flatten()).view(*met.shape, -1)  # [B, K, (1+M)D]
        logits = torch.baddbmm(base[:, :, None], appeal, interests[block])  # [B, K, 2]
        late = cold[met] > 0 if cold_items else None
        user, choice, moment = choose(logits, late, activity[block], rng)
        rows.append((block[user], met[user, choice], moment))
    user, chosen, moment = (torch.cat(column) for column in zip(*rows, strict=True))
    time = BEGIN + (moment * SPAN).long()
    order = (user * (BEGIN + SPAN) + time).argsort(stable=True)
    interactions = Interactions(user, chosen, time).select(order)

    labels = tuple(f"category {c}" for c in range(categories))
    content: list[Tensor | str] = [f"{users} users", interactions.user, interactions.item]
    content += [time[order], category, cold]
    for name, modality in shown.items():
        content += [name, modality.digest]
    source = Source(
        name="planted",
        n_users=users,
        n_items=items,
        interactions=interactions,
        fingerprint=content_hash(content),
        modalities=shown,
        categories=Categories(torch.arange(items), category, labels),
        cold=cold if cold_items else None,
    )
    return source, Truth(
        role_names=(*(DOMINANT + name for name in names), "balanced", "complementary"),
        role=role,
        informative=carried.float().mean(2),
        preference=preference,
        user_factors=torch.stack([begin, end]),
        item_factors=item,
        category=category,
    )


def _carried(modalities: int, factors: int) -> Tensor:
    """[R, M, D] bool: which factors a modality carries in each role, in the order of Truth."""
    shape = modalities, modalities, factors
    dominant = torch.eye(modalities, dtype=torch.bool)[:, :, None].expand(shape)
    balanced = torch.ones(1, *shape[1:], dtype=torch.bool)
    owner = torch.arange(factors) * modalities // factors  # [D]
    complementary = (owner == torch.arange(modalities)[:, None])[None]
    return torch.cat([dominant, balanced, complementary])


def _modality(
    item: Tensor, carried: Tensor, present: Tensor, width: int, noise: float, rng: Generator
) -> Modality:
    """Features of one modality from item [I, D], carried [I, D] bool and present [I] bool."""
    mixing = torch.randn(item.shape[1], width, generator=rng) / math.sqrt(item.shape[1])
    lacking = 1 - carried.float().mean(1, keepdim=True)  # [I, 1]
    blur = torch.randn(len(item), width, generator=rng) * (lacking + noise**2).sqrt()
    features = (carried * item) @ mixing + blur  # [I, F]
    features[~present] = 0
    return Modality(features, present, content_hash([features, present]))


def _check_sizes(
    users: int,
    items: int,
    interactions_per_user: float,
    names: tuple[str, ...],
    factors: int,
    categories: int,
) -> None:
    check_range("users", users, 1)
    check_range("interactions_per_user", interactions_per_user, FEWEST)
    if items < 4 * interactions_per_user:
        raise SettingError(
            setting="items",
            value=items,
            problem=f"too few for interactions_per_user={interactions_per_user} without repeats",
            expected=f"{math.ceil(4 * interactions_per_user)} or more",
        )
    check_modalities(names)
    if factors < len(names):
        raise SettingError(
            setting="factors",
            value=factors,
            problem=f"too few for a block of them in each of {len(names)} modalities",
            expected=f"{len(names)} or more",
        )
    check_range("categories", categories, 1, items)


def _check_roles(roles: Mapping[str, float]) -> None:
    check_names("roles", roles, ROLE_SHARES)
    for role, share in roles.items():
        check_range(f"roles.{role}", share, 0, 1)
    total = sum(roles.values())
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise SettingError(
            setting="roles",
            value=dict(roles),
            problem=f"the shares sum to {total:g}",
            expected="a sum of 1",
        )
