"""The tests of significance, held against arithmetic written out."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.report import significance
from mmrec.report.collect import collect, methods
from mmrec.training.results import ResultError


def over_all_signs(difference):
    """Share of the sign patterns whose sum is at least as far from zero."""
    sums = [
        abs(sum(s * d for s, d in zip(signs, difference, strict=True)))
        for signs in product((-1, 1), repeat=len(difference))
    ]
    return sum(one >= abs(sum(difference)) - 1e-9 for one in sums) / len(sums)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([-0.5, -0.25, 0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=9))
def test_few_differences_are_permuted_exactly(values):
    found = significance.sign_flip(np.array(values), resamples=10_000)
    assert found == pytest.approx(over_all_signs(values))


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.2])
def test_many_differences_are_permuted_as_a_sum_of_random_signs_is(shift):
    rng = np.random.default_rng(0)
    difference = rng.choice([0.0, 0.0, 0.5, -0.5, 1.0, -1.0], 400) + shift
    found = significance.sign_flip(difference, resamples=5000)
    spread = math.sqrt((difference**2).sum())  # of a sum of 400 of them, nearly normal
    expected = math.erfc(abs(difference.sum()) / spread / math.sqrt(2))
    assert found == pytest.approx(expected, abs=0.03)


def test_three_seeds_that_agree_give_a_quarter():
    assert significance.sign_flip(np.array([0.1, 0.2, 0.3]), resamples=100) == 0.25
    assert significance.sign_flip(np.array([0.1]), resamples=100) is None
    assert significance.sign_flip(np.zeros(50), resamples=100) == 1.0


@pytest.mark.parametrize("alike", [True, False])
def test_the_interval_is_that_of_resampled_means(alike):
    rng = np.random.default_rng(0)
    difference = rng.choice([0.0, 0.5, -0.5, 1.0], 500) if alike else rng.normal(0.1, 0.5, 500)
    low, high = significance.interval(difference, resamples=20_000)
    means = [rng.choice(difference, 500).mean() for _ in range(20_000)]
    expected = np.quantile(means, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.005)
    assert low < difference.mean() < high


def test_users_who_are_all_alike_leave_no_interval():
    assert significance.interval(np.full(5, 0.25), resamples=100) == (0.25, 0.25)
    assert significance.interval(np.array([0.25]), resamples=100) == (0.25, 0.25)


def test_holm_is_the_step_down_procedure():
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert significance.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_never_lowers(p_values):
    corrected = significance.holm(p_values)
    assert all(c >= p for c, p in zip(corrected, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def two(write_run, tmp_path, gain=0.3, seeds=(0, 1, 2)):
    for seed in seeds:
        write_run(f"bpr{seed}", seed=seed)
        write_run(f"vbpr{seed}", model="vbpr", seed=seed, gain=gain)
    found = {m.model: m for m in methods(collect(str(tmp_path)).runs)}
    return found["vbpr"], found["bpr"]


def test_a_comparison_pairs_users_and_seeds(write_run, tmp_path):
    one, other = two(write_run, tmp_path)
    found = significance.compare(one, other, "recall@20", resamples=1000)
    assert found.difference == pytest.approx(0.15)  # .3 for every second user
    assert found.low < 0.15 < found.high
    assert found.p_users < 0.01
    assert found.p_seeds == 0.25
    back = significance.compare(other, one, "recall@20", resamples=1000)
    assert back.difference == pytest.approx(-0.15)


def test_several_comparisons_are_corrected(write_run, tmp_path):
    one, other = two(write_run, tmp_path, gain=0.02)
    alone = significance.against(other, [one], "recall@20", resamples=1000)
    both = significance.against(other, [one, one], "recall@20", resamples=1000)
    assert both["vbpr"].p_users == pytest.approx(min(1, 2 * alone["vbpr"].p_users))


def test_a_missing_or_other_table_of_users_is_an_error(write_run, tmp_path):
    one, other = two(write_run, tmp_path)
    path = one.runs[1].folder / "per_user.parquet"
    import polars as pl

    table = pl.read_parquet(path)
    table.head(10).write_parquet(path)
    with pytest.raises(ResultError, match="its seeds have different test users"):
        significance.compare(one, other, "recall@20", resamples=10)
    path.write_bytes(b"PAR1")
    with pytest.raises(ResultError, match=r"per_user\.parquet cannot be read .*run it again"):
        significance.compare(one, other, "recall@20", resamples=10)
