"""Routers: pairs, whole rankings and loops give the same gates."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from mmrec.nn import (
    ROLES,
    PairRouter,
    block_mixture,
    cross,
    entropies,
    even_gates,
    fused_ranking,
    imbalance,
    mixture,
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


@pytest.mark.parametrize("top_k", [1, 3, None])
def test_a_block_for_training_is_the_gated_sum_with_its_gradients(top_k):
    torch.manual_seed(0)
    logits, scores = torch.randn(2, 5, 4, 6, dtype=torch.double)
    logits, scores = logits.requires_grad_(), scores.requires_grad_()
    gates = sparse_softmax(logits.movedim(0, -1), top_k, dim=-1).movedim(-1, 0)
    expected = (gates * scores).sum(0)
    mixed, kept = block_mixture(logits, scores, top_k)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(kept, gates)
    assert not kept.requires_grad
    upstream = torch.randn_like(mixed)
    found, wanted = (torch.autograd.grad(x, (logits, scores), upstream) for x in (mixed, expected))
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradcheck(lambda s: block_mixture(logits, s, top_k)[0], scores)


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
    message = r"fused=true needs a C\+\+ compiler and Python's headers, and there is no nowhere/g"
    fused_ranking.cache_clear()
    with pytest.raises(ValueError, match=message):
        fused_ranking()
    monkeypatch.setenv("CXX", sys.executable)  # some program that there is
    monkeypatch.setattr("sysconfig.get_path", lambda _: "nowhere/include")
    with pytest.raises(ValueError, match=r"is no nowhere/include/Python\.h; install them"):
        fused_ranking()


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


logits = st.lists(
    st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5), min_size=1, max_size=6
)


@given(logits, st.one_of(st.none(), st.integers(1, 7)))
def test_sparse_softmax_keeps_the_largest_and_sums_to_one(rows, top_k):
    values = torch.tensor(rows)
    gates = sparse_softmax(values, top_k, dim=1)
    torch.testing.assert_close(gates.sum(1), torch.ones(len(values)))
    for row, gate in zip(values, gates, strict=True):
        edge = row.sort(descending=True).values[min(top_k or 5, 5) - 1]
        expected = torch.where(row >= edge, row.double().exp(), 0)
        torch.testing.assert_close(gate.double(), expected / expected.sum(), atol=1e-6, rtol=1e-4)


@given(logits, st.one_of(st.none(), st.integers(1, 7)))
def test_a_mixture_is_gates_times_scores(rows, top_k):
    values = torch.tensor(rows).T.contiguous()  # [E, N]
    scores = torch.arange(values.numel()).view(values.shape).float().sin()
    expected = (sparse_softmax(values, top_k, dim=0) * scores).sum(0)
    torch.testing.assert_close(mixture(values.unbind(), scores.unbind(), top_k), expected)


def equal(gates):
    return torch.full_like(gates, 1 / gates.shape[1])


def test_entropies_of_gates_computed_by_hand():
    sure = torch.eye(4)
    pair, load = entropies(sure, equal(sure))
    assert float(pair) == pytest.approx(0, abs=1e-6)
    assert float(load) == pytest.approx(1)
    two = torch.tensor([[0.5, 0.5, 0.0, 0.0]] * 3)
    pair, load = entropies(two, equal(two))
    assert float(pair) == pytest.approx(math.log(2) / math.log(4))
    assert float(load) == pytest.approx(math.log(2) / math.log(4))
    pair, load = entropies(torch.ones(3, 1), torch.ones(3, 1))
    assert float(pair) == float(load) == 0


def test_entropies_are_over_what_rows_have():
    gates = torch.tensor([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.0] * 4])
    even = even_gates(gates > 0)
    torch.testing.assert_close(even, gates)
    pair, load = entropies(gates, even)
    assert float(pair) == float(load) == pytest.approx(1)  # nothing is decided, all is shared
    gates[1] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    pair, load = entropies(gates, even)
    assert float(pair) == pytest.approx(0.5)
    apart = 0.625 * math.log(0.625 / 0.375) + 0.125 * math.log(0.125 / 0.375)
    assert float(load) == pytest.approx(1 - apart / math.log(8))


def test_a_rare_expert_with_more_than_its_share_is_not_more_than_even():
    even = even_gates(torch.tensor([[True, False]] * 8 + [[True, True]] * 2))
    rare = torch.tensor([[1.0, 0.0]] * 8 + [[0.0, 1.0]] * 2)
    pair, load = entropies(rare, even)
    assert float(pair) == 0  # of the two rows that have a choice
    assert 0.9 < float(load) < 1
    assert float(entropies(even, even)[0]) == float(entropies(even, even)[1]) == pytest.approx(1)


def test_imbalance_of_gates_computed_by_hand():
    assert imbalance(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == 0
    # Shares of .75 and .25: half of log(.5 / .75), half of log(.5 / .25).
    found = imbalance(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    torch.testing.assert_close(found, torch.tensor((0.4054651 * -0.5) + (0.6931472 * 0.5)))


def test_imbalance_pulls_at_an_expert_that_is_nearly_gone_where_the_entropy_does_not():
    def pull(loss, far=9.0):
        logits = torch.tensor([[0.0, 0.0, -far]], requires_grad=True)
        loss(logits.softmax(-1)).backward()
        return -float(logits.grad[0, 2])

    assert pull(imbalance) > 0.3
    assert pull(imbalance, far=40.0) == pytest.approx(1 / 3)
    assert 0 < pull(lambda gates: 1 - entropies(gates, equal(gates))[1]) < 0.01


def test_imbalance_has_finite_gradients_where_no_pair_wants_an_expert():
    gates = torch.tensor([[1.0, 0.0]], requires_grad=True)
    imbalance(gates).backward()
    assert gates.grad.isfinite().all()


def test_imbalance_of_what_nobody_has_is_nothing():
    gates = torch.rand(4, 2, requires_grad=True)
    nobody = torch.zeros(4, dtype=torch.bool)
    found = imbalance(gates.softmax(-1), nobody)
    found.backward()
    assert found == 0
    assert gates.grad.isfinite().all()


def test_entropies_have_finite_gradients_where_gates_vanish():
    gates = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    sum(entropies(gates, equal(gates))).backward()
    assert gates.grad.isfinite().all()
