"""Sources of raw data, and the settings that all of them share.

Shape legend: I items, N interactions, F width of a modality.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import polars as pl
from annotated_types import Ge

from mmrec.config.errors import DataError, SettingError
from mmrec.config.paths import data_root, expand
from mmrec.config.text import printable
from mmrec.data.filters import check_filters
from mmrec.data.prepare.filters import Duplicates
from mmrec.data.prepare.numbering import Split
from mmrec.data.tables import reading, shown
from mmrec.tables.shards import is_table, shards

if TYPE_CHECKING:
    from mmrec.data.prepare.fetch import Fetcher

Counts = dict[str, Any]
# Settings that change no byte of the data: digests of files say where they differ.
NOT_CONTENT = ("mirrors", "expected", "source_folder", "page", "connections", "rate")
# Settings of all sources that change no detail of an item.
NOT_ITEMS = (
    *(*NOT_CONTENT, "name", "min_rating", "duplicates", "k_core"),
    *("split", "split_seed", "labels", "text_model", "image_model", "audio_model", "precision"),
    *("images", "audio"),
)
URL = r"(?i)^https?://"
PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class RawFile:
    """A file that a data set is made from, or a folder of files.

    Attributes:
        path: where it is.
        sha256: of its content; of a folder, a hash of its names and contents.
        url: where it was downloaded from; None: it was there.
    """

    path: Path
    sha256: str
    url: str | None = None

    @property
    def size(self) -> int:
        """Number of bytes, of a folder of all files in it."""
        files = shards(self.path) or [self.path, *self.path.rglob("*")]
        return sum(file.stat().st_size for file in files if file.is_file())


@dataclass(frozen=True)
class Places:
    """Where the pictures or recordings of items are.

    Attributes:
        found: [I] path or URL; empty for an item without one.
        without: why items have none, and how many.
        unused: files that no item has.
    """

    found: pl.Series
    without: Mapping[str, int]
    unused: int = 0


@dataclass(frozen=True)
class Vectors:
    """Features of a modality in the order of their file.

    Attributes:
        matrix: [M, F] floats, memory-mapped.
        rows: [I] row of each item in the matrix, -1 where it has none.
        file: as messages name it.
        fill: `mean` gives items without a row the mean of all others, None makes them missing.
        unused: rows of the matrix that no item has.
    """

    matrix: npt.NDArray[Any]
    rows: npt.NDArray[np.int64]
    file: str
    fill: str | None
    unused: int


@dataclass(frozen=True, kw_only=True)
class RawData(ABC):
    """Where interactions and content come from, and the settings that all sources share.

    Attributes:
        name: of the data set and of its folder.
        root: folder of data sets; None: `MMREC_DATA`, else `./data`.
        min_rating: interactions with a lower rating are removed.
        duplicates: which repeated rows are removed: `exact` (same user, item and time), `pairs`
            (all but the earliest of each user-item pair) or none (`keep`).
        k_core: users and items with fewer pairs are removed, until none has fewer; 0 keeps all.
        split: `random_per_user`, `leave_one_out`, `given` (a column of labels) or `none`.
        split_seed: of `random_per_user`.
        labels: a published table of the same interactions with labels (`x_label`), which replace
            the split.
        text_model: encodes the texts of items: a model of sentence-transformers or transformers by
            its name on the Hugging Face Hub or a folder, with `clip:` or `siglip:` before it for
            those of pictures and texts; None makes no text features.
        image_model: encodes the pictures of items: `timm:`, `clip:` or `siglip:` and a name on the
            Hugging Face Hub or a folder; None encodes none.
        precision: of the weights and activations of encoders, `float32`, `float16` or `bfloat16`;
            the features are float32.
        connections: largest number of files that are downloaded from URLs at the same time.
        rate: largest number of such requests in a second; None: no limit.
        expected: known numbers of users, items and interactions after filtering.
    """

    name: str
    root: str | None = None
    min_rating: float | None = None
    duplicates: Duplicates = "exact"
    k_core: Annotated[int, Ge(0)] = 0
    split: Split = "random_per_user"
    split_seed: int = 0
    labels: str | None = None
    text_model: str | None = None
    image_model: str | None = None
    precision: str = "float32"
    connections: Annotated[int, Ge(1)] = 8
    rate: Annotated[float, Ge(0.01)] | None = None
    expected: Mapping[str, int] | None = None

    @abstractmethod
    def fetch(self, fetcher: Fetcher) -> dict[str, RawFile]:
        """Download what is missing; return all files by their role."""

    @abstractmethod
    def read_interactions(self, files: Mapping[str, RawFile]) -> tuple[pl.DataFrame, Counts]:
        """Return `user` and `item` as text [N], perhaps `time`, `rating`, `label`, and counts."""

    @abstractmethod
    def read_items(
        self, files: Mapping[str, RawFile], ids: pl.Series
    ) -> tuple[pl.DataFrame, Counts]:
        """Return the details of items [I] in the order of their ids, and counts.

        Columns are text. `title` and `categories` (separated by `|`) are known to readers; `text`
        is what an encoder reads and is not written to `items.csv`.
        """

    def read_vectors(self, files: Mapping[str, RawFile], ids: pl.Series) -> dict[str, Vectors]:
        """Return features by modality, for the items with these ids; by default none."""
        return {}

    def id_orders(self, files: Mapping[str, RawFile]) -> dict[str, pl.Series]:
        """Return ids of users (`user`) and items (`item`) in the order of their numbers.

        By default they are numbered by their first appearance.
        """
        return {}

    def more_tables(self, files: Mapping[str, RawFile], ids: pl.Series) -> dict[str, pl.DataFrame]:
        """Return further tables of the folder by file name, for the items with these ids."""
        return {}

    def models(self) -> dict[str, str | None]:
        """Return the settings that name models, by modality."""
        return {"text": self.text_model, "image": self.image_model}

    def places(
        self, modality: str, files: Mapping[str, RawFile], ids: pl.Series, details: pl.DataFrame
    ) -> Places:
        """Return where the pictures or recordings of items are: URLs in a column of the details.

        Args:
            modality: `image` reads the column `image_url`, `audio` the column `audio_url`.
            files: by role.
            ids: [I] of the items.
            details: as `read_items` returns them.
        """
        name = f"{modality}_url"
        listed = details[name] if name in details.columns else pl.Series([""] * len(ids))
        found = pl.select(pl.when(listed.str.contains(URL)).then(listed).otherwise(pl.lit("")))
        return Places(found.to_series(), {"no_name": int((found.to_series() == "").sum())})

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            SettingError: names the setting.
        """
        check_filters(self.k_core, self.min_rating)
        if self.precision not in PRECISIONS:
            raise SettingError(
                setting="data.precision", value=self.precision, expected=" or ".join(PRECISIONS)
            )
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise SettingError(
                setting="data.name", value=self.name, expected="the name of a folder, as shop"
            )
        if self.labels is not None and self.split == "none":
            raise SettingError(
                setting="data.labels",
                value=self.labels,
                problem="data.split=none writes no labels",
                hint="leave one of them out",
            )

    @property
    def folder(self) -> Path:
        """The folder that is written."""
        return (data_root() if self.root is None else expand(self.root)) / self.name

    @property
    def known(self) -> Mapping[str, int]:
        """Published numbers of users, items and interactions after filtering; may be empty."""
        return self.expected or {}

    @property
    def published(self) -> Mapping[str, int]:
        """Published numbers of users, items and interactions in the files; may be empty."""
        return {}

    @property
    def floor_split(self) -> bool:
        """Whether a fifth of a user's interactions is rounded down, see `random_per_user`."""
        return False

    def parse_key(self) -> list[str]:
        """Return what decides how files become interactions, as text."""
        return self.key("source")

    def items_key(self) -> list[str]:
        """Return what decides about the details of given items, as text."""
        return self.key(*(name for name in self.settings() if name not in NOT_ITEMS))

    def settings(self) -> dict[str, Any]:
        """Return the settings by name, for the manifest."""
        settings = {"source": type(self).__name__, **asdict(self)}
        return {name: value for name, value in settings.items() if name != "root"}

    def key(self, *groups: str) -> list[str]:
        """Return the settings that decide about the result, as text.

        Args:
            groups: names of settings; none: all.
        """
        settings = self.settings()
        names = groups or [name for name in settings if name not in NOT_CONTENT]
        return [f"{name}={settings[name]!r}" for name in names]


def clean_text(column: pl.Expr) -> pl.Expr:
    """Text on one line: control characters and runs of white space become single blanks."""
    return column.str.replace_all(r"[\p{Cc}\s]+", " ").str.strip_chars().fill_null("")


def check_files(settings: Mapping[str, str | None]) -> None:
    """Refuse paths of files that do not exist.

    Args:
        settings: paths by the setting that holds them, also of folders of Parquet files; None is no
            file.

    Raises:
        SettingError: names the first.
    """
    for setting, name in settings.items():
        if name is not None and not is_table(expand(name)):
            folder = expand(name).is_dir()
            problem = "it is a folder without Parquet files" if folder else "there is no such file"
            raise SettingError(
                setting=setting,
                value=printable(name),
                problem=problem,
                hint="give the path of a file, absolute or from the working directory",
            )


def item_rows(ids: pl.Series, listed: pl.Series) -> tuple[npt.NDArray[np.int64], int]:
    """Find items in a list of ids.

    Args:
        ids: [I] of the items.
        listed: [M] ids in the order of a file; of a repeated one the first counts.

    Returns:
        [I] the place of each item in the list, -1 where it is missing, and the number of ids in
        the list that no item has.
    """
    places = pl.DataFrame({"id": listed.cast(pl.String), "place": range(len(listed))})
    places = places.unique("id", keep="first", maintain_order=True)
    found = ids.to_frame("id").join(places, on="id", how="left", maintain_order="left")["place"]
    used = len(found) - found.null_count()
    return found.fill_null(-1).cast(pl.Int64).to_numpy(), places.height - used


def open_matrix(path: Path) -> npt.NDArray[Any]:
    """Open features [M, F] as a memory map; pickled objects are refused.

    Raises:
        DataError: the file is damaged, or has no floats of this shape.
    """
    with reading(path):
        matrix = np.lib.format.open_memmap(path, mode="r")
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.size:
        raise DataError(
            file=shown(path),
            found=f"{matrix.dtype} of shape {list(matrix.shape)}",
            expected="floats of shape [rows, width]",
        )
    return matrix


def in_order(ids: pl.Series, known: pl.DataFrame) -> tuple[pl.DataFrame, Counts]:
    """Bring details of items into the order of their ids.

    Args:
        ids: [I] of the items.
        known: [M] details with the column `id`; of a repeated one the first counts.

    Returns:
        [I] details without `id`, null where an item has none, and how many ids are on one side
        only.
    """
    rows, unused = item_rows(ids, known["id"])
    places = pl.Series(rows)
    frame = known.drop("id").select(pl.all().gather(places.set(places < 0, None)))
    return frame, {"without_metadata": int((rows < 0).sum()), "metadata_unused": unused}


def joined(columns: Sequence[str]) -> pl.Expr:
    """The texts of several columns, separated by blanks; missing ones are left out."""
    return clean_text(
        pl.concat_str([pl.col(name).fill_null("") for name in columns], separator=" ")
    )


def json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is none, or a damaged one."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
