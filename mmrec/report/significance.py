"""Significance of the difference between two methods, paired by user and by seed.

The test over users shows whether two sets of trained models differ on this test set. The test over
seeds shows whether the difference would persist after training again. Seeds are few: with three of
them, the smallest possible p is 0.25.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from mmrec.config.text import one_line
from mmrec.report.collect import Method, Run
from mmrec.training.results import PER_USER, ResultError, table_error

Values = NDArray[np.float64]
TOGETHER = 2**21  # largest number of random draws in memory at a time


class OtherUsers(ResultError):
    """Two runs have different test users, so their metrics cannot be paired."""


@dataclass(frozen=True)
class Comparison:
    """Difference between two methods in one test metric.

    Attributes:
        difference: mean over users of the first method minus the second, averaged over seeds.
        low: lower end of the 95 % bootstrap interval over users.
        high: upper end of the interval.
        p_users: p-value of the permutation test over users.
        p_seeds: p-value of the permutation test over shared seeds; None for fewer than two.
    """

    difference: float
    low: float
    high: float
    p_users: float
    p_seeds: float | None


def compare(one: Method, other: Method, metric: str, *, resamples: int) -> Comparison:
    """Compare two methods of one protocol.

    Args:
        one: the method.
        other: the reference that is subtracted.
        metric: name without split, for example `recall@20`.
        resamples: number of resamples of the interval and of the tests.

    Raises:
        ResultError: a table of metrics per user is unreadable.
        OtherUsers: the methods have different test users.
    """
    users, values = by_user(one, metric)
    same, reference = by_user(other, metric)
    if not users.equals(same):
        raise OtherUsers(f"{one.runs[0].folder} and {other.runs[0].folder}: different test users")
    difference = values - reference
    low, high = interval(difference, resamples=resamples)
    p_users = sign_flip(difference, resamples=resamples)
    p_seeds = sign_flip(_over_shared_seeds(one, other, f"test/{metric}"), resamples=resamples)
    return Comparison(
        float(difference.mean()), low, high, 1.0 if p_users is None else p_users, p_seeds
    )


def by_user(method: Method, metric: str) -> tuple[pl.Series, Values]:
    """Return the test users, sorted by index, and the metric of each as mean over seeds.

    Raises:
        ResultError: a table of metrics per user is unreadable.
        OtherUsers: the seeds have different test users.
    """
    tables = [_users(run, metric) for run in method.runs]
    for table in tables[1:]:
        if not table["user"].equals(tables[0]["user"]):
            raise OtherUsers(f"{method.runs[0].folder}: its seeds have different test users")
    mean: Values = np.mean([table[metric].to_numpy() for table in tables], axis=0)
    return tables[0]["user"], mean


def unreadable(methods: Iterable[Method], metric: str) -> dict[Path, str]:
    """Return the runs whose table of users is unreadable or differs in users, with reasons."""
    found = {}
    for method in methods:
        first = None
        for run in method.runs:
            try:
                users = _users(run, metric)["user"]
            except ResultError as error:
                found[run.folder] = one_line(error)
                continue
            first = users if first is None else first
            if not users.equals(first):
                found[run.folder] = (
                    f"{PER_USER}: its test users differ from those of {method.runs[0].folder}"
                )
    return found


def _users(run: Run, metric: str) -> pl.DataFrame:
    """Read the columns `user` and `metric` of a run, sorted by user."""
    path = run.folder / PER_USER
    try:
        columns = [pl.col("user").cast(pl.Int64), pl.col(metric).cast(pl.Float64)]
        table = pl.read_parquet(path, columns=["user", metric], glob=False)
        table = table.select(columns).sort("user")
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise table_error(path, error) from None
    whole = len(table) > 0 and not table["user"].is_duplicated().any()
    if not (whole and table[metric].fill_null(math.nan).is_finite().all()):
        raise ResultError(f"{path}: expected one row per user with a finite number; repeat the run")
    return table


def interval(difference: Values, *, resamples: int, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean (SciPy)."""
    if np.ptp(difference) == 0:  # also for a single user
        return float(difference[0]), float(difference[0])
    found = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        batch=_batch(difference),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip(difference: Values, *, resamples: int, seed: int = 0) -> float | None:
    """Test whether the mean is zero with a two-sided sign-flip permutation test (SciPy).

    The test is exact for few differences. It tests the mean because the tables show means;
    Wilcoxon's test compares ranks, and can reject for methods with equal means.

    Returns:
        The p-value; None for fewer than two differences.
    """
    if len(difference) < 2:
        return None
    moved = difference[difference != 0]  # flipping the sign of 0 has no effect
    if len(moved) < 2:
        return 1.0
    options: Any = {"n_resamples": resamples, "batch": _batch(moved), "vectorized": True}
    if len(moved) <= math.log2(resamples):
        exact = stats.permutation_test((moved,), np.sum, permutation_type="samples", **options)
        return float(exact.pvalue)
    rng: Any = np.random.default_rng(seed)

    def flipped(size: Any) -> Any:
        return moved * (2.0 * rng.integers(0, 2, size, dtype=np.int8) - 1)

    found: Any = stats.monte_carlo_test(moved, flipped, np.sum, **options)
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values with Holm's correction for multiple comparisons, in the given order."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    found = np.empty(len(p_values))
    found[order] = corrected
    return [float(p) for p in found]


def against(
    reference: Method, others: Sequence[Method], metric: str, *, resamples: int
) -> Mapping[str, Comparison]:
    """Compare each method with a reference, with Holm's correction of `p_users`.

    Returns:
        Comparisons by method name. Methods with other test users than the reference are left out.
    """
    found: list[tuple[str, Comparison]] = []
    for other in others:
        with suppress(OtherUsers):
            found.append((other.name, compare(other, reference, metric, resamples=resamples)))
    corrected = holm([one.p_users for _, one in found])
    return {name: replace(one, p_users=p) for (name, one), p in zip(found, corrected, strict=True)}


def _batch(values: Values) -> int:
    """Return the number of resamples to hold in memory at a time."""
    return max(1, TOGETHER // len(values))


def _over_shared_seeds(one: Method, other: Method, metric: str) -> Values:
    values = [{run.result["seed"]: run.metrics[metric] for run in m.runs} for m in (one, other)]
    shared = sorted(values[0].keys() & values[1].keys())
    return np.array([values[0][seed] - values[1][seed] for seed in shared])
