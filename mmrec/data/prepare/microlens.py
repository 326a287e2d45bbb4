"""MicroLens (Ni et al., 2023): views of short videos, titles, and vectors of the authors.

`MicroLens-<size>_pairs.csv` has user, item and milliseconds. Titles are comma-separated, and row
`n` of a matrix of vectors is of the item `n + 1`.

Shape legend: I items, N interactions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import polars as pl
from annotated_types import Ge

from mmrec.config.errors import DataError, SettingError
from mmrec.config.paths import expand
from mmrec.data.files import digests
from mmrec.data.prepare.base import (
    Counts,
    RawData,
    RawFile,
    Vectors,
    check_files,
    clean_text,
    in_order,
    open_matrix,
)
from mmrec.data.prepare.fetch import check_beginning
from mmrec.data.prepare.filters import Duplicates
from mmrec.data.prepare.lines import Malformed, below_header, blocks, csv_rows, read_delimited
from mmrec.data.prepare.numbering import Split
from mmrec.data.tables import shown

if TYPE_CHECKING:
    from mmrec.data.prepare.fetch import Fetcher

__all__ = ["Duplicates", "MicroLens", "Split"]  # the first and the last are annotations

PAGE = "https://github.com/westlake-repl/MicroLens"
PAIR = {"user": pl.String, "item": pl.String, "time": pl.Int64}
PAIRS_CSV = ("user", "item", "timestamp")
TITLES = {"50k": "MicroLens-50k_titles.csv", "100k": "MicroLens-100k_title_en.csv"}
FEATURES = "extracted_modality_features"  # the folder of the vectors
VECTORS = {  # of 100k, by modality
    "image": "MicroLens-100k_image_features_CLIPRN50.npy",
    "text": "MicroLens-100k_title_en_text_features_BgeM3.npy",
    "video": "MicroLens-100k_video_features_VideoMAE.npy",
}
PUBLISHED = {
    "50k": {"users": 50000, "items": 19220, "interactions": 359708},
    "100k": {"users": 100000, "items": 19738, "interactions": 719405},
}


@dataclass(frozen=True, kw_only=True)
class MicroLens(RawData):
    """Views of short videos with titles and, for 100k, vectors.

    Attributes:
        size: which of the data sets, by its number of users.
        mirrors: addresses of the folder that holds the folders of the sets, in the order of trying.
        source_folder: a folder with the files, instead of downloads.
        sha256: known digests by file name; others are recorded at first use.
        vectors: modalities whose published vectors are used; only 100k has them.
        malformed_lines: largest number of lines in a file that are left out as malformed.
    """

    size: Literal["50k", "100k"]
    mirrors: Sequence[str] = ()
    source_folder: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    vectors: Sequence[Literal["image", "text", "video"]] = ()
    malformed_lines: Annotated[int, Ge(0)] = 10

    @property
    def published(self) -> Mapping[str, int]:
        return PUBLISHED[self.size]

    def check(self) -> None:
        super().check()
        check_files({"data.labels": self.labels})
        if self.vectors and self.size != "100k":
            raise SettingError(
                setting="data.vectors",
                value=[*self.vectors],
                problem=f"no vectors of {self.size} are published",
                hint="set data.vectors=[], and data.text_model to encode the titles",
            )
        if "text" in self.vectors and self.text_model is not None:
            raise SettingError(
                setting="data.text_model",
                value=self.text_model,
                problem="data.vectors has text features already",
                hint="leave text out of data.vectors, or set data.text_model=null",
            )
        if self.source_folder is not None and not expand(self.source_folder).is_dir():
            raise SettingError(
                setting="data.source_folder",
                value=self.source_folder,
                problem="there is no such folder",
            )

    def parse_key(self) -> list[str]:
        return self.key("source", "malformed_lines")

    def fetch(self, fetcher: Fetcher) -> dict[str, RawFile]:
        names = {"pairs": f"MicroLens-{self.size}_pairs.csv", "titles": TITLES[self.size]}
        names |= {f"vectors.{kind}": VECTORS[kind] for kind in self.vectors}
        if self.source_folder is None:
            return {role: self._download(fetcher, role, name) for role, name in names.items()}
        paths = {role: _existing(expand(self.source_folder), name) for role, name in names.items()}
        found = digests(paths.values())
        return {role: RawFile(path, found[path]) for role, path in paths.items()}

    def _download(self, fetcher: Fetcher, role: str, name: str) -> RawFile:
        folder = f"MicroLens-{self.size}-Dataset" + f"/{FEATURES}" * role.startswith("vectors.")
        urls = [f"{mirror.rstrip('/')}/{folder}/{name}" for mirror in self.mirrors]
        return fetcher.fetch(name, urls, self.sha256.get(name), PAGE)

    def read_interactions(self, files: Mapping[str, RawFile]) -> tuple[pl.DataFrame, Counts]:
        path = files["pairs"].path
        bad = Malformed(path, self.malformed_lines, "user, item and milliseconds")
        frame = read_delimited(below_header(blocks(path), path, PAIRS_CSV), ",", PAIR, bad)
        frame = frame.sort("time", maintain_order=True)  # also within a second
        return frame.with_columns(pl.col("time") // 1000), {"malformed_lines": bad.count}

    def read_items(
        self, files: Mapping[str, RawFile], ids: pl.Series
    ) -> tuple[pl.DataFrame, Counts]:
        path = files["titles"].path
        bad = Malformed(path, self.malformed_lines, "item and title")
        schema = dict.fromkeys(("id", "title"), pl.String)
        known = pl.DataFrame([*_titles(path, bad)], schema=schema, orient="row")
        frame, counts = in_order(ids, known)
        frame = frame.with_columns(clean_text(pl.col("title")))
        frame = frame.with_columns(text=pl.col("title"))
        return frame, {**counts, "malformed_lines": bad.count}

    def read_vectors(self, files: Mapping[str, RawFile], ids: pl.Series) -> dict[str, Vectors]:
        rows = ids.cast(pl.Int64, strict=False).fill_null(0).to_numpy() - 1
        found: dict[str, Vectors] = {}
        for kind in self.vectors:
            path = files[f"vectors.{kind}"].path
            matrix = open_matrix(path)
            beyond = int((rows >= len(matrix)).sum())
            if beyond:
                raise DataError(
                    file=shown(path),
                    found=f"{len(matrix)} rows, and {beyond} items of larger ids",
                    expected="row n of item n + 1",
                    hint="delete it, and download it again",
                )
            places = np.where(rows < 0, -1, rows)
            unused = len(matrix) - len(np.unique(places[places >= 0]))
            found[kind] = Vectors(matrix, places, shown(path), None, unused)
        return found


def _existing(folder: Path, name: str) -> Path:
    """The path of a file in a folder as downloaded, in which vectors may have their own folder."""
    path = next((p for p in (folder / name, folder / FEATURES / name) if p.is_file()), None)
    if path is None:
        raise DataError(
            file=folder / name,
            problem="it is not there",
            hint=f"download it from {PAGE}, or leave data.source_folder out",
        )
    check_beginning(path, PAGE)
    return path


def _titles(path: Path, bad: Malformed) -> Iterator[tuple[str, str]]:
    """Ids and titles; a title without quotes may have commas."""
    for number, row in csv_rows(blocks(path), path):
        item = row[0].removeprefix("\ufeff").strip()
        if item.isdecimal() and len(row) > 1:
            yield item, ",".join(row[1:])
        elif [item, *row[1:]] != ["item", "title"]:
            bad.add(number, ",".join(row).encode())
