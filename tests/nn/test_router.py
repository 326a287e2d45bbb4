"""Routers: pairs, whole rankings and loops give the same gates."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mmrec.config.errors import SettingError
from mmrec.nn import (
    ROLES,
    PairRouter,
    cross,
    fused_ranking,
    ranking,
    role_templates,
    sparse_softmax,
)

WEIGHTS = torch.tensor([t.weights for t in role_templates(("b", "v", "t"), ROLES)])
SEES = ("pair", "user", "item", "all", "nothing")


def router(sees="pair"):
    torch.manual_seed(1)
    made = PairRouter(WEIGHTS, 6, sees=sees)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def logit(made, u, i):
    """Of one pair, from its channels [C, D]."""
    total = torch.zeros(len(WEIGHTS))
    if "user" in made.sides:
        total = total + made.sides["user"](u.flatten())
    if "item" in made.sides:
        total = total + made.sides["item"](i.flatten())
    if made.sees_pair:
        total = total + made.agree @ cosine_similarity(u, i, dim=1)
    return total + (0 if made.bias is None else made.bias)


@pytest.mark.parametrize("sees", SEES)
def test_pairs_and_whole_rankings_are_what_the_formula_says(sees):
    made, users, items = router(sees), torch.randn(3, 4, 6), torch.randn(3, 5, 6)
    expected = torch.stack(
        [torch.stack([logit(made, u, i) for i in items.unbind(1)]) for u in users.unbind(1)]
    )  # [B, I, E]
    user, item = made.terms("user", users), made.terms("item", items)
    planes = cross(user, item, made.weights())
    torch.testing.assert_close(torch.stack(planes, -1), expected)
    torch.testing.assert_close(made.block(user, item).movedim(0, -1), expected)
    each = made.terms("item", items.repeat(1, 4, 1))  # all five items for each of four users
    torch.testing.assert_close(made.pairs(user, each), expected)


@pytest.mark.slow
@pytest.mark.parametrize("sees", ["pair", "nothing"])
def test_one_fused_pass_ranks_as_many_passes_do(sees):
    made, experts = router(sees), torch.randn(9, 12, 6)
    users, items = torch.randn(3, 5, 6), torch.randn(3, 7, 6)
    terms = made.scaled(made.terms("user", users), made.terms("item", items), 0.5)
    for rows in (slice(0, 7), slice(2, 6)):  # a last tile may be shorter
        user, item, weights = terms[0], terms[1].rows(rows), terms[2]
        those = user, item, weights, experts[:, :5], experts[:, 5:].unflatten(1, (7, 1))[:, rows, 0]
        expected = ranking(*those, 3)
        torch.testing.assert_close(fused_ranking()(*those, 3), expected)
        gates = sparse_softmax(torch.stack(cross(user, item, weights), -1), 3, dim=-1)
        scores = torch.einsum("ebd,eid->bie", those[3], those[4])
        torch.testing.assert_close(expected, (gates * scores).sum(-1))


def test_without_a_compiler_or_headers_there_is_no_fused_pass(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "nowhere/g++")
    fused_ranking.cache_clear()
    with pytest.raises(SettingError) as error:
        fused_ranking()
    assert (error.value.setting, error.value.value) == ("model.fused", True)
    assert "found no nowhere/g++" in error.value.problem
    monkeypatch.setenv("CXX", sys.executable)  # some program that there is
    monkeypatch.setattr("sysconfig.get_path", lambda _: "nowhere/include")
    with pytest.raises(SettingError) as error:
        fused_ranking()
    assert error.value.problem.endswith("found no nowhere/include/Python.h")


def test_a_router_that_sees_nothing_has_equal_gates_and_nothing_to_learn():
    made = router("nothing")
    assert not list(made.parameters())
    terms = made.terms("user", torch.randn(3, 4, 6)), made.terms("item", torch.randn(3, 4, 6))
    gates = sparse_softmax(made.pairs(*terms), 3, dim=-1)
    torch.testing.assert_close(gates, torch.full((4, 1, 9), 1 / 9))


def test_a_new_router_gives_a_pair_to_the_experts_of_the_channel_in_which_it_agrees():
    made = PairRouter(WEIGHTS, 6, sharpness=4.0)
    users, items = torch.zeros(3, 1, 6), torch.zeros(3, 1, 6)
    users[..., 0] = items[..., 1] = 1
    items[1] = users[1]  # they agree in the second channel alone
    logits = made.pairs(made.terms("user", users), made.terms("item", items))
    assert logits.argmax() == 1  # dominant/v


def test_zero_vectors_give_finite_logits():
    made = router()
    terms = made.terms("user", torch.zeros(3, 2, 6)), made.terms("item", torch.zeros(3, 2, 6))
    assert torch.stack(cross(*terms, made.weights())).isfinite().all()
