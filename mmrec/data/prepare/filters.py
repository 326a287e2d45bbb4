"""Which parsed interactions are kept: by rating, once each, and by k-core.

Shape legend: N interactions.
"""

from __future__ import annotations

import logging
from typing import Literal

import polars as pl

from mmrec.config.errors import DataError
from mmrec.data.corpus import Interactions
from mmrec.data.filters import k_core

log = logging.getLogger(__name__)

Duplicates = Literal["exact", "pairs", "keep"]
PAIR = ["user", "item"]


def count(frame: pl.DataFrame) -> dict[str, int]:
    """Return the number of interactions, users and items."""
    return {
        "interactions": frame.height,
        "users": frame["user"].n_unique(),
        "items": frame["item"].n_unique(),
    }


def filter_interactions(
    frame: pl.DataFrame,
    *,
    min_rating: float | None,
    duplicates: Duplicates,
    k_core: int,
) -> tuple[pl.DataFrame, list[dict[str, object]]]:
    """Apply the filters in the order rating, duplicates, k-core.

    Args:
        frame: [N] with `user` and `item`, and perhaps `time` and `rating`.
        min_rating: interactions with a lower rating are removed; None keeps all.
        duplicates: `exact` removes rows that repeat user, item and time, `pairs` all but the
            earliest row of each user-item pair; `keep` removes none.
        k_core: users and items with fewer pairs are removed, until none has fewer.

    Returns:
        The rows that are left, in their order, and the counts after each filter.

    Raises:
        DataError: a filter leaves no interaction, or there are no ratings to compare.
    """
    stages: list[dict[str, object]] = []

    def note(stage: str, kept: pl.DataFrame) -> pl.DataFrame:
        if kept.is_empty():
            raise DataError(
                file="interactions",
                problem=f"{stage} leaves no interaction of {frame.height}",
                hint=f"lower data.{stage.partition('=')[0]}",
            )
        counts = count(kept)
        stages.append({"stage": stage, **counts})
        log.info("%s: %s", stage, shown_counts(counts))
        return kept

    kept = frame
    if min_rating is not None:
        if "rating" not in kept.columns:
            raise DataError(
                file="interactions",
                problem=f"data.min_rating={min_rating:g} needs ratings, and there are none",
                hint="set data.columns.rating",
            )
        kept = note(f"min_rating={min_rating:g}", kept.filter(pl.col("rating") >= min_rating))
    if duplicates != "keep":
        kept = note(f"duplicates={duplicates}", without_duplicates(kept, duplicates))
    if k_core:
        kept = note(f"k_core={k_core}", core(kept, k_core))
    return kept, stages


def shown_counts(counts: dict[str, int]) -> str:
    """Return counts as a line of text."""
    return ", ".join(f"{number:,} {what}" for what, number in counts.items())


def without_duplicates(frame: pl.DataFrame, duplicates: Duplicates) -> pl.DataFrame:
    """Remove repeated rows; the others keep their order.

    Args:
        frame: [N] interactions.
        duplicates: `exact` or `pairs`, see `filter_interactions`.
    """
    timed = "time" in frame.columns
    if duplicates == "exact":
        return frame.unique([*PAIR, *["time"] * timed], keep="first", maintain_order=True)
    numbered = frame.with_row_index("row")
    if timed:
        numbered = numbered.sort("time", maintain_order=True)
    first = numbered.unique(PAIR, keep="first", maintain_order=True)
    return first.sort("row").drop("row")


def core(frame: pl.DataFrame, k: int) -> pl.DataFrame:
    """Return the k-core: the largest part in which each user and item has k pairs or more.

    A repeated user-item pair counts once, and its rows are kept or removed together.
    """
    if frame.is_empty():
        return frame
    pairs = Interactions(*(_codes(frame[role]).to_torch() for role in PAIR))
    counts = (frame[role].n_unique() for role in PAIR)
    kept = k_core(pairs, k, *counts)
    return frame.filter(pl.Series(kept.numpy()))


def _codes(ids: pl.Series) -> pl.Series:
    """[N] int64, the same number from 0 on for the same id."""
    known = ids.unique()
    return ids.replace_strict(known, pl.int_range(len(known), eager=True), return_dtype=pl.Int64)
