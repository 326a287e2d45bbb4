"""Amazon reviews of 2018 (Ni et al., EMNLP 2019): reviews, and metadata with addresses of pictures.

`<Category>_5.json.gz` and `meta_<Category>.json.gz` have a JSON object on each line.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from mmrec.data.prepare.amazon import AmazonReviews, first_url, path_of, text_of

TAG = re.compile(r"<[a-zA-Z/!][^<>]*>")
SCRIPT = "getTime"  # in titles that are a script of the page instead


class Amazon2018(AmazonReviews):
    """A category of the Amazon reviews of 2018."""

    page: ClassVar[str] = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/"
    file_names: ClassVar[Mapping[str, tuple[str, str]]] = {
        "reviews": ("categoryFilesSmall", "{}_5.json.gz"),
        "metadata": ("metaFiles2", "meta_{}.json.gz"),
    }

    def details(self, record: Mapping[str, Any]) -> dict[str, str | None]:
        """Return texts without tags, the category path, and the largest picture."""
        names = record.get("category")
        path = [_plain(name) for name in names] if isinstance(names, list) else []
        title = text_of(record.get("title"))
        pictures = [record.get(name) for name in ("imageURLHighRes", "imageURL")]
        urls = [url for listed in pictures if isinstance(listed, list) for url in listed]
        return {
            "title": None if title is None or SCRIPT in title else _plain(title),
            "brand": _plain(text_of(record.get("brand"))),
            "categories": path_of([name for name in path if name]),
            "image_url": first_url(urls),
            "description": _plain(text_of(record.get("description"))),
        }


def _plain(text: object) -> str | None:
    """Text without tags and entities of HTML."""
    return html.unescape(TAG.sub(" ", text)).strip() if isinstance(text, str) else None
