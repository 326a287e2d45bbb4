"""Filters of parsed interactions, against naive loops."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmrec.config.errors import DataError
from mmrec.data.prepare.filters import core, filter_interactions

few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2)), max_size=40)


def table(rows):
    schema = {"user": pl.String, "item": pl.String, "time": pl.Int64}
    texts = [(f"u{user}", f"i{item}", time) for user, item, time in rows]
    return pl.DataFrame(texts, schema=schema, orient="row")


def naive_core(rows, k):
    """Remove one user or item with too few distinct partners at a time."""
    rows = list(rows)
    while True:
        for side, other in ((0, 1), (1, 0)):
            partners = {row[side]: {r[other] for r in rows if r[side] == row[side]} for row in rows}
            if few := [name for name, found in partners.items() if len(found) < k]:
                rows = [row for row in rows if row[side] != few[0]]
                break
        else:
            return rows


@few
@given(ROWS, st.integers(1, 4))
def test_the_core_is_that_of_a_naive_loop(rows, k):
    frame = table(rows)
    assert core(frame, k).rows() == naive_core(frame.rows(), k)


@few
@given(ROWS)
def test_duplicates_are_those_of_a_naive_loop(rows):
    frame = table(rows)
    if frame.is_empty():
        return
    options = {"min_rating": None, "k_core": 0}
    exact, _ = filter_interactions(frame, duplicates="exact", **options)
    assert exact.rows() == list(dict.fromkeys(frame.rows()))
    pairs, _ = filter_interactions(frame, duplicates="pairs", **options)
    earliest = {}
    for place, (user, item, time) in enumerate(frame.rows()):
        earliest[user, item] = min(earliest.get((user, item), (time, place)), (time, place))
    places = sorted(place for _, place in earliest.values())
    assert pairs.rows() == [frame.row(place) for place in places]
    kept, _ = filter_interactions(frame, duplicates="keep", **options)
    assert kept.equals(frame)


def test_counts_are_noted_after_each_filter():
    rows = {"user": ["a", "a", "b", "b"], "item": ["x", "x", "x", "y"], "rating": [5.0, 4, 4, 1]}
    _, stages = filter_interactions(pl.DataFrame(rows), min_rating=4, duplicates="exact", k_core=1)
    assert [(s["stage"], s["interactions"], s["users"], s["items"]) for s in stages] == [
        ("min_rating=4", 3, 2, 1),
        ("duplicates=exact", 2, 2, 1),
        ("k_core=1", 2, 2, 1),
    ]


def test_a_filter_that_leaves_nothing_is_named():
    with pytest.raises(DataError) as error:
        filter_interactions(table([(0, 0, 0)]), min_rating=None, duplicates="exact", k_core=2)
    assert error.value.problem == "k_core=2 leaves no interaction of 1"
    assert error.value.hint == "lower data.k_core"
