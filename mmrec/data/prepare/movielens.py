"""MovieLens (Harper and Konstan, TiiS 2015): ratings, titles and genres in a zip archive.

`ml-1m.zip` has `ratings.dat` and `movies.dat` with `::` between values, in latin-1; `ml-32m.zip`
has `ratings.csv` and `movies.csv` with a header, in UTF-8.

Shape legend: I items, N interactions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import polars as pl
from annotated_types import Ge

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
    below_header,
    blocks,
    csv_rows,
    read_delimited,
    records,
)
from mmrec.data.prepare.numbering import Split

if TYPE_CHECKING:
    from mmrec.data.prepare.fetch import Fetcher

__all__ = ["Duplicates", "MovieLens", "Split"]  # the first and the last are annotations

PAGE = "https://grouplens.org/datasets/movielens/"
RATING = {"user": pl.String, "item": pl.String, "rating": pl.Float64, "time": pl.Int64}
RATINGS_CSV = ("userId", "movieId", "rating", "timestamp")
MOVIES_CSV = ("movieId", "title", "genres")
NO_GENRES = "(no genres listed)"
# What the files hold, as published; the movies of 32m are those with a rating or a tag.
PUBLISHED = {
    "1m": {"users": 6040, "items": 3706, "interactions": 1000209},
    "32m": {"users": 200948, "interactions": 32000204},
}


@dataclass(frozen=True, kw_only=True)
class MovieLens(RawData):
    """Ratings of movies, with titles and genres.

    Attributes:
        size: which of the data sets.
        mirrors: addresses of the folder of the archives, in the order of trying.
        sha256: known digests by file name; others are recorded at first use.
        malformed_lines: largest number of lines in a file that are left out as malformed.
    """

    size: Literal["1m", "32m"]
    mirrors: Sequence[str]
    sha256: Mapping[str, str] = field(default_factory=dict)
    malformed_lines: Annotated[int, Ge(0)] = 10

    @property
    def published(self) -> Mapping[str, int]:
        return PUBLISHED[self.size]

    def check(self) -> None:
        super().check()
        check_files({"data.labels": self.labels})

    def parse_key(self) -> list[str]:
        return self.key("source", "size", "malformed_lines")

    def fetch(self, fetcher: Fetcher) -> dict[str, RawFile]:
        name = f"ml-{self.size}.zip"
        urls = [f"{mirror.rstrip('/')}/{name}" for mirror in self.mirrors]
        return {"archive": fetcher.fetch(name, urls, self.sha256.get(name), PAGE)}

    def read_interactions(self, files: Mapping[str, RawFile]) -> tuple[pl.DataFrame, Counts]:
        path = files["archive"].path
        bad = Malformed(path, self.malformed_lines, "user, movie, rating and time")
        if self.size == "1m":
            frame = read_delimited(blocks(path, self._member("ratings.dat")), "::", RATING, bad)
        else:
            found = below_header(blocks(path, self._member("ratings.csv")), path, RATINGS_CSV)
            frame = read_delimited(found, ",", RATING, bad)
        return frame, {"malformed_lines": bad.count}

    def read_items(
        self, files: Mapping[str, RawFile], ids: pl.Series
    ) -> tuple[pl.DataFrame, Counts]:
        path = files["archive"].path
        bad = Malformed(path, self.malformed_lines, "movie, title and genres")
        rows = self._movies_dat(path, bad) if self.size == "1m" else self._movies_csv(path, bad)
        schema = dict.fromkeys(("id", "title", "categories"), pl.String)
        frame, counts = in_order(ids, pl.DataFrame([*rows], schema=schema, orient="row"))
        genres = pl.col("categories").replace(NO_GENRES, "")
        frame = frame.with_columns(genres).with_columns(clean_text(pl.col(pl.String)))
        words = pl.col("categories").str.replace_all("|", " ", literal=True)
        said = frame.with_columns(words).select(text=joined(["title", "categories"]))
        return frame.hstack(said), {**counts, "malformed_lines": bad.count}

    def _member(self, name: str) -> str:
        return f"ml-{self.size}/{name}"

    def _movies_dat(self, path: Path, bad: Malformed) -> Iterator[list[str]]:
        def parse(line: bytes) -> dict[str, Any]:
            values = line.decode("latin-1").strip().split("::")
            if len(values) != len(MOVIES_CSV):
                raise ValueError("another number of values")
            return dict(zip(MOVIES_CSV, values, strict=True))

        for number, block in blocks(path, self._member("movies.dat")):
            for record in records(number, block, parse, bad):
                yield [*record.values()]

    def _movies_csv(self, path: Path, bad: Malformed) -> Iterator[list[str]]:
        found = below_header(blocks(path, self._member("movies.csv")), path, MOVIES_CSV)
        for number, row in csv_rows(found, path):
            if len(row) == len(MOVIES_CSV):
                yield row
            else:
                bad.add(number, ",".join(row).encode())
