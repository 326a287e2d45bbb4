"""Data sets from files: a folder with a table of interactions and further files about the items.

Shape legend: U users, I items, N interactions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from mmrec.config.errors import SettingError
from mmrec.data.assembly import (
    DEFAULT_COLUMNS,
    OPTIONAL,
    Columns,
    assemble,
    interaction_columns,
)
from mmrec.data.corpus import DataError, Modality, Source, content_hash
from mmrec.data.files import FEATURES, digests, read_modality
from mmrec.data.filters import Where, check_filters, restrict_to_core
from mmrec.data.ids import ITEMS, USERS, Ids, item_index, originals, user_index
from mmrec.data.item_details import (
    item_columns,
    item_details,
)
from mmrec.data.tables import Column, read_table
from mmrec.tables.headers import DEFAULTS, SIDE_FILES
from mmrec.tables.headers import interactions_file as find_interactions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderFiles:
    """The files of a data set.

    Attributes:
        interactions: the table of interactions.
        features: by modality, in a fixed order.
        side: other files that are read.
        digest: hash of the content of each.
    """

    interactions: Path
    features: Mapping[str, Path]
    side: Sequence[Path]
    digest: Mapping[Path, str]

    def read_features(self) -> dict[str, Modality]:
        """The content of the items, memory-mapped."""
        return {
            kind: read_modality(file, self.digest[file]) for kind, file in self.features.items()
        }


def find_files(
    root: Path, name: str, interactions_file: str | None, modalities: Sequence[str] | None
) -> FolderFiles:
    """Find the files of a data set and hash their content.

    Args:
        root: folder of data sets.
        name: of the data set.
        interactions_file: see `read_folder`.
        modalities: see `read_folder`.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    path = find_interactions(root, name, interactions_file)
    features = _feature_files(path.parent, modalities)
    side = [file for each in SIDE_FILES if (file := path.parent / each).exists()]
    return FolderFiles(path, features, side, digests([path, *features.values(), *side]))


def fingerprint(
    files: FolderFiles,
    *,
    columns: Columns,
    separator: str | None,
    ids: Ids | None,
    where: Where,
    min_rating: float | None,
    k_core: int,
    category_separator: str,
) -> str:
    """Hash of the content of files and of the settings that decide how it is read.

    The arguments are those of `read_folder`.
    """
    changed = {
        "separator": separator,
        "rating": columns.rating,
        "min_rating": min_rating,
        "where": json.dumps(where, sort_keys=True) if where else None,
        "ids": ids,
        "categories": columns.categories if columns.categories != "categories" else None,
        "category_separator": category_separator if category_separator != "|" else None,
    }
    return content_hash(
        [files.digest[files.interactions], *(asdict(columns)[role] for role in DEFAULTS)]
        + [f"k_core={k_core}"]
        + [f"{file.name}: {files.digest[file]}" for file in (*files.features.values(), *files.side)]
        # Settings that are not in use leave the fingerprint as it was before they existed.
        + [f"{key}={value}" for key, value in changed.items() if value is not None]
    )


def read_folder(
    root: Path,
    name: str,
    *,
    columns: Columns = DEFAULT_COLUMNS,
    modalities: Sequence[str] | None = None,
    interactions_file: str | None = None,
    separator: str | None = None,
    ids: Ids | None = None,
    where: Where | None = None,
    min_rating: float | None = None,
    k_core: int = 0,
    category_separator: str = "|",
    needed: Collection[str] = OPTIONAL,
    files: FolderFiles | None = None,
) -> Source:
    """Read the data set in the folder `root/name`.

    Interactions are in the order of the file or, where it has a time or a position, of user, time
    and position. Filters apply in the order `where`, `min_rating`, `k_core`; each logs what it
    removes.

    Ids of users and items are row numbers or original ids. Original ids are looked up in
    `u_id_mapping.csv`, `i_id_mapping.csv` or `items.csv`, which list them by row. Where no file
    lists them and no features depend on their order, they are sorted and numbered.

    Args:
        root: folder of data sets.
        name: of the data set.
        columns: names of columns.
        modalities: names; each is read from `<modality>_feat.npy`. None reads all there are.
        interactions_file: a delimited text, JSON lines or Parquet file in the folder, or a folder
            of Parquet files there. None looks for `<name>.inter`, `.csv`, `.tsv`, `.parquet` and
            `.jsonl`, in this order, and then for the text formats with `.gz`.
        separator: of the interactions: tab, comma, semicolon, pipe, double_colon, space, or the
            characters themselves; None detects it.
        ids: meaning of ids that can be read in two ways: `rows` (row numbers) or `names` (original
            ids); None: an error where the two readings differ. An error too where item ids do not
            have this meaning, unless user ids need the choice.
        where: accepted values by column of the interactions; other lines are removed. Values are
            compared as text; None accepts an empty cell.
        min_rating: interactions with a lower rating are removed; needs `columns.rating`.
        k_core: users and items with fewer interactions (a repeated pair counts once) are removed,
            until none has fewer; 0 keeps all. Those that are left are renumbered.
        category_separator: between the categories of an item.
        needed: of time, position and label, those that must be valid if the file has them. An
            invalid one of the others is ignored with a warning.
        files: of the folder, if they are known; None: they are found and hashed.

    Raises:
        DataError: a file is missing or invalid.
        SettingError: a filter is invalid, or names a column or value that does not exist.
    """
    where = where or {}
    if not isinstance(columns, Columns):
        expected = "the names of columns, for example data.columns.user=user_id"
        raise SettingError(setting="data.columns", value=columns, expected=expected)
    if not category_separator:
        expected = "one or more characters"
        raise SettingError(setting="data.category_separator", value="", expected=expected)
    check_filters(k_core, min_rating)
    files = files or find_files(root, name, interactions_file, modalities)
    path = files.interactions

    table = read_table(path, separator=separator, setting="data.separator")
    found, dropped = interaction_columns(table, name, columns, where, min_rating, needed)
    details = item_details(
        path.parent / "items.csv",
        item=columns.item,
        categories=columns.categories,
        title=columns.title,
    )
    cold_items = path.parent / "cold_items.csv"
    cold: dict[str, Column] = {}
    if cold_items.exists():
        cold = item_columns(read_table(cold_items), columns.item, cold_label="cold_label")
    content = files.read_features()
    users = user_index(found["user"], ids, originals(path.with_name(USERS), "userID"))
    strict = not users.two_readings(found["user"])
    listed = originals(path.with_name(ITEMS), "itemID")
    items = item_index(found["item"], details.get("item"), content, ids, listed, strict=strict)
    source = assemble(
        name,
        found,
        dropped,
        users,
        items,
        details,
        content=content,
        cold=cold,
        category_separator=category_separator,
        needed=needed,
        fingerprint=fingerprint(
            files,
            columns=columns,
            separator=separator,
            ids=ids,
            where=where,
            min_rating=min_rating,
            k_core=k_core,
            category_separator=category_separator,
        ),
    )
    return restrict_to_core(source, k_core) if k_core else source


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
        problem, hint = "there is no such folder", "give one with <modality>_feat.npy"
        if folder.exists():
            problem, hint = "it is a file", f"give its folder, {folder.parent}"
        raise DataError(file=folder, problem=problem, hint=hint)
    files = _feature_files(folder, None)
    if not files:
        raise DataError(
            file=folder,
            problem="no features",
            hint="put a <modality>_feat.npy there, a row an item",
        )
    for path in {*folder.glob("*.npy")} - {*files.values()}:
        log.warning("%s is not read: content is in <modality>%s", path, FEATURES)
    digest = digests([*files.values()])
    content = {kind: read_modality(path, digest[path]) for kind, path in files.items()}
    ids = originals(folder / ITEMS, "itemID")
    rows = {f"{kind}{FEATURES}": len(each.features) for kind, each in content.items()}
    rows |= {} if ids is None else {ITEMS: len(ids)}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{file} {count}" for file, count in rows.items())
        raise DataError(file=folder, found=listed, expected="as many rows in each, one an item")
    return content, ids


def _feature_files(folder: Path, modalities: Sequence[str] | None) -> dict[str, Path]:
    known = sorted(path.name.removesuffix(FEATURES) for path in folder.glob(f"*{FEATURES}"))
    for kind in modalities or ():
        if kind not in known:
            raise DataError(
                file=folder,
                problem=f"no {kind}{FEATURES}",
                found=", ".join(known) or "no features",
                hint="add the file, or leave the modality out of data.modalities",
            )
    return {
        kind: folder / f"{kind}{FEATURES}" for kind in (known if modalities is None else modalities)
    }
