"""Titles, categories and cold-start labels of items, from files beside the interactions.

Shape legend: I items.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from mmrec.config.errors import DataError, SettingError
from mmrec.config.text import printable
from mmrec.data.corpus import Categories
from mmrec.data.ids import RENAME, Index
from mmrec.data.tables import Column, FileTable, read_table, shown, without_controls
from mmrec.tables.headers import DEFAULTS, read_header

log = logging.getLogger(__name__)
TITLES = (
    *("title", "titles", "name", "item_name", "itemname", "item_title"),
    *("product_name", "product_title", "movie_title"),
)  # in lower case
CATEGORIES = ("categories", "category", "genre", "genres", "tags", "subject", "subjects")


def item_details(path: Path, *, item: str, categories: str, title: str) -> dict[str, Column]:
    """Read ids, categories and titles from `items.csv`, if it exists.

    Args:
        path: of the file.
        item: column of ids; `itemID` also stands for it.
        categories: column of categories; it may be missing if it is called `categories`.
        title: column of titles; `title` also stands for one column with another usual name.

    Raises:
        SettingError: a column has another name than the default, and there is no file.
        DataError: the file lacks a column, or an id.
    """
    names = {"categories": categories, "title": title}
    renamed = {role: name for role, name in names.items() if name != role}
    if renamed and not path.exists():
        role, name = next(iter(renamed.items()))
        others = sorted(path.parent.glob("*.csv"))
        near = [other.name for other in others if name in (read_header(other) or ())]
        rename = f"rename {' or '.join(near)} to {path.name}" if near else "add the file"
        raise SettingError(
            setting=f"data.columns.{role}",
            value=name,
            problem=f"it is a column of {shown(path)}, which does not exist",
            hint=f"{rename}, or leave the setting out",
        )
    if not path.exists():
        return {}
    return detail_columns(read_table(path), item=item, categories=categories, title=title)


def detail_columns(
    table: FileTable, *, item: str, categories: str, title: str, **more: str
) -> dict[str, Column]:
    """Take ids, categories and titles from a table of items.

    Args:
        table: of items.
        item: as of `item_details`, and so are the next two.
        categories: column of categories.
        title: column of titles.
        more: columns of further roles, which the table may lack.

    Raises:
        DataError: the table lacks a column, or an id.
    """
    path, names = table.path, {"categories": categories, "title": title, **more}
    optional = [role for role, name in names.items() if name == role]
    remedy = f"set data.columns.{{role}}={{nearest}}, or {RENAME}"
    header = {name.partition(":")[0] for name in table.frame.columns}
    taken = {item, *names.values(), DEFAULTS["item"]}
    if title == "title" and "title" not in header:
        likely = sorted(name for name in header - taken if name.lower() in TITLES)
        if len(likely) == 1:
            names["title"] = likely[0]
            log.info("%s: titles are in column %s", shown(path), likely[0])
        elif likely:
            log.warning(
                "%s: titles may be in %s, so items are shown by their ids; set data.columns.title "
                "to one of them",
                shown(path),
                " or ".join(likely),
            )
    if categories not in header:
        for name in sorted(name for name in header - taken if name.lower() in CATEGORIES):
            log.info(
                "%s: column %s is not read; data.columns.categories=%s reads it as categories",
                shown(path),
                name,
                name,
            )
    return item_columns(table, item, remedy=remedy, optional=optional, **names)


def item_columns(
    table: FileTable,
    item: str,
    *,
    remedy: str = RENAME,
    optional: Collection[str] = (),
    **names: str,
) -> dict[str, Column]:
    """Take the ids and further columns of a table of items.

    Args:
        table: what was read.
        item: column of ids; `itemID` also stands for it.
        remedy: what to do about a missing column.
        optional: roles whose columns may be missing.
        names: columns by role.

    Raises:
        DataError: a column is missing, or an id.
    """
    header = {name.split(":")[0] for name in table.frame.columns}
    key = item if item.split(":")[0] in header else DEFAULTS["item"]
    if key not in header and item != key:
        raise DataError(
            file=shown(table.path),
            found=", ".join(map(printable, sorted(header))),
            expected=f"a column {item} of item ids, as in the interactions",
            hint=f"rename the column of ids to {item}",
        )
    found = table.columns({"item": key, **names}, optional=optional, remedy=remedy)
    found["item"].reject(found["item"].values.is_null(), "an id; complete the line, or drop it")
    return found


def item_categories(
    details: Mapping[str, Column], items: Index, separator: str
) -> Categories | None:
    """Split the categories of items; None if there are none.

    Args:
        details: as `item_details` returns them.
        items: rows of the items.
        separator: between categories of an item.
    """
    if "categories" not in details:
        return None
    name = details["categories"].text.str.split(separator)
    pairs = pl.DataFrame({"item": items.rows(details["item"]), "name": name}).explode("name")
    pairs = pairs.with_columns(pl.col("name").str.strip_chars()).filter(pl.col("name") != "")
    if pairs.is_empty():
        return None
    pairs = pairs.unique().sort("item", "name")
    names = pairs["name"].unique().sort()
    category = pairs["name"].cast(pl.Enum(names)).to_physical().cast(pl.Int64)
    return Categories(pairs["item"].to_torch(), category.to_torch(), tuple(names))


def item_titles(details: Mapping[str, Column], items: Index) -> pl.Series | None:
    """Return titles [I], the first where a file has several of an item; None if there are none.

    Args:
        details: as `item_details` returns them.
        items: rows of the items.
    """
    if "title" not in details:
        return None
    title = without_controls(details["title"].text).str.replace_all(r"\s+", " ").str.strip_chars()
    known = pl.DataFrame({"item": items.rows(details["item"]), "title": title})
    known = known.filter(pl.col("title") != "").unique("item", keep="first")
    if known.is_empty():
        return None
    return pl.repeat("", items.count, eager=True).alias("title").scatter(*known)


def cold_labels(columns: Mapping[str, Column], items: Index) -> Tensor | None:
    """Return labels of cold-start items [I] int8; items that the file does not list are warm.

    Args:
        columns: of `cold_items.csv`; empty where there is no such file.
        items: rows of the items.

    Raises:
        DataError: an item twice, or a label other than 0, 1 and 2.
    """
    if not columns:
        return None
    rows, label = items.rows(columns["item"]), columns["cold_label"]
    columns["item"].reject(rows.is_duplicated(), "each item once; drop the line")
    label.reject(
        ~label.integers.is_between(0, 2),
        "0, 1 or 2 (warm, cold for validation, for test); correct the line",
    )
    cold = torch.zeros(items.count, dtype=torch.int8)
    cold[rows.to_torch()] = label.integers.cast(pl.Int8).to_torch()
    return cold
