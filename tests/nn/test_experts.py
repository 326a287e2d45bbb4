"""Role experts against templates written out, and vectors computed one by one."""

from __future__ import annotations

import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.nn import ROLES, RoleExperts, role_templates

CHANNELS = ("behaviour", "visual", "textual")


def seeded(**options):
    torch.manual_seed(0)
    experts = RoleExperts(role_templates(CHANNELS, ROLES), **options)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return experts


def test_three_channels_give_the_nine_experts_of_the_design():
    found = {t.name: t.weights for t in role_templates(CHANNELS, ROLES)}
    expected = {
        "dominant/behaviour": (0.8, 0.1, 0.1),
        "dominant/visual": (0.1, 0.8, 0.1),
        "dominant/textual": (0.1, 0.1, 0.8),
        "balanced/behaviour+visual": (0.45, 0.45, 0.1),
        "balanced/behaviour+textual": (0.45, 0.1, 0.45),
        "balanced/visual+textual": (0.1, 0.45, 0.45),
        "complementary/behaviour": (0.5, 0.25, 0.25),
        "complementary/visual": (0.25, 0.5, 0.25),
        "complementary/textual": (0.25, 0.25, 0.5),
    }
    assert list(found) == list(expected)
    for name, weights in expected.items():
        assert found[name] == pytest.approx(weights)
        assert sum(found[name]) == pytest.approx(1)


@pytest.mark.parametrize(("count", "experts"), [(1, 1), (2, 5), (3, 9), (4, 14), (5, 20)])
def test_any_number_of_channels_has_its_experts_and_weights_sum_to_one(count, experts):
    found = role_templates([f"c{n}" for n in range(count)], ROLES)
    assert len(found) == experts
    for template in found:
        assert sum(template.weights) == pytest.approx(1)
        assert min(template.weights) >= 0


def test_only_complementary_experts_have_an_anchor():
    for template in role_templates(CHANNELS, ROLES):
        role, _, channel = template.name.partition("/")
        anchor = CHANNELS.index(channel) if role == "complementary" else None
        assert template.anchor == anchor


def test_a_role_without_a_weight_has_no_experts():
    names = [t.name for t in role_templates(CHANNELS, {**ROLES, "balanced": None})]
    assert len(names) == 6
    assert not any("balanced" in name for name in names)
    assert len(role_templates(CHANNELS, {"dominant": 0.8})) == 3


@pytest.mark.parametrize(
    ("roles", "setting", "value"),
    [
        ({"dominant": 1.2}, "model.roles.dominant", 1.2),
        ({"balanced": 0.6}, "model.roles.balanced", 0.6),
        ({"complementary": 0}, "model.roles.complementary", 0),
        ({"dominent": 0.8}, "model.roles.dominent", 0.8),
        ({"dominant": None}, "model.roles", {"dominant": None}),
        ({}, "model.roles", {}),
    ],
)
def test_weights_that_cannot_sum_to_one_are_refused(roles, setting, value):
    with pytest.raises(SettingError) as error:
        role_templates(CHANNELS, roles)
    assert (error.value.setting, error.value.value) == (setting, value)
    assert error.value.hint


def test_weights_start_at_the_templates_and_always_sum_to_one():
    templates = role_templates(CHANNELS, ROLES)
    experts = RoleExperts(templates)
    expected = torch.tensor([t.weights for t in templates])
    torch.testing.assert_close(experts.weights(), expected)
    assert experts.penalty() == 0
    torch.nn.init.normal_(experts.delta)
    torch.testing.assert_close(experts.weights().sum(1), torch.ones(9))
    torch.testing.assert_close(experts.penalty(), (experts.delta**2).mean())


def naive(experts, channels):
    """Each expert and row by itself."""
    weights = experts.weights()
    rows = []
    for e, template in enumerate(role_templates(CHANNELS, ROLES)):
        for h in channels.unbind(1):  # [C, D]
            x = torch.zeros(h.shape[1])
            for c in range(len(CHANNELS)):
                part = h[c]
                if template.anchor is not None and c != template.anchor:
                    a = h[template.anchor]
                    part = part - (part @ a) / (a @ a) * a
                x = x + weights[e, c] * part
            if template.anchor is not None:
                x = x * (weights[e] @ h).norm() / x.norm()
            rows.append(x)
    return torch.stack(rows).view(len(weights), channels.shape[1], -1)


def test_experts_are_what_the_formula_says_row_by_row():
    experts, channels = seeded(), torch.randn(3, 7, 6)
    torch.testing.assert_close(experts(channels), naive(experts, channels))


def test_a_complementary_expert_sees_nothing_of_the_others_along_its_anchor():
    experts, channels = seeded(), torch.randn(3, 7, 6)
    mixed, weights = experts(channels), experts.weights()
    for e, template in enumerate(role_templates(CHANNELS, ROLES)):
        if template.anchor is not None:
            anchor, weight = channels[template.anchor], weights[e, template.anchor]
            share = (mixed[e] * anchor).sum(1) / anchor.square().sum(1) / weight
            rest = mixed[e] - (share * weight).unsqueeze(1) * anchor
            others = torch.einsum("c,cnd->nd", weights[e], channels) - weight * anchor
            others -= (
                (others * anchor).sum(1, keepdim=True)
                / anchor.square().sum(1, keepdim=True)
                * anchor
            )
            torch.testing.assert_close(rest, share.unsqueeze(1) * others)


def test_a_complementary_vector_is_as_long_as_the_mixture_was():
    experts, channels = seeded(), torch.randn(3, 7, 6)
    plain = torch.einsum("ec,cnd->end", experts.weights(), channels)
    torch.testing.assert_close(experts(channels).norm(dim=-1), plain.norm(dim=-1))


def test_a_mixture_that_lies_along_its_anchor_is_left_as_long_as_it_was():
    experts, channels = seeded(), torch.ones(3, 4, 6, requires_grad=True)
    found = experts(channels)
    found.sum().backward()
    torch.testing.assert_close(found, torch.ones(9, 4, 6))
    assert channels.grad.isfinite().all()


def test_rows_of_nothing_stay_nothing_and_have_gradients():
    experts, channels = seeded(), torch.zeros(3, 4, 6, requires_grad=True)
    found = experts(channels)
    found.sum().backward()
    assert not found.any()
    assert channels.grad.isfinite().all()


def test_a_zero_anchor_takes_nothing_away():
    experts, channels = seeded(), torch.randn(3, 4, 6)
    channels[1] = 0
    expected = torch.einsum("c,cnd->nd", experts.weights()[7], channels)
    torch.testing.assert_close(experts(channels)[7], expected)


def test_where_a_channel_is_absent_the_others_share_its_weight():
    experts, present = seeded(), torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]).bool()
    for e, weights in enumerate(experts.weights()):
        gates = torch.zeros(len(present), 9)
        gates[:, e] = 1
        found = experts.channel_weights(gates, present)
        there = weights * present
        expected = there / there.sum(1, keepdim=True).clamp(min=1e-6)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            experts.makes_up(present)[:, e, None] * weights * present, expected
        )
    gates = torch.rand(len(present), 9)
    total = experts.channel_weights(gates, present).sum(1)
    torch.testing.assert_close(total, gates.sum(1) * present.any(1))


def test_free_experts_start_apart_and_are_not_held():
    torch.manual_seed(0)
    experts = RoleExperts(role_templates(CHANNELS, ROLES), anchored=False)
    assert len(experts.anchor) == 0
    assert experts.penalty() == 0
    assert torch.pdist(experts.weights()).min() > 0
