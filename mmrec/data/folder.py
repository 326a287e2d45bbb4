"""Data sets from files: a folder with a table of interactions and what is known about the items.

Shape legend: U users, I items, N interactions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mmrec.data.corpus import Categories, DataError, Interactions, Modality, Source, content_hash
from mmrec.data.files import FEATURES, digests, read_modality
from mmrec.data.tables import Column, read_table, shown, without_controls

log = logging.getLogger(__name__)
INTERACTIONS = (
    *(".inter", ".csv", ".tsv", ".parquet", ".jsonl"),
    *(".inter.gz", ".csv.gz", ".tsv.gz", ".jsonl.gz"),
)
SIDE_FILES = ("items.csv", "cold_items.csv", "u_id_mapping.csv", "i_id_mapping.csv")
SPARSE, MANY = 10, 10_000  # row numbers of a mapping are below 10 per row, or 10,000
RENAME = "rename {nearest} to {name} if that is it"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns of the interactions; a type as in `user_id:token` may be left out.

    Time, position and label are read if the file has them; a name other than the default must be
    there. Time is in seconds. Position is the order within a user: among interactions of the same
    time, or of all where there is no time. Label is the split (0 train, 1 validation, 2 test).
    """

    user: str = "userID"
    item: str = "itemID"
    time: str = "timestamp"
    position: str = "position"
    label: str = "x_label"


DEFAULT_COLUMNS = Columns()


@dataclass(frozen=True)
class _Index:
    """How ids become rows.

    Attributes:
        count: number of rows.
        ids: the original id of each row; None: nothing but the row number is known.
        named: whether the interactions hold these ids, rather than row numbers.
    """

    count: int
    ids: pl.Series | None
    named: bool

    def rows(self, column: Column) -> pl.Series:
        """[N] int64 of a column of ids; row numbers may stand beside names."""
        numbers = column.integers
        if self.ids is not None and (self.named or numbers.has_nulls()):
            values = numbers if self.ids.dtype.is_integer() else column.text
            ids = pl.DataFrame({"id": self.ids, "row": range(self.count)})
            found = values.to_frame("id").join(ids, on="id", how="left", maintain_order="left")
            rows = found["row"]
            if numbers.has_nulls() or rows.null_count() < len(rows):
                column.reject(rows.is_null(), "an id that is known; add it, or drop the line")
                return rows
        known = f"a row number of 0..{self.count - 1}; correct it, or drop the line"
        column.reject(~numbers.is_between(0, self.count - 1), known)
        return numbers


def read_folder(
    root: Path,
    name: str,
    *,
    columns: Columns = DEFAULT_COLUMNS,
    modalities: Sequence[str] | None = None,
    interactions_file: str | None = None,
    separator: str | None = None,
    k_core: int = 0,
) -> Source:
    """Reads the data set in the folder `root/name`.

    Interactions are in the order of the file or, where it has a time or a position, of user, time
    and position. Integer ids are row numbers if they fill 0..n-1, or if features or a file of
    original ids are ordered by them. Other ids are looked up in `u_id_mapping.csv`,
    `i_id_mapping.csv` or `items.csv`; where none of these is, they are sorted and numbered.

    Args:
        root: the folder of data sets.
        name: of the data set.
        columns: names of the columns of the interactions.
        modalities: names; each is read from `<modality>_feat.npy`. None reads all there are.
        interactions_file: a delimited text, JSON lines or Parquet file in the folder. None looks
            for `<name>.inter`, `.csv`, `.tsv`, `.parquet` and `.jsonl`, in this order, and then for
            the text formats with `.gz`.
        separator: of the interactions: tab, comma, semicolon, pipe, double_colon, space, or the
            characters themselves; None detects it.
        k_core: users and items with fewer interactions leave, until none has fewer; 0 keeps all.

    Raises:
        DataError: a file is missing or not what it should be.
    """
    if k_core < 0:
        raise ValueError(f"data.k_core is {k_core}, expected 0 (keep all) or more")
    table = _interactions_file(root, name, interactions_file)
    features = _feature_files(table.parent, modalities)
    side = [path for file in SIDE_FILES if (path := table.parent / file).exists()]
    digest = digests([table, *features.values(), *side])

    found = _interaction_columns(table, columns, separator)
    details = _item_columns(table.parent / "items.csv", optional=["categories", "title"])
    cold = _item_columns(table.parent / "cold_items.csv", "cold_label")
    content = {kind: read_modality(path, digest[path]) for kind, path in features.items()}
    users = _user_index(found["user"])
    items = _item_index(found["item"], details.get("itemID"), content)
    rows = _rows(found, users, items)
    source = Source(
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
        categories=_categories(details, items),
        cold=_cold(cold, items),
        user_ids=users.ids,
        item_ids=items.ids,
        item_titles=_titles(details, items),
        clock="time" in found,
        fingerprint=content_hash(
            [digest[table], *astuple(columns), f"k_core={k_core}"]
            + ([] if separator is None else [f"separator={separator}"])
            + [f"{path.name}: {digest[path]}" for path in (*features.values(), *side)]
        ),
    )
    return _restrict(source, k_core) if k_core else source


def read_items(folder: Path) -> tuple[dict[str, Modality], pl.Series | None]:
    """Content of items that no data set has yet.

    Args:
        folder: with a `<modality>_feat.npy` or more, a row an item, and perhaps with an
            `i_id_mapping.csv` of row numbers (`itemID`) and original ids.

    Returns:
        Modalities by name, and original ids [N], if they are given.

    Raises:
        DataError: there is no such folder, no features in it, or not one row an item in each.
    """
    if not folder.is_dir():
        what = f"is a file; give its folder, {folder.parent}" if folder.exists() else ""
        raise DataError(
            f"{folder}: {what or 'there is no such folder; give one with <modality>_feat.npy'}"
        )
    files = _feature_files(folder, None)
    if not files:
        raise DataError(f"{folder}: no features; put a <modality>_feat.npy there, a row an item")
    for path in {*folder.glob("*.npy")} - {*files.values()}:
        log.warning("%s is not read: content is in <modality>%s", path, FEATURES)
    digest = digests([*files.values()])
    content = {kind: read_modality(path, digest[path]) for kind, path in files.items()}
    ids = _originals(folder / "i_id_mapping.csv", "itemID")
    rows = {f"{kind}{FEATURES}": len(each.features) for kind, each in content.items()}
    rows |= {} if ids is None else {"i_id_mapping.csv": len(ids)}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{file} {count}" for file, count in rows.items())
        raise DataError(
            f"{folder}: expected as many rows in each file, one an item; found {listed}"
        )
    return content, ids


def k_core(interactions: Interactions, k: int, n_users: int, n_items: int) -> Tensor:
    """Which interactions stay when users and items with fewer than k leave, until none has fewer.

    Returns:
        [N] bool.
    """
    user, item = interactions.user.numpy(), interactions.item.numpy()
    keep = np.ones(len(user), dtype=np.bool_)
    while True:
        users = np.bincount(user[keep], minlength=n_users)  # [U]
        items = np.bincount(item[keep], minlength=n_items)  # [I]
        stay = keep & (users[user] >= k) & (items[item] >= k)  # [N]
        if np.array_equal(stay, keep):
            return torch.from_numpy(keep)
        keep = stay


def _interactions_file(root: Path, name: str, file: str | None) -> Path:
    folder = root / name
    if not folder.is_dir():
        sets = sorted(path.name for path in root.glob("*/"))
        raise DataError(
            f"no data set {name} in {root}: found {', '.join(sets) or 'none'}; "
            "set MMREC_DATA or data.root to the folder that holds it"
        )
    files = [file] if file else [f"{name}{kind}" for kind in INTERACTIONS]
    there = [candidate for candidate in files if (folder / candidate).is_file()]
    if len(there) > 1:
        others = ", ".join(there[1:])
        log.warning(
            "%s: read is %s, not %s; data.interactions_file chooses", folder, there[0], others
        )
    if there:
        return folder / there[0]
    raise DataError(
        f"{folder}: no interactions, expected {' or '.join(files)}; "
        "add the file, or set data.interactions_file to its name"
    )


def _feature_files(folder: Path, modalities: Sequence[str] | None) -> dict[str, Path]:
    known = sorted(path.name.removesuffix(FEATURES) for path in folder.glob(f"*{FEATURES}"))
    for kind in modalities or ():
        if kind not in known:
            raise DataError(
                f"{folder}: no {kind}{FEATURES}, found {', '.join(known) or 'no features'}; "
                "add the file, or leave the modality out of data.modalities"
            )
    return {
        kind: folder / f"{kind}{FEATURES}" for kind in (known if modalities is None else modalities)
    }


def _interaction_columns(path: Path, columns: Columns, separator: str | None) -> dict[str, Column]:
    names, default = asdict(columns), asdict(DEFAULT_COLUMNS)
    optional = [role for role in ("time", "position", "label") if names[role] == default[role]]
    remedy = "set data.columns.{role}={nearest} if that is it"
    table = read_table(path, separator=separator, setting="data.separator")
    found = table.columns(names, optional=optional, remedy=remedy)
    if found["user"].values.is_empty():
        raise DataError(
            f"{shown(path)}: no interaction below the header; give a file that has some"
        )
    for role in ("user", "item"):
        found[role].reject(found[role].values.is_null(), "an id; complete the line, or drop it")
    return found


def _rows(found: Mapping[str, Column], users: _Index, items: _Index) -> pl.DataFrame:
    """Interactions as numbers: user, item and, where known, time and label."""
    table = {"user": users.rows(found["user"]), "item": items.rows(found["item"])}
    if "time" in found:
        table["time"] = _seconds(found["time"])
    if "position" in found:
        table["position"] = found["position"].integers
        found["position"].reject(table["position"].is_null(), "an integer; number each user's rows")
    if "label" in found:
        label = found["label"].integers
        expected = "0, 1 or 2 (train, validation, test); correct the line, or drop it"
        found["label"].reject(~label.is_between(0, 2), expected)
        table["label"] = label.cast(pl.Int8)
    frame = pl.DataFrame(table)
    if order := [key for key in ("time", "position") if key in table]:
        frame = frame.sort("user", *order, maintain_order=True)
        frame = frame.with_columns(time=pl.col(order[0]).cast(pl.Int64))
    return frame


def _seconds(column: Column) -> pl.Series:
    """[N] int64, or float64 where there are fractions."""
    if column.values.dtype in (pl.Date, pl.Datetime):
        seconds = column.values.dt.epoch("s")
    elif column.integers.has_nulls():
        seconds = column.values.cast(pl.Float64, strict=False)
        column.reject(~seconds.is_finite(), "seconds; convert the column, or drop the line")
    else:
        seconds = column.integers
    column.reject(seconds.is_null(), "seconds; complete the line, or drop it")
    return seconds


def _item_columns(path: Path, *needed: str, optional: Sequence[str] = ()) -> dict[str, Column]:
    """The ids and further columns of a file on items; none if there is no file."""
    if not path.exists():
        return {}
    names = {name: name for name in ("itemID", *needed, *optional)}
    found = read_table(path).columns(names, optional=optional, remedy=RENAME)
    found["itemID"].reject(found["itemID"].values.is_null(), "an id; complete the line, or drop it")
    return found


def _originals(path: Path, key: str) -> pl.Series | None:
    """[rows] the original ids in a file of row numbers and original ids, if it exists."""
    if not path.exists():
        return None
    table = read_table(path)
    row = table.columns({"row": key}, remedy=RENAME)["row"]
    others = [name for name in table.frame.columns if name != row.name]
    others.sort(key=lambda name: name != "original_id")
    if not others:
        raise DataError(f"{shown(path)}: expected a column of original ids beside {key}; add it")
    original = table.column(others[0])
    original = replace(original, values=original.text)
    number = row.integers
    once = "a row number of 0 or more, once; correct the line, or drop it"
    row.reject((number < 0) | number.is_duplicated(), once)
    # A row number far beyond the number of rows would allocate mostly empty rows.
    most = max(SPARSE * len(number), MANY)
    row.reject(
        number >= most,
        f"a row number below {most}, as the file has {len(number)} rows; correct the line",
    )
    values = original.values
    which = "" if len(others) == 1 else ", or name the column of ids original_id"
    repeated = values.is_not_null() & values.is_duplicated()
    original.reject(repeated, f"each id once; correct the line{which}")
    ids = pl.int_range(int(number.to_numpy().max(initial=-1)) + 1, eager=True).cast(pl.String)
    return ids.alias(key).scatter(number.filter(values.is_not_null()), values.drop_nulls())


def _user_index(user: Column) -> _Index:
    mapping = user.path.parent / "u_id_mapping.csv"
    return _index(user, _originals(mapping, "userID"), pl.Series(dtype=pl.Int64), 0, mapping.name)


def _item_index(item: Column, detail: Column | None, content: Mapping[str, Modality]) -> _Index:
    mapping = item.path.parent / "i_id_mapping.csv"
    listed, numbers = _originals(mapping, "itemID"), pl.Series(dtype=pl.Int64)
    if detail is not None and not detail.integers.has_nulls():
        numbers = detail.integers
    elif detail is not None and listed is None:
        detail.reject(detail.text.is_duplicated(), "each item once; drop the line")
        listed = detail.text
    heights = {f"{kind}{FEATURES}": len(each.features) for kind, each in content.items()}
    index = _index(item, listed, numbers, max(heights.values(), default=0), mapping.name)
    for file, height in heights.items():
        if not index.named:
            has_row = f"below {height}, the number of rows in {file}; add a row (NaN if missing)"
            if item.integers.min() == 1 and item.integers.max() == height:
                has_row = f"0 to {height - 1}, a row of {file} each; number the items from 0"
            item.reject(item.integers >= height, has_row)
        if height != index.count:
            raise DataError(
                f"{shown(item.path.with_name(file))}: expected {index.count} rows, one an item, "
                f"found {height}; add what is missing (NaN if unknown), or drop what is too much"
            )
    return index


def _index(
    column: Column, listed: pl.Series | None, numbers: pl.Series, rows: int, mapping: str
) -> _Index:
    """Decides what the ids of the interactions mean.

    Args:
        column: the ids; none is null.
        listed: original ids in row order, if a file has them.
        numbers: more ids, from a file that has integers.
        rows: how many rows the features have; 0 if there are none.
        mapping: the file in which original ids can be listed, for messages.
    """
    ids = column.integers
    ordered = rows if listed is None else max(rows, len(listed))
    if listed is not None:
        unnumbered = column.text.filter(ids.is_null() | (ids >= ordered))
        if len(unnumbered) and unnumbered[0] in listed:
            return _Index(len(listed), listed, named=True)
    if ids.has_nulls() and not ordered:
        names = column.text.unique().sort()
        return _Index(len(names), names, named=True)
    column.reject(ids.is_null(), f"a row number, or an id listed in {mapping}; correct or list it")
    column.reject(ids < 0, "0 or more; number the ids from 0")
    known = pl.concat([ids, numbers]).unique().sort()
    count = int(known[-1]) + 1
    if len(known) != count and not ordered:
        return _Index(len(known), known, named=True)
    count = max(count, ordered)
    if listed is not None:
        listed = pl.concat([listed, pl.int_range(len(listed), count, eager=True).cast(pl.String)])
    return _Index(count, listed, named=False)


def _categories(details: Mapping[str, Column], items: _Index) -> Categories | None:
    if "categories" not in details:
        return None
    name = details["categories"].text.str.split("|")
    pairs = pl.DataFrame({"item": items.rows(details["itemID"]), "name": name}).explode("name")
    pairs = pairs.with_columns(pl.col("name").str.strip_chars()).filter(pl.col("name") != "")
    if pairs.is_empty():
        return None
    pairs = pairs.unique().sort("item", "name")
    names = pairs["name"].unique().sort()
    category = pairs["name"].cast(pl.Enum(names)).to_physical().cast(pl.Int64)
    return Categories(pairs["item"].to_torch(), category.to_torch(), tuple(names))


def _titles(details: Mapping[str, Column], items: _Index) -> pl.Series | None:
    """[I]; the first, where a file has several of an item."""
    if "title" not in details:
        return None
    title = without_controls(details["title"].text).str.replace_all(r"\s+", " ").str.strip_chars()
    known = pl.DataFrame({"item": items.rows(details["itemID"]), "title": title})
    known = known.filter(pl.col("title") != "").unique("item", keep="first")
    if known.is_empty():
        return None
    return pl.repeat("", items.count, eager=True).alias("title").scatter(*known)


def _cold(columns: Mapping[str, Column], items: _Index) -> Tensor | None:
    """[I] int8: items that the file does not list are warm."""
    if not columns:
        return None
    rows, label = items.rows(columns["itemID"]), columns["cold_label"]
    columns["itemID"].reject(rows.is_duplicated(), "each item once; drop the line")
    label.reject(
        ~label.integers.is_between(0, 2), "0, 1 or 2 (warm, cold for validation, for test)"
    )
    cold = torch.zeros(items.count, dtype=torch.int8)
    cold[rows.to_torch()] = label.integers.cast(pl.Int8).to_torch()
    return cold


def _restrict(source: Source, k: int) -> Source:
    """The k-core of a data set, renumbered."""
    mask = k_core(source.interactions, k, source.n_users, source.n_items)
    kept = source.interactions.select(mask)
    if not len(kept):
        raise DataError(f"{source.name}: no interaction is left in the {k}-core; lower data.k_core")
    users, user_row = _renumber(kept.user, source.n_users)
    items, item_row = _renumber(kept.item, source.n_items)
    if len(users) == source.n_users and len(items) == source.n_items and len(kept) == len(mask):
        return source
    categories, titles = source.categories, source.item_titles
    if categories is not None:
        item = item_row[categories.item]
        there = item >= 0
        categories = Categories(item[there], categories.category[there], categories.names)
    return replace(
        source,
        n_users=len(users),
        n_items=len(items),
        interactions=Interactions(user_row[kept.user], item_row[kept.item], kept.time),
        label=None if source.label is None else source.label[mask],
        modalities={
            kind: Modality(
                features=modality.features[items],
                present=modality.present[items],
                digest=content_hash([modality.digest, items]),
            )
            for kind, modality in source.modalities.items()
        },
        categories=categories,
        cold=None if source.cold is None else source.cold[items],
        user_ids=_restrict_ids(source.user_ids, users),
        item_ids=_restrict_ids(source.item_ids, items),
        item_titles=titles if titles is None else titles.gather(items.numpy()),
    )


def _renumber(ids: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ids that occur, and [count] the new number of each id, -1 for those that don't."""
    kept = torch.from_numpy(np.bincount(ids.numpy(), minlength=count).nonzero()[0])
    row = torch.full((count,), -1)
    row[kept] = torch.arange(len(kept))
    return kept, row


def _restrict_ids(ids: pl.Series | None, rows: Tensor) -> pl.Series:
    """Row numbers stand for themselves where no original id is known."""
    kept = pl.Series(rows.numpy())
    return kept if ids is None else ids.gather(kept)
