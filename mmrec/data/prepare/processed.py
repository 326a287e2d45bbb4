"""Processed folders: a table of interactions, features, ids and details by row.

They have the files that MMRec (Zhou, 2023) reads: `<name>.inter` with `x_label`, `image_feat.npy`,
`text_feat.npy`, `u_id_mapping.csv` and `i_id_mapping.csv`, and perhaps `items.csv` and
`cold_items.csv`.

Shape legend: I items, N interactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import polars as pl
from annotated_types import Ge

from mmrec.config.errors import DataError, SettingError
from mmrec.config.paths import expand
from mmrec.data.corpus import Source
from mmrec.data.files import FEATURES, digests
from mmrec.data.folder import read_folder
from mmrec.data.ids import Ids
from mmrec.data.item_details import item_columns
from mmrec.data.prepare.base import (
    Counts,
    RawData,
    RawFile,
    Vectors,
    check_files,
    clean_text,
    in_order,
    item_rows,
    joined,
)
from mmrec.data.prepare.filters import Duplicates
from mmrec.data.prepare.numbering import Split
from mmrec.data.tables import read_table
from mmrec.tables.headers import DEFAULTS, SIDE_FILES, interactions_file

if TYPE_CHECKING:
    from mmrec.data.prepare.fetch import Fetcher

__all__ = ["Annotated", "Duplicates", "Ge", "ProcessedFolder", "Split"]  # annotations of settings

INTERACTIONS = "interactions"
DETAILS = ("title", "categories")  # of items.csv, which an encoder reads


@dataclass(frozen=True, kw_only=True)
class ProcessedFolder(RawData):
    """A processed folder, which is checked and copied.

    Users and items keep their row numbers, unless a filter removes some.

    Attributes:
        source_folder: the folder; None downloads it.
        mirrors: addresses of the folder, in the order of trying.
        files: names of the files that are downloaded.
        interactions_file: name of the table of interactions; None: `<folder>.inter`, or with
            another ending of tables. The folder of downloads is called as the data set.
        ids: meaning of ids that can be read in two ways: `rows` or `names`.
        page: where a person finds the files.
        sha256: known digests by file name; others of downloads are recorded at first use.
    """

    source_folder: str | None = None
    mirrors: Sequence[str] = ()
    files: Sequence[str] = ()
    interactions_file: str | None = None
    ids: Ids | None = None
    page: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        super().check()
        check_files({"data.labels": self.labels})
        if self.source_folder is None and not (self.mirrors and self.files):
            raise SettingError(
                setting="data.source_folder",
                problem="there is nothing to copy",
                hint="give a folder, or data.mirrors and data.files to download one",
            )
        if self.source_folder is not None and not expand(self.source_folder).is_dir():
            raise SettingError(
                setting="data.source_folder",
                value=self.source_folder,
                problem="there is no such folder",
            )
        for name in self.files:
            if Path(name).name != name or name.startswith("."):
                raise SettingError(
                    setting="data.files", value=name, expected="the name of a file, as baby.inter"
                )

    def parse_key(self) -> list[str]:
        return self.key("source", "ids")

    def fetch(self, fetcher: Fetcher) -> dict[str, RawFile]:
        found = {}
        if self.source_folder is None:
            own = replace(fetcher, folder=fetcher.folder / self.name)
            for name in self.files:
                urls = [f"{mirror.rstrip('/')}/{name}" for mirror in self.mirrors]
                page = self.page or self.mirrors[0]
                found[name] = own.fetch(name, urls, self.sha256.get(name), page)
            folder = own.folder
        else:
            folder = expand(self.source_folder).absolute()
        table = interactions_file(folder.parent, folder.name, self.interactions_file)
        features = sorted(folder.glob(f"*{FEATURES}"))
        side = [folder / name for name in SIDE_FILES if (folder / name).exists()]
        for path in [*features, *side] if self.source_folder is None else []:
            if path.name not in found:
                raise DataError(
                    file=path,
                    problem="it is among the downloads and not in data.files",
                    hint="add it to data.files, or delete it",
                )
        used = digests([table, *features, *side])
        for path, digest in used.items():
            expected = self.sha256.get(path.name, digest)
            if digest != expected:
                raise DataError(file=path, found=f"sha256 {digest}", expected=expected)
        if self.text_model is not None and folder / "items.csv" not in used:
            raise SettingError(
                setting="data.text_model",
                value=self.text_model,
                problem=f"{folder} has no items.csv with texts",
                hint="set it to null; text_feat.npy is copied",
            )
        return {
            INTERACTIONS if path == table else path.name: found.get(
                path.name, RawFile(path, digest)
            )
            for path, digest in used.items()
        }

    def read_interactions(self, files: Mapping[str, RawFile]) -> tuple[pl.DataFrame, Counts]:
        source = self._source(files)
        seen = source.interactions
        orders = self.id_orders(files)
        columns = {
            "user": orders["user"].gather(pl.Series(seen.user.numpy())),
            "item": orders["item"].gather(pl.Series(seen.item.numpy())),
        }
        if seen.time is not None:
            columns["time" if source.clock else "position"] = pl.Series(seen.time.numpy())
        if source.label is not None:
            columns["label"] = pl.Series(source.label.numpy())
        numbers = {"listed_users": source.n_users, "listed_items": source.n_items}
        return pl.DataFrame(columns), numbers

    def id_orders(self, files: Mapping[str, RawFile]) -> dict[str, pl.Series]:
        """Return original ids in the order of their rows; where there are none, row numbers."""
        source = self._source(files)
        listed = {
            "user": (source.user_ids, source.n_users),
            "item": (source.item_ids, source.n_items),
        }
        return {
            role: (pl.int_range(count, eager=True) if ids is None else ids)
            .cast(pl.String)
            .alias(role)
            for role, (ids, count) in listed.items()
        }

    def read_items(
        self, files: Mapping[str, RawFile], ids: pl.Series
    ) -> tuple[pl.DataFrame, Counts]:
        if "items.csv" not in files:
            return ids.to_frame("id").select(), {}
        table = read_table(files["items.csv"].path)
        found = item_columns(
            table, DEFAULTS["item"], optional=DETAILS, title=DETAILS[0], categories=DETAILS[1]
        )
        listed = self.id_orders(files)["item"]
        numbers = found["item"].integers
        by_row = numbers.is_between(0, len(listed) - 1).fill_null(False).all()
        known = {"id": listed.gather(numbers) if by_row else found["item"].text}
        taken = {column.name for column in found.values()}
        known |= {role: found[role].text for role in DETAILS if role in found}
        known |= {
            name: table.frame[name].cast(pl.String, strict=False)
            for name in table.frame.columns
            if name not in taken and name not in (*DETAILS, "id", "text")
        }
        frame, counts = in_order(ids, pl.DataFrame(known))
        frame = frame.with_columns(clean_text(pl.col(pl.String)))
        read = [role for role in DETAILS if role in frame.columns]
        if read:
            said = joined(read).str.replace_all("|", " ", literal=True)
            frame = frame.with_columns(text=said)
        return frame, counts

    def read_vectors(self, files: Mapping[str, RawFile], ids: pl.Series) -> dict[str, Vectors]:
        rows, _ = item_rows(ids, self.id_orders(files)["item"])
        found = {}
        for kind, content in self._source(files).modalities.items():
            present = content.present.numpy()
            places = np.where(present[rows], rows, -1)
            unused = int(present.sum() - (places >= 0).sum())
            name = f"{kind}{FEATURES}"
            found[kind] = Vectors(content.features.numpy(), places, name, None, unused)
        return found

    def more_tables(self, files: Mapping[str, RawFile], ids: pl.Series) -> dict[str, pl.DataFrame]:
        """Return the cold items, if they are given."""
        cold = self._source(files).cold
        if cold is None:
            return {}
        rows, _ = item_rows(ids, self.id_orders(files)["item"])
        labels = {
            DEFAULTS["item"]: range(len(ids)),
            "cold_label": np.where(rows < 0, 0, cold.numpy()[rows]),
        }
        return {"cold_items.csv": pl.DataFrame(labels)}

    def _source(self, files: Mapping[str, RawFile]) -> Source:
        given = {role: file for role, file in files.items() if "/" not in role}
        parts = tuple(sorted((role, file.sha256) for role, file in given.items()))
        return _read(given[INTERACTIONS].path, self.ids, parts)


@lru_cache(maxsize=1)
def _read(path: Path, ids: Ids | None, _digests: object) -> Source:
    """Read the folder of a table of interactions, once as long as the digests are the same."""
    return read_folder(path.parent.parent, path.parent.name, interactions_file=path.name, ids=ids)
