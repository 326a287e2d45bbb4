from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from mmrec.nn import losses
from mmrec.nn.losses import (
    bpr,
    full_cross_entropy,
    gbce_power,
    info_nce,
    norm_penalty,
    pair_scores,
    sampled_bce,
    sampled_softmax,
)

sizes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30)
@given(sizes, st.integers(0, 99))
def test_bpr_is_the_mean_log_sigmoid_over_all_comparisons(size, seed):
    b, k, _ = size
    positive, negative = draw(seed, b), draw(seed + 1, b, k)
    terms = [
        -math.log(1 / (1 + math.exp(-(positive[row] - negative[row, column]))))
        for row in range(b)
        for column in range(k)
    ]
    assert bpr(positive, negative).item() == pytest.approx(sum(terms) / len(terms))


def test_bpr_written_out():
    value = bpr(torch.tensor([0.0, math.log(3)]), torch.tensor([[0.0], [0.0]]))
    assert value.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_bpr_is_finite_where_the_sigmoid_underflows():
    negative = torch.tensor([[1e4]], requires_grad=True)
    loss = bpr(torch.tensor([0.0]), negative)
    loss.backward()
    assert loss.item() == 1e4
    assert negative.grad.item() == 1


@settings(max_examples=30)
@given(sizes, st.integers(0, 99))
def test_pair_scores_are_dot_products(size, seed):
    b, k, d = size
    users, positives, negatives = draw(seed, b, d), draw(seed + 1, b, d), draw(seed + 2, b, k, d)
    positive, negative = pair_scores(users, positives, negatives)
    for row in range(b):
        assert positive[row].item() == pytest.approx((users[row] @ positives[row]).item())
        for column in range(k):
            expected = (users[row] @ negatives[row, column]).item()
            assert negative[row, column].item() == pytest.approx(expected)


def test_norms_written_out():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[[2.0], [1.0]], [[2.0], [0.0]]])
    assert norm_penalty("squared", *rows).item() == pytest.approx((25 + 9) / 2 / 2)
    assert norm_penalty("frobenius", *rows).item() == pytest.approx((5 + 3) / 2)


def test_the_squared_norm_pulls_in_proportion_and_the_frobenius_norm_does_not():
    pulls = {}
    for norm in ("squared", "frobenius"):
        pulls[norm] = []
        for scale in (1.0, 10.0):
            rows = (scale * torch.ones(4, 3)).requires_grad_()
            norm_penalty(norm, rows).backward()
            pulls[norm].append(rows.grad.norm().item())
    assert pulls["squared"][1] == pytest.approx(10 * pulls["squared"][0])
    assert pulls["frobenius"][1] == pytest.approx(pulls["frobenius"][0])


@pytest.mark.parametrize("norm", ["squared", "frobenius"])
def test_the_norm_of_nothing_has_a_finite_gradient(norm):
    rows = torch.zeros(2, 3, requires_grad=True)
    norm_penalty(norm, rows).backward()
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 30.0])  # logits below and far above LARGEST
@pytest.mark.parametrize("count", [1, 64, 65, 200])
def test_full_cross_entropy_is_that_of_torch_with_its_gradients(count, scale, monkeypatch):
    monkeypatch.setattr(losses, "LOGITS", (64 * 50, 64 * 50))  # blocks of 64 rows
    generator = torch.Generator().manual_seed(0)
    rows = (scale * torch.randn(count, 6, generator=generator)).requires_grad_()
    items = torch.randn(50, 6, generator=generator, requires_grad=True)
    target = torch.randint(50, (count,), generator=generator)
    assert bool((rows @ items.T).max() > losses.LARGEST) == (scale > 1)
    expected = torch.nn.functional.cross_entropy(rows @ items.T, target)
    expected_gradients = torch.autograd.grad(3 * expected, (rows, items))
    found = full_cross_entropy(rows, items, target)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(3 * found, (rows, items)), expected_gradients, strict=True
    ):
        torch.testing.assert_close(one, other)


def test_logits_at_the_bound_have_finite_gradients():
    norm = math.sqrt(losses.LARGEST)
    rows = torch.tensor([[norm, 0.0], [-norm, 0.0]]).mul_(0.999).requires_grad_()
    items = torch.tensor([[norm, 0.0]]).repeat(20_000, 1).requires_grad_()
    target = torch.tensor([0, 1])
    expected = cross_entropy(rows @ items.T, target)
    found = full_cross_entropy(rows, items, target)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert rows.grad.isfinite().all()
    assert items.grad.isfinite().all()


def test_full_cross_entropy_computes_in_float32_under_autocast():
    rows, items = torch.randn(4, 6), torch.randn(9, 6)
    target = torch.tensor([0, 3, 8, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = full_cross_entropy(rows, items, target)
    torch.testing.assert_close(found, full_cross_entropy(rows, items, target), atol=0, rtol=0)


def test_full_cross_entropy_without_targets_is_zero():
    rows = torch.ones(0, 3, requires_grad=True)
    loss = full_cross_entropy(rows, torch.ones(5, 3), torch.empty(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0


def test_full_cross_entropy_passes_the_check_of_gradients():
    rows = draw(0, 3, 2).requires_grad_()
    items = draw(1, 5, 2).requires_grad_()
    target = torch.tensor([0, 4, 0])
    assert torch.autograd.gradcheck(lambda x, y: full_cross_entropy(x, y, target), (rows, items))


def test_full_cross_entropy_survives_large_logits():
    rows = torch.full((2, 1), 100.0, requires_grad=True)
    loss = full_cross_entropy(rows, torch.tensor([[30.0], [-30.0]]), torch.tensor([0, 1]))
    loss.backward()
    torch.testing.assert_close(loss.item(), 3000.0)
    assert rows.grad.isfinite().all()


def test_sampled_bce_written_out():
    positive, negative = torch.tensor([0.5, -1.0]), torch.tensor([[0.2, 0.1], [1.0, -2.0]])
    terms = []
    for p, row in zip(positive.tolist(), negative.tolist(), strict=True):
        own = 0.7 * math.log(1 + math.exp(-p))
        terms.append((own + sum(math.log(1 + math.exp(n)) for n in row)) / 3)
    torch.testing.assert_close(
        sampled_bce(positive, negative, 0.7).item(), sum(terms) / 2, atol=1e-6, rtol=1e-6
    )


def test_a_sampled_softmax_over_every_other_item_once_is_the_whole_one():
    scores = draw(0, 5, 7)
    target = torch.tensor([0, 6, 3, 3, 1])
    others = torch.stack([torch.arange(7)[torch.arange(7) != t] for t in target])
    loss = sampled_softmax(
        scores[torch.arange(5), target], scores.gather(1, others), torch.full((5, 6), 1 / 6)
    )
    torch.testing.assert_close(loss, cross_entropy(scores, target))


@pytest.mark.parametrize("chance", [[1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1]])
def test_a_sampled_softmax_estimates_the_whole_sum_whatever_the_chances(chance):
    """`exp(loss)` is one plus an estimate of the other items' share, exact in expectation."""
    scores, chance = draw(1, 4), torch.tensor(chance, dtype=torch.float64)
    drawn = torch.multinomial(chance, 2 * 40_000, replacement=True).view(-1, 2)
    mean = torch.stack(
        [
            sampled_softmax(scores[3:], scores[None, pair], chance[None, pair]).exp()
            for pair in drawn.unique(dim=0)
        ]
    )
    _, count = drawn.unique(dim=0, return_counts=True)
    found = (mean * count).sum() / count.sum()
    expected = scores.exp().sum() / scores[3].exp()
    assert found.item() == pytest.approx(expected.item(), rel=0.02)


def test_the_power_of_gbce_runs_from_plain_to_unbiased():
    assert gbce_power(10, 101, 0.0) == pytest.approx(1.0)
    assert gbce_power(10, 101, 1.0) == pytest.approx(0.1)
    assert gbce_power(256, 12_102, 0.75) == pytest.approx(0.75 * (256 / 12_101) + 0.25)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_contrast_by_cosine_is_a_softmax_over_the_pairs_that_are_not_excluded(b, n, dim, seed):
    one, others = draw(seed, b, dim), draw(seed + 1, n, dim)
    own = torch.arange(b) % n
    excluded = draw(seed + 2, b, n) > 0.5
    excluded[torch.arange(b), own] = False
    terms = []
    for row in range(b):
        powers = [math.exp(cosine(one[row], others[k]) / 0.3) for k in range(n)]
        allowed = sum(p for k, p in enumerate(powers) if not excluded[row, k])
        terms.append(-math.log(powers[own[row]] / allowed))
    found = info_nce(one, others, 0.3, own, cosine=True, excluded=excluded)
    assert found.item() == pytest.approx(sum(terms) / b)


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_contrast_among_all_equals_the_one_on_a_matrix_with_its_gradients(b, n, seed):
    one, others = draw(seed, b, 3).requires_grad_(), draw(seed + 1, n, 3).requires_grad_()
    own = torch.arange(b) % n
    logits = normalize(one, dim=1) @ normalize(others, dim=1).T / 0.2
    full, plain = info_nce(one, others, 0.2, own, cosine=True), cross_entropy(logits, own)
    torch.testing.assert_close(full, plain)
    for x in (one, others):
        found, expected = (torch.autograd.grad(y, x, retain_graph=True)[0] for y in (full, plain))
        torch.testing.assert_close(found, expected)


def test_weights_of_rows_scale_their_terms_of_the_contrast():
    one, others = draw(1, 3, 2), draw(2, 3, 2)
    terms = torch.stack([info_nce(one[[b]], others, 0.4, torch.tensor([b])) for b in range(3)])
    weights = torch.tensor([0.0, 2.0, 0.5], dtype=torch.float64)
    one.requires_grad_()
    found = info_nce(one, others, 0.4, weights=weights)
    torch.testing.assert_close(found, (weights * terms).sum() / 3)
    none = torch.zeros(3, 3, dtype=torch.bool)
    masked = info_nce(one, others, 0.4, weights=weights, excluded=none)
    torch.testing.assert_close(found, masked)
    torch.testing.assert_close(*(torch.autograd.grad(x, one)[0] for x in (found, masked)))


def test_a_contrast_that_excludes_nothing_equals_one_without_a_mask():
    one, others = draw(0, 4, 3), draw(1, 4, 3)
    none = torch.zeros(4, 4, dtype=torch.bool)
    for cosine in (False, True):
        found = info_nce(one, others, 0.3, cosine=cosine)
        torch.testing.assert_close(found, info_nce(one, others, 0.3, cosine=cosine, excluded=none))
