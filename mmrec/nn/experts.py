"""Experts with modality roles, which mix the channels of users and items.

Shapes: C channels, E experts, N rows, D embedding size.
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
    "Expert dominant/a uses mostly channel a, balanced/a+b uses both channels equally, and "
    "complementary/a uses a and the parts of the other channels that a does not contain."
)
ROLES: Mapping[Role, float] = {"dominant": 0.8, "balanced": 0.45, "complementary": 0.5}


class Template(NamedTuple):
    """Initial channel weights of an expert, according to its role.

    Attributes:
        name: the role and its channels, for example `dominant/visual`.
        weights: weight of each channel; they sum to 1.
        anchor: anchor channel of a complementary expert, whose direction is removed from the other
            channels; None for other roles.
    """

    name: str
    weights: tuple[float, ...]
    anchor: int | None = None


def role_templates(channels: Sequence[str], roles: Mapping[Role, float | None]) -> list[Template]:
    """Return one dominant expert per channel, one balanced per pair, one complementary per channel.

    Three channels give nine experts. A role assigns a weight to its own channels; the other
    channels share the remaining weight equally. If there are no other channels, the own channels
    have all the weight. Roles that need more channels than there are have no expert.

    Args:
        channels: names of the channels.
        roles: weight of the `dominant` channel, of each channel of a `balanced` pair, and of the
            anchor of a `complementary` expert. Missing or None: no such experts.

    Raises:
        SettingError: a role is unknown, a weight is out of range, or no expert remains.
    """
    limits = {"dominant": 1.0, "balanced": 0.5, "complementary": 1.0}
    for role, weight in roles.items():
        if role not in limits:
            raise SettingError(
                setting=f"model.roles.{role}",
                value=weight,
                problem="unknown role",
                hint=f"the roles are {', '.join(limits)}",
            )
        if weight is not None and not 0 < weight <= limits[role]:
            raise SettingError(
                setting=f"model.roles.{role}",
                value=weight,
                expected=f"a weight above 0 and at most {limits[role]}",
                hint="use null to omit these experts",
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
            problem=f"no expert remains for the channels {', '.join(channels)}",
            hint="set the weight of at least one role",
        )
    return found


def expert_templates(
    channels: Sequence[str], roles: Mapping[Role, float | None], experts: Experts
) -> list[Template]:
    """Return the experts of `role_templates`, or an alternative for an ablation.

    Args:
        channels: names of the channels.
        roles: weights of the roles; see `role_templates`.
        experts: `templates`; `free`, the same number of experts with names without roles; or `one`
            expert with equal weights.

    Raises:
        SettingError: `experts` or `roles` is invalid.
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
    """Experts that mix the channels of users and items with learned weights.

    Expert e returns `x_e = sum_c w_ec h_c`, with `w_e = softmax(log template_e + delta_e)`. Its
    score of a pair is the dot product of the user vector and the item vector.

    Complementary experts remove the component along their anchor channel from all other channels.
    The result is rescaled to the norm of the original mixture, because shorter vectors would give
    smaller scores, and the router would soon drop these experts.

    Args:
        templates: template of each expert.
        anchored: initialise the weights with the templates, penalise the distance from them, and
            remove the anchor direction in complementary experts. Otherwise, weights are initialised
            at random and not penalised.
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
        if not anchored:  # experts with equal weights would stay equal
            nn.init.normal_(self.delta, std=0.5)

    def weights(self) -> Tensor:
        """Return the channel weights of experts, with rows that sum to 1: [E, C]."""
        return (self.template.log() + self.delta).softmax(1)

    def penalty(self) -> Tensor:
        """Return the mean squared distance from the templates; 0 if not anchored."""
        return self.delta.square().mean() if self.anchored else self.delta.new_zeros(())

    def forward(self, channels: Tensor) -> Tensor:
        """Mix the channels, which are zero where absent: [C, N, D] -> [E, N, D]."""
        weights = self.weights()
        mixed: Tensor = torch.tensordot(weights, channels, 1)  # [E, N, D]
        if len(self.anchor):
            # w_c (h_c - (h_c . a) a), summed over all c except the anchor, in two products.
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
        """Return factors of expert scores that compensate for absent channels.

        They rescale the weights of the present channels to a sum of 1.

        Args:
            present: mask of the channels, [N, C] bool.

        Returns:
            Factors, [N, E]: 1 if all channels are present, 0 if all are absent.
        """
        there = present.to(self.delta.dtype) @ self.weights().T
        return torch.where(there > 0, 1 / there.clamp(min=1e-6), 0.0)

    def channel_weights(self, gates: Tensor, present: Tensor) -> Tensor:
        """Return the weight of each channel in gated sums of the experts.

        Args:
            gates: gates of experts, [N, E].
            present: mask of the channels, [N, C] bool.

        Returns:
            Weights [N, C], zero for absent channels. Rows sum to the sum of the gates, or to 0 if
            all channels are absent.
        """
        return (gates * self.makes_up(present)) @ self.weights() * present
