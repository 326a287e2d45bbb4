"""Amazon reviews of 2023 (Hou et al., 2024): reviews, and metadata with addresses of pictures.

`<Category>.jsonl.gz` and `meta_<Category>.jsonl.gz` have a JSON object on each line. The file has
all reviews of the category; published 5-cores keep the first review of a user-item pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import polars as pl

from mmrec.data.prepare.amazon import AmazonReviews, first_url, path_of, text_of
from mmrec.data.prepare.base import Counts, RawFile

# Users, items and interactions of published 5-cores.
PUBLISHED = {
    "Industrial_and_Scientific": (50985, 25848, 412947),
    "Musical_Instruments": (57439, 24587, 511836),
    "Office_Products": (223308, 77551, 1800878),
    "Video_Games": (94762, 25612, 814586),
}
SIZES = ("large", "hi_res", "thumb")  # of a picture, in the order of preference


class Amazon2023(AmazonReviews):
    """A category of the Amazon reviews of 2023; an item is a product with all its variants."""

    page: ClassVar[str] = "https://amazon-reviews-2023.github.io/"
    file_names: ClassVar[Mapping[str, tuple[str, str]]] = {
        "reviews": ("review_categories", "{}.jsonl.gz"),
        "metadata": ("meta_categories", "meta_{}.jsonl.gz"),
    }
    review: ClassVar[Mapping[str, type[pl.DataType]]] = {
        "user_id": pl.String,
        "parent_asin": pl.String,
        "rating": pl.Float64,
        "timestamp": pl.Int64,
    }
    item_field: ClassVar[str] = "parent_asin"

    @property
    def known(self) -> Mapping[str, int]:
        filters = (self.min_rating, self.duplicates, self.k_core)
        if self.expected is not None or filters != (None, "pairs", 5):
            return super().known
        counts = PUBLISHED.get(self.category, ())
        return dict(zip(("users", "items", "interactions"), counts, strict=False))

    def read_interactions(self, files: Mapping[str, RawFile]) -> tuple[pl.DataFrame, Counts]:
        frame, counts = super().read_interactions(files)
        frame = frame.sort("time", maintain_order=True)  # also within a second
        return frame.with_columns(pl.col("time") // 1000), counts

    def details(self, record: Mapping[str, Any]) -> dict[str, str | None]:
        """Return texts, the category path, and the main picture."""
        listed = record.get("images")
        images = [
            image for image in (listed if isinstance(listed, list) else []) if type(image) is dict
        ]
        images.sort(key=lambda image: image.get("variant") != "MAIN")
        return {
            "title": text_of(record.get("title")),
            "brand": text_of(record.get("store")),
            "categories": path_of(record.get("categories")),
            "image_url": first_url(image.get(size) for image in images for size in SIZES),
            "features": text_of(record.get("features")),
            "description": text_of(record.get("description")),
        }
