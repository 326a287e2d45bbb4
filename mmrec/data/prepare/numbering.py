"""Row numbers of users and items, and the split of the numbered interactions.

Shape legend: U users, I items, N interactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from mmrec.config.errors import DataError, SettingError
from mmrec.data.corpus import Interactions
from mmrec.data.ids import RENAME, originals
from mmrec.data.labels import labels
from mmrec.data.splits import leave_one_out, random_per_user
from mmrec.data.tables import Column, read_table, shown
from mmrec.tables.headers import DEFAULTS

Split = Literal["random_per_user", "leave_one_out", "given", "none"]
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Numbered:
    """Interactions by row number.

    Attributes:
        rows: [N] `user`, `item`, and perhaps `time`, `position` and `label`; ordered by user and
            time.
        users: [U] original ids.
        items: [I] original ids.
        rule: how the interactions were split, for the manifest.
    """

    rows: pl.DataFrame
    users: pl.Series
    items: pl.Series
    rule: str

    def parts(self) -> dict[str, int]:
        """Return the number of interactions in each part of the split; empty if there is none."""
        if "label" not in self.rows.columns:
            return {}
        label = self.rows["label"]
        return {part: int((label == value).sum()) for value, part in enumerate(PARTS)}


def number(
    frame: pl.DataFrame,
    *,
    split: Split,
    seed: int,
    floor: bool,
    labels_file: Path | None,
    orders: Mapping[str, pl.Series] | None = None,
) -> Numbered:
    """Number users and items, and label each interaction.

    Ids are numbered by their first appearance, or as the mapping files beside the labels number
    them. Ids that are exactly the numbers from 0 on stay as they are, so that no reader can mistake
    an id for another's row number.

    Args:
        frame: [N] `user` and `item` as text, and perhaps `time`, `position` and `label`.
        split: rule; `given` takes the column `label`, `none` writes no labels.
        seed: of `random_per_user`.
        floor: see `random_per_user`.
        labels_file: table of interactions with labels, which replace the rule.
        orders: ids of users (`user`) and items (`item`) in the order of their numbers, where it is
            given.

    Raises:
        DataError: the labels are those of other interactions.
        SettingError: the interactions lack what the split needs.
    """
    given = orders or {}
    users, items = (
        given[role] if role in given else _ids(frame[role]) for role in ("user", "item")
    )
    rule = "none"
    if labels_file is not None:
        frame, users, items = _with_labels(frame, labels_file, users, items)
        rule = f"labels of {labels_file.name}"
    elif split != "given" and "label" in frame.columns:
        frame = frame.drop("label")
    rows = frame.with_columns(_rows(frame["user"], users), _rows(frame["item"], items))
    rows = rows.sort("user", *(["time"] if "time" in rows.columns else []), maintain_order=True)
    if labels_file is None and split == "given":
        if "label" not in rows.columns:
            raise SettingError(
                setting="data.split",
                value=split,
                problem="the interactions have no column of labels",
                hint="set data.columns.label, or choose random_per_user",
            )
        rule = "given"
    elif labels_file is None and split == "random_per_user":
        # A repeated pair is drawn once, and all its rows are in one part.
        pairs = rows.select("user", "item").unique(maintain_order=True)
        label = random_per_user(_interactions(pairs), seed=seed, floor=floor)
        pairs = pairs.with_columns(label=pl.Series(label.numpy()))
        rows = rows.join(pairs, on=["user", "item"], how="left", maintain_order="left")
        rule = f"random_per_user(seed={seed})"
    elif labels_file is None and split == "leave_one_out":
        rows = rows.with_columns(label=pl.Series(leave_one_out(_interactions(rows)).numpy()))
        rule = "leave_one_out"
    columns = ("user", "item", "time", "position", "label")
    kept = rows.select(name for name in columns if name in rows.columns)
    return Numbered(kept, users, items, rule)


def _interactions(rows: pl.DataFrame) -> Interactions:
    time = rows["time"].to_torch() if "time" in rows.columns else None
    return Interactions(rows["user"].to_torch(), rows["item"].to_torch(), time)


def _ids(column: pl.Series) -> pl.Series:
    """Unique ids by first appearance, or in order if they are the numbers from 0 on."""
    ids = column.unique(maintain_order=True)
    counted = pl.int_range(len(ids), eager=True).cast(pl.String)
    if counted.is_in(ids.implode()).all():
        return counted.alias(column.name)
    return ids


def _rows(column: pl.Series, ids: pl.Series) -> pl.Series:
    """[N] int64 row of each id."""
    return column.replace_strict(
        ids, pl.int_range(len(ids), eager=True), return_dtype=pl.Int64
    ).alias(column.name)


def _with_labels(
    frame: pl.DataFrame, path: Path, users: pl.Series, items: pl.Series
) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """Add the labels of a published file, and number ids as it does.

    Raises:
        DataError: it has other interactions, or unknown ids.
    """
    table = read_table(path)
    names = {role: DEFAULTS[role] for role in ("user", "item", "label")}
    found = table.columns(names, remedy=RENAME)
    published = {"label": labels(found["label"])}
    orders = []
    for role, known, mapping in (
        ("user", users, "u_id_mapping.csv"),
        ("item", items, "i_id_mapping.csv"),
    ):
        listed = originals(path.with_name(mapping), DEFAULTS[role])
        published[role], order = _published_ids(found[role], known, listed, mapping)
        orders.append(order)
    pairs = pl.DataFrame(published).unique(["user", "item"], keep="first", maintain_order=True)
    joined = frame.drop("label", strict=False).join(
        pairs, on=["user", "item"], how="left", maintain_order="left"
    )
    unlabelled = joined["label"].null_count()
    own = joined.select("user", "item").n_unique()
    if unlabelled or own != pairs.height:
        shared = joined.filter(pl.col("label").is_not_null()).select("user", "item").n_unique()
        raise DataError(
            file=shown(path),
            problem=f"{shared:,} of its {pairs.height:,} user-item pairs are among the {own:,} "
            "after filtering",
            expected="the same pairs",
            hint="put its u_id_mapping.csv and i_id_mapping.csv beside it, or leave data.labels "
            "out for a seeded split",
        )
    return joined, orders[0], orders[1]


def _published_ids(
    column: Column, known: pl.Series, listed: pl.Series | None, mapping: str
) -> tuple[pl.Series, pl.Series]:
    """Original ids of a published column [N], and all ids in the order of their row numbers.

    Args:
        column: row numbers or original ids.
        known: original ids in our order.
        listed: original ids by row number, from the mapping file; None if there is none.
        mapping: name of that file.
    """
    numbers = column.integers
    by_row = known if listed is None else listed
    is_row = numbers.is_between(0, len(by_row) - 1).fill_null(False)
    if is_row.all():
        ids = by_row.gather(numbers).alias(known.name)
        if listed is not None and ids.is_in(known.implode()).any():
            same = len(listed) == len(known) and known.is_in(listed.implode()).all()
            return ids, (listed if same else known).alias(known.name)
    if column.text.is_in(known.implode()).any():
        return column.text.alias(known.name), known
    valid = f"a row number of 0..{len(by_row) - 1}, or an original id"
    column.reject(~is_row, f"{valid}; put its {mapping} beside the file")
    return ids, known


def unwritable(ids: pl.Series) -> Sequence[str]:
    """Return ids that a file with tabs cannot hold: with a tab or a line break."""
    return ids.filter(ids.str.contains(r"[\t\r\n]")).to_list()
