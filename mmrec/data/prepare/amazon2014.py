"""Amazon reviews of 2014 (McAuley et al., SIGIR 2015): reviews, metadata and image features.

`reviews_<Category>_5.json.gz` has a JSON object on each line, `meta_<Category>.json.gz` a Python
literal, and `image_features_<Category>.b` records of 10 bytes of item id and 4,096 float32.

Shape legend: I items, N interactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from annotated_types import Ge

from mmrec.config.bars import working
from mmrec.config.errors import DataError, SettingError
from mmrec.data.prepare.amazon import AmazonReviews, path_of, text_of
from mmrec.data.prepare.base import RawFile, Vectors, item_rows
from mmrec.data.prepare.filters import Duplicates
from mmrec.data.prepare.lines import literal_record
from mmrec.data.prepare.numbering import Split
from mmrec.data.tables import shown

if TYPE_CHECKING:
    from mmrec.data.prepare.fetch import Fetcher

# Some are annotations of settings.
__all__ = ["Amazon2014", "Annotated", "Duplicates", "Ge", "Sequence", "Split", "image_features"]

IMAGES = ("image_features/categoryFiles", "image_features_{}.b")
RECORD = np.dtype([("id", "S10"), ("features", "<f4", 4096)])


@dataclass(frozen=True, kw_only=True)
class Amazon2014(AmazonReviews):
    """A category of the Amazon reviews of 2014.

    Attributes:
        image_features: use the published image features, a large file.
        fill: `mean` gives items without an image the mean of all others, as in the published sets;
            None makes them missing.
    """

    image_features: bool = True
    fill: Literal["mean"] | None = None

    page: ClassVar[str] = "http://jmcauley.ucsd.edu/data/amazon/links.html"
    file_names: ClassVar[Mapping[str, tuple[str, str]]] = {
        "reviews": ("categoryFiles", "reviews_{}_5.json.gz"),
        "metadata": ("categoryFiles", "meta_{}.json.gz"),
    }

    @property
    def floor_split(self) -> bool:
        """The published splits round a fifth of a user's interactions down."""
        return True

    def check(self) -> None:
        super().check()
        if self.image_features and self.image_model is not None:
            raise SettingError(
                setting="data.image_model",
                value=self.image_model,
                problem="the published image features are the modality image",
                hint="leave them out with data.image_features=false",
            )

    def fetch(self, fetcher: Fetcher) -> dict[str, RawFile]:
        found = super().fetch(fetcher)
        return found | (
            {"images": self.fetch_file(fetcher, *IMAGES)} if self.image_features else {}
        )

    def parse_metadata(self, line: bytes) -> dict[str, Any]:
        return literal_record(line)

    def details(self, record: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the first of the category paths, and texts."""
        paths = record.get("categories")
        texts = {"title": "title", "brand": "brand", "image_url": "imUrl"}
        texts["description"] = "description"
        return {
            "categories": path_of(paths[0]) if isinstance(paths, list) and paths else "",
            **{column: text_of(record.get(name)) for column, name in texts.items()},
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
