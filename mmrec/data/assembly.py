"""From the columns of tables to a data set.

Shape legend: U users, I items, N interactions.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import polars as pl

from mmrec.data.corpus import DataError, Interactions, Modality, Source
from mmrec.data.filters import Where, select_rows
from mmrec.data.ids import RENAME, Index
from mmrec.data.item_details import cold_labels, item_categories, item_titles
from mmrec.data.labels import labels, warn_of_split
from mmrec.data.tables import Column, FileTable, shown
from mmrec.data.times import moments
from mmrec.tables.headers import DEFAULTS, check_columns

log = logging.getLogger(__name__)
OPTIONAL = ("time", "position", "label")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns; a type as in `user_id:token` may be left out.

    Time, position, label, categories and title are read if the file has them; a name other than
    the default must be there.

    Attributes:
        user: user ids in the interactions.
        item: item ids in the interactions, and in `items.csv` and `cold_items.csv`, which may also
            call them `itemID`.
        time: numbers since 1970 or ISO 8601 text, see `mmrec.data.times.moments`.
        position: order within a user, among interactions of the same time, or of all without time.
        label: split: 0 or train, 1, valid, val or validation, 2 or test; case does not matter.
        rating: numbers that `min_rating` is compared with; None: there are none.
        categories: of an item, in `items.csv`.
        title: of an item, in `items.csv`; `title` also stands for a column with another usual name,
            such as `name`, if there is only one.
    """

    user: str = DEFAULTS["user"]
    item: str = DEFAULTS["item"]
    time: str = DEFAULTS["time"]
    position: str = DEFAULTS["position"]
    label: str = DEFAULTS["label"]
    rating: str | None = None
    categories: str = "categories"
    title: str = "title"


DEFAULT_COLUMNS = Columns()


def interaction_columns(
    table: FileTable,
    name: str,
    columns: Columns,
    where: Where,
    min_rating: float | None,
    needed: Collection[str],
) -> tuple[dict[str, Column], dict[str, Column]]:
    """Take the columns of the interactions by role, and those of the rows that filters remove.

    Args:
        table: of interactions.
        name: of the data set.
        columns: names of columns.
        where: as of `read_folder`, and so are the next two.
        min_rating: smallest rating that counts.
        needed: of time, position and label.

    Raises:
        DataError: a column is missing, or an id.
        SettingError: a filter is invalid.
    """
    path = table.path
    roles = asdict(columns)
    check_columns(shown(path), table.frame.columns, roles, min_rating=min_rating)
    names = {role: roles[role] for role in (*DEFAULTS, "rating") if roles[role] is not None}
    found = table.columns(names, optional=OPTIONAL, remedy=RENAME)
    if found["user"].values.is_empty():
        raise DataError(
            file=shown(path),
            problem="no interaction below the header",
            hint="give a file that has some",
        )
    used = [column.name for column in found.values()]
    if "label" not in found and "label" in needed:
        warn_of_split(table, used)
    kept, removed = select_rows(name, table, found, where=where, min_rating=min_rating, used=used)
    for role in ("user", "item"):
        kept[role].reject(kept[role].values.is_null(), "an id; complete the line, or drop it")
    return kept, removed


def _removed(columns: Mapping[str, Column], users: Index, items: Index) -> Interactions | None:
    """Interactions that filters removed, of users and items that are left."""
    if not columns:
        return None
    pairs = {"user": users.known_rows(columns["user"]), "item": items.known_rows(columns["item"])}
    frame = pl.DataFrame(pairs).drop_nulls().unique(maintain_order=True)
    return Interactions(frame["user"].to_torch(), frame["item"].to_torch())


def _rows(
    found: Mapping[str, Column], users: Index, items: Index, needed: Collection[str]
) -> tuple[pl.DataFrame, bool]:
    """Interactions as numbers: user, item and, where known, time and label.

    Returns:
        The table, and whether its time is in seconds rather than a position within the user.
    """
    table = {"user": users.rows(found["user"]), "item": items.rows(found["item"])}
    order = []
    for role in OPTIONAL:
        if role not in found:
            continue
        try:
            if role == "time":
                table["time"], table["moment"] = moments(found[role])
                order.append("moment")
            elif role == "position":
                table["position"] = _positions(found[role])
                order.append("position")
            else:
                table["label"] = labels(found[role])
        except DataError as error:
            if role in needed:
                raise
            log.warning("%s; data.split does not need %s, which is ignored", error, role)
    frame = pl.DataFrame(table)
    if order:
        frame = frame.sort("user", *order, maintain_order=True)
        frame = frame.with_columns(time=pl.col("time" if "time" in table else "position"))
    return frame, "time" in table


def _positions(column: Column) -> pl.Series:
    """[N] int64."""
    column.reject(column.integers.is_null(), "an integer; number each user's rows")
    return column.integers


def assemble(
    name: str,
    found: Mapping[str, Column],
    dropped: Mapping[str, Column],
    users: Index,
    items: Index,
    details: Mapping[str, Column],
    *,
    content: Mapping[str, Modality],
    cold: Mapping[str, Column],
    category_separator: str,
    needed: Collection[str],
    fingerprint: str,
) -> Source:
    """Make a data set of columns whose ids have rows.

    Args:
        name: of the data set.
        found: columns of the interactions by role.
        dropped: those of rows that filters removed.
        users: rows of users.
        items: rows of items.
        details: columns of the table of items, as `item_details` returns them.
        content: modalities by name.
        cold: columns of the cold-item assignment; empty if there is none.
        category_separator: between the categories of an item.
        needed: as of `read_folder`.
        fingerprint: of the data set.

    Raises:
        DataError: an id is unknown, or a value is invalid.
    """
    rows, clock = _rows(found, users, items, needed)
    return Source(
        name=name,
        n_users=users.count,
        n_items=items.count,
        interactions=Interactions(
            user=rows["user"].to_torch(),
            item=rows["item"].to_torch(),
            time=rows["time"].to_torch() if "time" in rows.columns else None,
        ),
        label=rows["label"].to_torch() if "label" in rows.columns else None,
        modalities=content,
        categories=item_categories(details, items, category_separator),
        cold=cold_labels(cold, items),
        user_ids=users.ids,
        item_ids=items.ids,
        item_titles=item_titles(details, items),
        clock=clock,
        removed=_removed(dropped, users, items),
        fingerprint=fingerprint,
    )
