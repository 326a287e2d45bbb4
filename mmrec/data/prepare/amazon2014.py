"""Amazon reviews of 2014 (McAuley et al., SIGIR 2015): reviews, metadata and image features.

`reviews_<Category>_5.json.gz` has a JSON object on each line, `meta_<Category>.json.gz` a Python
literal, and `image_features_<Category>.b` records of 10 bytes of item id and 4,096 float32.

Shape legend: I items, N interactions.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from annotated_types import Ge

from mmrec.config.bars import working
from mmrec.config.errors import DataError, SettingError
from mmrec.data.prepare.base import (
    Counts,
    RawData,
    RawFile,
    Vectors,
    check_files,
    clean_text,
    item_rows,
    joined,
)
from mmrec.data.prepare.filters import Duplicates
from mmrec.data.prepare.lines import Malformed, blocks, json_record, literal_record, records
from mmrec.data.prepare.numbering import Split
from mmrec.data.tables import shown

if TYPE_CHECKING:
    from mmrec.data.prepare.fetch import Fetcher

__all__ = ["Amazon2014", "Duplicates", "Split"]  # the last two are annotations of settings
log = logging.getLogger(__name__)

PAGE = "http://jmcauley.ucsd.edu/data/amazon/links.html"
FILES = {
    "reviews": ("categoryFiles", "reviews_{}_5.json.gz"),
    "metadata": ("categoryFiles", "meta_{}.json.gz"),
    "images": ("image_features/categoryFiles", "image_features_{}.b"),
}
RECORD = np.dtype([("id", "S10"), ("features", "<f4", 4096)])
REVIEW = {
    "reviewerID": pl.String,
    "asin": pl.String,
    "overall": pl.Float64,
    "unixReviewTime": pl.Int64,
}
ASIN = re.compile(rb"""['"]asin['"]: ?['"]([^'"]*)['"]""")


@dataclass(frozen=True, kw_only=True)
class Amazon2014(RawData):
    """A category of the Amazon reviews of 2014.

    Attributes:
        category: as file names spell it, for example `Baby`.
        mirrors: addresses of the folder that holds `categoryFiles`, in the order of trying.
        sha256: known digests by file name; others are recorded at first use.
        images: use the image features, a large file.
        fill: `mean` gives items without an image the mean of all others, as in the published sets;
            None makes them missing.
        malformed_lines: largest number of lines in a file that are left out as malformed.
    """

    category: str
    mirrors: Sequence[str]
    sha256: Mapping[str, str] = field(default_factory=dict)
    images: bool = True
    fill: Literal["mean"] | None = None
    malformed_lines: Annotated[int, Ge(0)] = 10

    @property
    def floor_split(self) -> bool:
        """The published splits round a fifth of a user's interactions down."""
        return True

    def check(self) -> None:
        super().check()
        if self.images and self.image_model is not None:
            raise SettingError(
                setting="data.image_model",
                value=self.image_model,
                problem="the published image features are the modality image",
                hint="leave them out with data.images=false",
            )
        check_files({"data.labels": self.labels})

    def parse_key(self) -> list[str]:
        return self.key("source", "malformed_lines")

    def fetch(self, fetcher: Fetcher) -> dict[str, RawFile]:
        found = {}
        for role, (folder, pattern) in FILES.items():
            if role == "images" and not self.images:
                continue
            name = pattern.format(self.category)
            urls = [f"{mirror.rstrip('/')}/{folder}/{name}" for mirror in self.mirrors]
            found[role] = fetcher.fetch(name, urls, self.sha256.get(name), PAGE)
        return found

    def read_interactions(self, files: Mapping[str, RawFile]) -> tuple[pl.DataFrame, Counts]:
        path = files["reviews"].path
        if (whole := _whole(path)) is not None:
            return whole, {"malformed_lines": 0}
        bad = Malformed(
            path, self.malformed_lines, "a review with reviewerID, asin, overall, unixReviewTime"
        )
        frames = [_reviews(number, block, bad) for number, block in blocks(path)]
        if not frames or not sum(map(len, frames)):
            raise DataError(file=shown(path), problem="no review in it", hint="download it again")
        frame = pl.concat(frames)
        return frame, {"malformed_lines": bad.count}

    def read_items(
        self, files: Mapping[str, RawFile], ids: pl.Series
    ) -> tuple[pl.DataFrame, Counts]:
        path = files["metadata"].path
        bad = Malformed(path, self.malformed_lines, "a Python literal of a dictionary with asin")
        wanted = {name.encode() for name in ids}
        others = 0

        def parse(line: bytes) -> dict[str, Any] | None:
            nonlocal others
            # Most lines are of items that the filters removed, and parsing takes the time.
            if (named := ASIN.search(line)) and named[1] not in wanted:
                others += 1
                return None
            record = literal_record(line)
            if not isinstance(record.get("asin"), str):
                raise ValueError("no asin")
            return record

        items = [
            _details(record)
            for number, block in blocks(path)
            for record in records(number, block, parse, bad)
        ]
        schema = dict.fromkeys(("id", "title", "brand", "categories", "image_url"), pl.String)
        known = pl.DataFrame(items, schema={**schema, "description": pl.String})
        known = known.unique("id", keep="first", maintain_order=True)
        frame = ids.to_frame("id").join(known, on="id", how="left", maintain_order="left")
        missing = len(ids) - known["id"].is_in(ids.implode()).sum()
        category = pl.col("categories").str.replace_all("|", " ", literal=True)
        said = frame.with_columns(category).select(
            text=joined(["title", "brand", "categories", "description"])
        )
        frame = frame.drop("id", "description").hstack(said)
        frame = frame.with_columns(clean_text(pl.col(pl.String)))
        return frame, {
            "without_metadata": int(missing),
            "metadata_unused": others,
            "malformed_lines": bad.count,
        }

    def read_vectors(self, files: Mapping[str, RawFile], ids: pl.Series) -> dict[str, Vectors]:
        if "images" not in files:
            return {}
        path = files["images"].path
        matrix, listed = image_features(path)
        rows, unused = item_rows(ids, listed)
        return {"image": Vectors(matrix, rows, shown(path), self.fill, unused)}


def image_features(path: Path) -> tuple[npt.NDArray[np.float32], pl.Series]:
    """Open image features as a memory map.

    Returns:
        [M, 4096] features, and [M] item ids.

    Raises:
        DataError: the file is empty or ends inside a record, or an id is not text.
    """
    size = path.stat().st_size
    whole, rest = divmod(size, RECORD.itemsize)
    if rest or not whole:
        raise DataError(
            file=shown(path),
            row=whole,
            found=f"{rest} bytes of a record" if rest else "an empty file",
            expected=f"records of {RECORD.itemsize} bytes",
            hint="the file is incomplete; delete it, and download it again",
        )
    records = np.memmap(path, dtype=RECORD, mode="r")
    with working(f"item ids of {path.name}"):
        try:
            listed = pl.Series(np.char.decode(np.array(records["id"]), "ascii").tolist())
        except UnicodeDecodeError as error:
            raise DataError(
                file=shown(path),
                problem=f"an item id is not text ({error.reason})",
                expected="records of 10 bytes of item id and 4096 float32",
                hint="delete the file, and download it again",
            ) from error
    return records["features"], listed


def _whole(path: Path) -> pl.DataFrame | None:
    """All reviews of a file without malformed lines; None if it has some, or is damaged."""
    try:
        frame = pl.scan_ndjson(path, schema=REVIEW).collect()
    except (OSError, pl.exceptions.PolarsError):
        return None
    if frame.is_empty() or frame.null_count().sum_horizontal().item():
        return None
    return _named(frame)


def _named(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.rename(dict(zip(REVIEW, ("user", "item", "rating", "time"), strict=True)))


def _reviews(first: int, block: bytes, bad: Malformed) -> pl.DataFrame:
    """The reviews of a block; fast if every line is one, else line by line."""
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    try:
        frame = pl.read_ndjson(io.BytesIO(block), schema=REVIEW)
    except pl.exceptions.PolarsError:
        frame = pl.DataFrame(schema=REVIEW)
    if frame.height != lines or frame.null_count().sum_horizontal().item():
        rows = [*records(first, block, _review, bad)]
        frame = pl.DataFrame(rows, schema=REVIEW)
    return _named(frame)


def _review(line: bytes) -> dict[str, Any]:
    record = json_record(line)
    found = {name: record.get(name) for name in REVIEW}
    user, item, rating, seconds = found.values()
    texts = isinstance(user, str) and isinstance(item, str) and user and item
    numbers = isinstance(rating, int | float) and isinstance(seconds, int)
    if not (texts and numbers):
        raise ValueError("not a review")
    return found


def _details(record: Mapping[str, Any]) -> dict[str, str | None]:
    """What is kept of an item: the first of its category paths, and texts."""
    paths = record.get("categories")
    path = paths[0] if isinstance(paths, list) and paths and isinstance(paths[0], list) else []

    def text(name: str) -> str | None:
        value = record.get(name)
        return value if isinstance(value, str) else None

    return {
        "id": record["asin"],
        "title": text("title"),
        "brand": text("brand"),
        "categories": "|".join(str(name).replace("|", "/") for name in path),
        "image_url": text("imUrl"),
        "description": text("description"),
    }
