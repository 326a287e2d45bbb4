"""What all releases of the Amazon reviews share: reviews and metadata, an object on each line.

Shape legend: I items, N interactions.
"""

from __future__ import annotations

import io
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import polars as pl
import polars.selectors as cs
from annotated_types import Ge

from mmrec.config.errors import SettingError
from mmrec.data.prepare.base import (
    Counts,
    RawData,
    RawFile,
    check_files,
    clean_text,
    in_order,
    joined,
)
from mmrec.data.prepare.filters import Duplicates
from mmrec.data.prepare.lines import (
    Malformed,
    all_finite,
    blocks,
    fitting,
    json_record,
    read_frame,
    records,
)
from mmrec.data.prepare.numbering import Split

if TYPE_CHECKING:
    from mmrec.data.prepare.fetch import Fetcher

__all__ = ["AmazonReviews", "Duplicates", "Split"]  # the last two are annotations of settings

ROLES = ("user", "item", "rating", "time")
DETAILS = ("title", "brand", "categories", "image_url")  # columns of items.csv
READ = ("title", "brand", "categories", "features", "description")  # by an encoder


@dataclass(frozen=True, kw_only=True)
class AmazonReviews(RawData):
    """A category of Amazon reviews.

    Class attributes:
        page: where a person finds the files.
        file_names: folder and name of each file by role, below a mirror.
        review: fields of a review in the order of `ROLES`, and their types.
        item_field: field of metadata with the id of an item.

    Attributes:
        category: as file names spell it, for example `Baby`.
        mirrors: addresses of the folder of the files, in the order of trying.
        sha256: known digests by file name; others are recorded at first use.
        malformed_lines: largest number of lines in a file that are left out as malformed.
    """

    category: str
    mirrors: Sequence[str]
    sha256: Mapping[str, str] = field(default_factory=dict)
    malformed_lines: Annotated[int, Ge(0)] = 10

    page: ClassVar[str]
    file_names: ClassVar[Mapping[str, tuple[str, str]]]
    review: ClassVar[Mapping[str, type[pl.DataType]]] = {
        "reviewerID": pl.String,
        "asin": pl.String,
        "overall": pl.Float64,
        "unixReviewTime": pl.Int64,
    }
    item_field: ClassVar[str] = "asin"

    @abstractmethod
    def details(self, record: Mapping[str, Any]) -> dict[str, str | None]:
        """Return what is kept of an item: columns of `DETAILS` and `READ`."""

    def parse_metadata(self, line: bytes) -> dict[str, Any]:
        """Return a line of metadata as an object; raise ValueError if it is none."""
        return json_record(line)

    def check(self) -> None:
        super().check()
        check_files({"data.labels": self.labels})

    def parse_key(self) -> list[str]:
        return self.key("source", "malformed_lines")

    def fetch(self, fetcher: Fetcher) -> dict[str, RawFile]:
        return {
            role: self.fetch_file(fetcher, folder, pattern)
            for role, (folder, pattern) in self.file_names.items()
        }

    def fetch_file(self, fetcher: Fetcher, folder: str, pattern: str) -> RawFile:
        """Download a file if it is missing.

        Args:
            fetcher: downloads it.
            folder: below a mirror.
            pattern: of its name, with the category in place of `{}`.
        """
        if Path(self.category).name != self.category:
            raise SettingError(
                setting="data.category", value=self.category, expected="the name of a category"
            )
        name = pattern.format(self.category)
        urls = [f"{mirror.rstrip('/')}/{folder}/{name}" for mirror in self.mirrors]
        return fetcher.fetch(name, urls, self.sha256.get(name), self.page)

    def read_interactions(self, files: Mapping[str, RawFile]) -> tuple[pl.DataFrame, Counts]:
        path = files["reviews"].path
        bad = Malformed(path, self.malformed_lines, f"a review with {', '.join(self.review)}")
        if (frame := self._whole(path)) is None:
            frame = read_frame(blocks(path), self._reviews, self._review, self.review, bad)
        frame = frame.rename(dict(zip(self.review, ROLES, strict=True)))
        return frame, {"malformed_lines": bad.count}

    def _whole(self, path: Path) -> pl.DataFrame | None:
        """All reviews of a file without malformed lines; None if it has some, or is damaged."""
        try:
            frame = pl.scan_ndjson(path, schema=self.review).collect()
        except (OSError, pl.exceptions.PolarsError):
            return None
        if frame.is_empty() or frame.null_count().sum_horizontal().item():
            return None
        return frame if self._are_reviews(frame) else None

    def _reviews(self, block: bytes) -> pl.DataFrame:
        frame = pl.read_ndjson(io.BytesIO(block), schema=self.review)
        return frame if self._are_reviews(frame) else frame.clear()

    def _are_reviews(self, frame: pl.DataFrame) -> bool:
        """Whether ids are texts; polars reads lists and objects as their JSON."""
        ids = cs.string()
        strange = ((ids == "") | ids.str.contains(r"^[\[{]")).any()
        return all_finite(frame) and not frame.select(pl.any_horizontal(strange)).item()

    def _review(self, line: bytes) -> dict[str, Any]:
        record = json_record(line)
        found = {name: record.get(name) for name in self.review}
        user, item, rating, time = found.values()
        texts = isinstance(user, str) and isinstance(item, str) and user and item
        numbers = isinstance(rating, int | float) and isinstance(time, int)
        if not (texts and numbers):
            raise ValueError("not a review")
        return {name: fitting(value) for name, value in found.items()}

    def read_items(
        self, files: Mapping[str, RawFile], ids: pl.Series
    ) -> tuple[pl.DataFrame, Counts]:
        path = files["metadata"].path
        bad = Malformed(path, self.malformed_lines, f"an object with {self.item_field}")
        wanted = {name.encode() for name in ids}
        named = re.compile(rf"""['"]{self.item_field}['"]: ?['"]([^'"]*)['"]""".encode())
        others = 0

        def parse(line: bytes) -> dict[str, Any] | None:
            nonlocal others
            # Most lines are of items that the filters removed, and parsing takes the time.
            if (match := named.search(line)) and match[1] not in wanted:
                others += 1
                return None
            record = self.parse_metadata(line)
            if not isinstance(record.get(self.item_field), str):
                raise ValueError(f"no {self.item_field}")
            return record

        items = [
            {"id": record[self.item_field], **self.details(record)}
            for number, block in blocks(path)
            for record in records(number, block, parse, bad)
        ]
        schema = dict.fromkeys(["id", *DETAILS, *READ], pl.String)
        frame, counts = in_order(ids, pl.DataFrame(items, schema=schema))
        category = pl.col("categories").str.replace_all("|", " ", literal=True)
        said = frame.with_columns(category).select(text=joined(READ))
        frame = frame.select(DETAILS).hstack(said).with_columns(clean_text(pl.col(pl.String)))
        counts["metadata_unused"] += others
        return frame, {**counts, "malformed_lines": bad.count}


def text_of(value: object) -> str | None:
    """Return a text, or the texts of a list separated by blanks; None if there is none."""
    if isinstance(value, list):
        value = " ".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) and value else None


def path_of(value: object) -> str:
    """Return the names of categories, separated by `|`."""
    names = value if isinstance(value, list) else []
    return "|".join(str(name).replace("|", "/") for name in names)


def first_url(values: Iterable[object]) -> str | None:
    """Return the first address among values."""
    return next(
        (url for url in values if isinstance(url, str) and url.startswith(("http:", "https:"))),
        None,
    )
