"""Is a difference real? Paired by user, and by seed.

Users are many, and tell whether two trained models differ on this test set. Seeds are few, and tell
whether training again would show it: three can give no p below .25.
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
TOGETHER = 2**21  # draws that lie in memory together


class OtherUsers(ResultError):
    """Two runs were tested on different users, so their metrics are not paired."""


@dataclass(frozen=True)
class Comparison:
    """One method beside another, by one metric on test.

    Attributes:
        difference: mean over users, of means over seeds; this one's less the other's.
        low: of the 95 % bootstrap interval over users.
        high: of the same.
        p_users: permutation test over users.
        p_seeds: the same over the seeds that both have; None: fewer than two.
    """

    difference: float
    low: float
    high: float
    p_users: float
    p_seeds: float | None


def compare(one: Method, other: Method, metric: str, *, resamples: int) -> Comparison:
    """Compare two methods of one protocol.

    Args:
        one: whose difference is meant.
        other: that it is compared with.
        metric: without its split, as `recall@20`.
        resamples: of the interval and of the tests.

    Raises:
        ResultError: a table of users cannot be read.
        OtherUsers: the two were tested on different users.
    """
    users, values = by_user(one, metric)
    same, reference = by_user(other, metric)
    if not users.equals(same):
        raise OtherUsers(f"{one.runs[0].folder} and {other.runs[0].folder}: other test users")
    difference = values - reference
    low, high = interval(difference, resamples=resamples)
    p_users = sign_flip(difference, resamples=resamples)
    p_seeds = sign_flip(_over_shared_seeds(one, other, f"test/{metric}"), resamples=resamples)
    return Comparison(
        float(difference.mean()), low, high, 1.0 if p_users is None else p_users, p_seeds
    )


def by_user(method: Method, metric: str) -> tuple[pl.Series, Values]:
    """Test users, and the metric of each as the mean over seeds: [users], by index.

    Raises:
        ResultError: a table of users cannot be read.
        OtherUsers: the seeds were tested on different users.
    """
    tables = [_users(run, metric) for run in method.runs]
    for table in tables[1:]:
        if not table["user"].equals(tables[0]["user"]):
            raise OtherUsers(f"{method.runs[0].folder}: its seeds have other test users")
    mean: Values = np.mean([table[metric].to_numpy() for table in tables], axis=0)
    return tables[0]["user"], mean


def unreadable(methods: Iterable[Method], metric: str) -> dict[Path, str]:
    """Folders of runs whose table of users cannot be read, or is of other users than its seeds'."""
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
                found[run.folder] = f"{PER_USER} has other test users than {method.runs[0].folder}"
    return found


def _users(run: Run, metric: str) -> pl.DataFrame:
    """A row per test user: `user` and the metric, by user."""
    path = run.folder / PER_USER
    try:
        columns = [pl.col("user").cast(pl.Int64), pl.col(metric).cast(pl.Float64)]
        table = pl.read_parquet(path, columns=["user", metric], glob=False)
        table = table.select(columns).sort("user")
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise table_error(path, error) from None
    whole = len(table) > 0 and not table["user"].is_duplicated().any()
    if not (whole and table[metric].fill_null(math.nan).is_finite().all()):
        raise ResultError(f"{path}: expected one row per user with a number; run it again")
    return table


def interval(difference: Values, *, resamples: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean, by SciPy."""
    if np.ptp(difference) == 0:  # also of a single user
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
    """Permutation test of a zero mean, two-sided, by SciPy; exact for few differences.

    It asks about the mean, which is what a table shows. Wilcoxon's test asks about ranks, and would
    find that means over seeds differ from zeros and ones.

    Returns:
        None for fewer than two differences.
    """
    if len(difference) < 2:
        return None
    moved = difference[difference != 0]  # a flip leaves the others what they are
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
    """Holm's correction for several comparisons: p that any of them is false, in their order."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    found = np.empty(len(p_values))
    found[order] = corrected
    return [float(p) for p in found]


def against(
    reference: Method, others: Sequence[Method], metric: str, *, resamples: int
) -> Mapping[str, Comparison]:
    """Each other method beside the reference, by name; `p_users` corrected by Holm.

    Methods that were tested on other users than the reference are left out.
    """
    found: list[tuple[str, Comparison]] = []
    for other in others:
        with suppress(OtherUsers):
            found.append((other.name, compare(other, reference, metric, resamples=resamples)))
    corrected = holm([one.p_users for _, one in found])
    return {name: replace(one, p_users=p) for (name, one), p in zip(found, corrected, strict=True)}


def _batch(values: Values) -> int:
    """Resamples that lie in memory together."""
    return max(1, TOGETHER // len(values))


def _over_shared_seeds(one: Method, other: Method, metric: str) -> Values:
    values = [{run.result["seed"]: run.metrics[metric] for run in m.runs} for m in (one, other)]
    shared = sorted(values[0].keys() & values[1].keys())
    return np.array([values[0][seed] - values[1][seed] for seed in shared])
