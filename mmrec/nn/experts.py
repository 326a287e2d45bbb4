"""Experts with roles: each mixes the channels of a user or an item in its own way.

C channels, E experts, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmrec.config.checks import check_choice
from mmrec.config.errors import SettingError

Role = Literal["dominant", "balanced", "complementary"]
Experts = Literal["templates", "free", "one"]
ABOUT_ROLES = (
    "An expert dominant/a looks mostly at channel a, balanced/a+b at both alike, "
    "complementary/a at a and at what the others add to it."
)
ROLES: Mapping[Role, float] = {"dominant": 0.8, "balanced": 0.45, "complementary": 0.5}


class Template(NamedTuple):
    """What an expert is for.

    Attributes:
        name: the role and its channels, as `dominant/visual`.
        weights: of each channel; they sum to one.
        anchor: of a complementary expert: the channel whose direction the others leave out.
    """

    name: str
    weights: tuple[float, ...]
    anchor: int | None = None


def role_templates(channels: Sequence[str], roles: Mapping[Role, float | None]) -> list[Template]:
    """One dominant expert per channel, one balanced per pair, one complementary per channel.

    Three channels give nine experts. What a role's own channels leave of the weight, the others
    share evenly; where there are no others, its own take all. A role that means nothing with so
    few channels (a pair of one) has no expert.

    Args:
        channels: names.
        roles: the weight of the dominant channel, of each of a balanced pair, and of the anchor;
            a role that is missing or None has no expert.

    Raises:
        SettingError: a weight that leaves less than nothing, or no expert is left.
    """
    limits = {"dominant": 1.0, "balanced": 0.5, "complementary": 1.0}
    for role, weight in roles.items():
        if role not in limits:
            raise SettingError(
                setting=f"model.roles.{role}",
                value=weight,
                problem="no such role",
                hint=f"there are {', '.join(limits)}",
            )
        if weight is not None and not 0 < weight <= limits[role]:
            raise SettingError(
                setting=f"model.roles.{role}",
                value=weight,
                expected=f"a weight above 0 and at most {limits[role]}",
                hint="null leaves these experts out",
            )
    count = len(channels)
    found = []
    for role, own in (
        ("dominant", [(c,) for c in range(count)]),
        ("balanced", list(combinations(range(count), 2))),
        ("complementary", [(c,) for c in range(count)] if count > 1 else []),
    ):
        weight = roles.get(role)
        if weight is None:
            continue
        for those in own:
            name = f"{role}/{'+'.join(channels[c] for c in those)}"
            anchor = those[0] if role == "complementary" else None
            found.append(Template(name, _weights(count, those, weight), anchor))
    if not found:
        raise SettingError(
            setting="model.roles",
            value=dict(roles),
            problem=f"no expert is left for the channels {', '.join(channels)}",
            hint="give one role a weight",
        )
    return found


def expert_templates(
    channels: Sequence[str], roles: Mapping[Role, float | None], experts: Experts
) -> list[Template]:
    """Return the experts of `role_templates`, or an alternative for an ablation.

    Args:
        channels: names.
        roles: as for `role_templates`.
        experts: `templates`; `free`: as many experts, whose names claim no role; or `one` expert
            with equal weights.

    Raises:
        SettingError: no such choice, or an error of `role_templates`.
    """
    check_choice(Experts, experts=experts)
    templates = role_templates(channels, roles)
    match experts:
        case "templates":
            return templates
        case "free":
            return [t._replace(name=f"free/{n}") for n, t in enumerate(templates, 1)]
        case "one":
            return [Template("one", (1 / len(channels),) * len(channels))]


def _weights(count: int, own: tuple[int, ...], weight: float) -> tuple[float, ...]:
    others = count - len(own)
    if not others:
        return (1 / count,) * count
    rest = (1 - weight * len(own)) / others
    return tuple(weight if c in own else rest for c in range(count))


class RoleExperts(nn.Module):
    """Experts that mix the channels of a user or an item with learned weights.

    Expert e returns `x_e = sum_c w_ec h_c`, with `w_e = softmax(log template_e + delta_e)`. Its
    score of a pair is the dot product of the user's and the item's vector.

    A complementary expert removes from every other channel the component along its anchor channel.
    The result is then rescaled to the norm of the plain mixture: shorter vectors give smaller
    scores, and the router would soon drop these experts.

    Args:
        templates: one for each expert.
        anchored: start at the templates, penalise the distance from them, and remove the anchor's
            direction in complementary experts. Otherwise the weights start at random and are free.
    """

    template: Tensor
    anchor: Tensor
    complementary: Tensor

    def __init__(self, templates: Sequence[Template], *, anchored: bool = True) -> None:
        super().__init__()
        weights = torch.tensor([t.weights for t in templates])  # [E, C]
        experts, channels = weights.shape
        if not anchored:
            weights = torch.full_like(weights, 1 / channels)
        free = [t.anchor if anchored else None for t in templates]
        self.anchored = anchored
        self.register_buffer("template", weights.clamp(min=1e-6), persistent=False)
        complementary = [e for e, a in enumerate(free) if a is not None]
        self.register_buffer("complementary", torch.tensor(complementary).long(), persistent=False)
        anchors = torch.tensor([a for a in free if a is not None]).long()
        self.register_buffer("anchor", anchors, persistent=False)
        self.delta = nn.Parameter(torch.zeros(experts, channels))
        if not anchored:  # or equal experts would stay equal
            nn.init.normal_(self.delta, std=0.5)

    def weights(self) -> Tensor:
        """-> [E, C]; rows sum to one."""
        return (self.template.log() + self.delta).softmax(1)

    def penalty(self) -> Tensor:
        """Mean square of how far the weights are from their templates; zero if they are free."""
        return self.delta.square().mean() if self.anchored else self.delta.new_zeros(())

    def forward(self, channels: Tensor) -> Tensor:
        """Mix the channels: [C, N, D], zero where a channel is absent -> [E, N, D]."""
        weights = self.weights()
        mixed: Tensor = torch.tensordot(weights, channels, 1)  # [E, N, D]
        if len(self.anchor):
            # w_c (h_c - (h_c . a) a), summed over c other than the anchor's, in two products.
            direction = normalize(channels[self.anchor], dim=-1)  # [E', N, D]
            others = weights[self.complementary].scatter(1, self.anchor.unsqueeze(1), 0.0)
            rest = torch.tensordot(others, channels, 1)  # [E', N, D]
            along = (rest * direction).sum(-1, keepdim=True) * direction
            whole = mixed[self.complementary]
            left = whole - along
            length = left.norm(dim=-1, keepdim=True).clamp(min=1e-6)
            left = left * (whole.norm(dim=-1, keepdim=True) / length)
            return mixed.index_copy(0, self.complementary, left)
        return mixed

    def makes_up(self, present: Tensor) -> Tensor:
        """Return the factor of each expert's score that compensates for absent channels.

        It makes the weights of the channels that are present sum to one.

        Args:
            present: [N, C] bool.

        Returns:
            [N, E], 1 where nothing is absent, 0 where everything is.
        """
        there = present.to(self.delta.dtype) @ self.weights().T
        return torch.where(there > 0, 1 / there.clamp(min=1e-6), 0.0)

    def channel_weights(self, gates: Tensor, present: Tensor) -> Tensor:
        """Return the weight of each channel in gated sums of the experts.

        Args:
            gates: [N, E].
            present: [N, C] bool.

        Returns:
            [N, C]; zero for absent channels. Rows sum to the sum of the gates, or to 0 if all
            channels are absent.
        """
        return (gates * self.makes_up(present)) @ self.weights() * present
