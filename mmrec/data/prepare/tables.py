"""Raw data from the user's own tables: interactions, items and given vectors.

Shape legend: I items, N interactions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import polars as pl
from annotated_types import Ge

from mmrec.config.errors import DataError, SettingError
from mmrec.config.paths import expand
from mmrec.data.assembly import Columns
from mmrec.data.files import digests
from mmrec.data.filters import Where, select_rows
from mmrec.data.ids import RENAME
from mmrec.data.item_details import item_columns
from mmrec.data.labels import labels
from mmrec.data.prepare import audio, images
from mmrec.data.prepare.base import (
    Counts,
    Places,
    RawData,
    RawFile,
    Vectors,
    check_files,
    clean_text,
    item_rows,
    joined,
    open_matrix,
)
from mmrec.data.prepare.filters import Duplicates
from mmrec.data.prepare.media import (
    FOLDERS,
    check_folder,
    folder_digest,
    named_by_column,
    named_by_id,
)
from mmrec.data.prepare.numbering import Split
from mmrec.data.tables import Column, read_table, shown
from mmrec.data.times import moments
from mmrec.tables.headers import DEFAULTS, check_columns

if TYPE_CHECKING:
    from mmrec.data.prepare.fetch import Fetcher

__all__ = ["Annotated", "Duplicates", "Ge", "Split", "Tables"]  # the first four are annotations
log = logging.getLogger(__name__)

TimeUnit = Literal["seconds", "milliseconds", "microseconds", "nanoseconds"]
PER_SECOND: dict[TimeUnit, int] = {
    "seconds": 1,
    "milliseconds": 10**3,
    "microseconds": 10**6,
    "nanoseconds": 10**9,
}
SUFFIXES = {"image": images.SUFFIXES, "audio": audio.SUFFIXES}
FEATURE = ("file", "ids")  # what is said about a modality


@dataclass(frozen=True, kw_only=True)
class TableColumns(Columns):
    """Names of columns, and those that only the preparation reads.

    Attributes:
        image: of the table of items: URLs of pictures, or names of files in the folder of pictures.
        audio: the same for recordings.
    """

    image: str | None = None
    audio: str | None = None


DEFAULT_COLUMNS = TableColumns()


@dataclass(frozen=True, kw_only=True)
class Tables(RawData):
    """Interactions, items and vectors from files of the user.

    Tables are delimited text or JSON lines, either also with `.gz`, or Parquet: a file, or a folder
    of files with the same columns.

    Attributes:
        interactions: path of the table of interactions.
        separator: of its text; None detects it.
        columns: names of columns; `title` and `categories` are those of the items.
        where: accepted values by column of the interactions; other rows are removed.
        time_unit: of times that are numbers; None tells it from the largest.
        items: path of a table of items.
        item_id: its column of item ids; None: the name in the interactions, or `itemID`.
        category_separator: between the categories of an item.
        text: columns of the items that an encoder reads, in this order; title and categories if it
            is empty.
        images: folder of pictures, for `image_model`; they are named by item id and a suffix, or
            `columns.image` names the file of each item.
        audio: folder of recordings, for `audio_model`; see `images` and `columns.audio`.
        audio_model: encodes the recordings of items: a model of transformers that reads sound, by
            its name on the Hugging Face Hub or a folder; None encodes none.
        features: per modality, `file` (an `.npy` of floats [rows, width]) and `ids` (a table whose
            column of item ids has a line for each row). Without `ids` the rows are those of the
            table of items.
    """

    interactions: str
    separator: str | None = None
    columns: TableColumns = DEFAULT_COLUMNS
    where: Where = field(default_factory=dict)
    time_unit: TimeUnit | None = None
    items: str | None = None
    item_id: str | None = None
    category_separator: str = "|"
    text: Sequence[str] = ()
    images: str | None = None
    audio: str | None = None
    audio_model: str | None = None
    features: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def check(self) -> None:
        super().check()
        for kind, given in self.features.items():
            if "file" not in given or not {*given} <= {*FEATURE}:
                raise SettingError(
                    setting=f"data.features.{kind}",
                    value=dict(given),
                    expected="file=<features>.npy and, unless its rows are those of data.items, "
                    "ids=<table>",
                )
            if "ids" not in given and self.items is None:
                raise SettingError(
                    setting=f"data.features.{kind}.ids",
                    problem="nothing says which item a row belongs to",
                    hint="give a table of item ids in the order of the rows, or data.items",
                )
        if self.items is None and (self.text or self.item_id):
            name = "text" if self.text else "item_id"
            raise SettingError(
                setting=f"data.{name}",
                value=self.text or self.item_id,
                problem="it names columns of data.items, which is not set",
                hint="set data.items to the table of items",
            )
        if self.text and self.text_model is None:
            raise SettingError(
                setting="data.text",
                value=[*self.text],
                problem="no encoder reads these columns",
                hint="set data.text_model, for example to sentence-transformers/all-MiniLM-L6-v2",
            )
        if self.text_model is not None and self.items is None:
            raise SettingError(
                setting="data.text_model",
                value=self.text_model,
                problem="there are no texts",
                hint="set data.items to the table of items",
            )
        for modality in FOLDERS:
            self._check_places(modality)
        check_files(
            {
                "data.interactions": self.interactions,
                "data.items": self.items,
                "data.labels": self.labels,
                **{
                    f"data.features.{kind}.{role}": path
                    for kind, given in self.features.items()
                    for role, path in given.items()
                },
            }
        )

    def models(self) -> dict[str, str | None]:
        return {**super().models(), "audio": self.audio_model}

    def _check_places(self, modality: str) -> None:
        """Refuse a model that has no files to read, and files that no model reads."""
        model, folder = self.models()[modality], self._folder(modality)
        column, setting = self._column(modality), f"data.columns.{modality}"
        if column is None or folder is not None:
            check_folder(modality, folder, model)
        if column is not None and model is None:
            raise SettingError(
                setting=setting,
                value=column,
                problem="no encoder reads these files",
                hint=f"set data.{modality}_model",
            )
        if column is not None and self.items is None:
            raise SettingError(
                setting=setting,
                value=column,
                problem="it is a column of data.items, which is not set",
                hint="set data.items to the table of items",
            )
        if model is not None and modality in self.features:
            raise SettingError(
                setting=f"data.{modality}_model",
                value=model,
                problem=f"data.features.{modality} gives the vectors",
                hint="leave one of them out",
            )

    def _folder(self, modality: str) -> str | None:
        return {"image": self.images, "audio": self.audio}[modality]

    def _column(self, modality: str) -> str | None:
        return {"image": self.columns.image, "audio": self.columns.audio}[modality]

    def parse_key(self) -> list[str]:
        rated = str(self.min_rating is not None)
        return [*self.key("source", "separator", "columns", "where", "time_unit", "split"), rated]

    def fetch(self, fetcher: Fetcher) -> dict[str, RawFile]:
        """Return the files, which are there."""
        names = {"interactions": self.interactions, "items": self.items}
        for kind, given in self.features.items():
            names |= {f"features.{kind}.{role}": path for role, path in given.items()}
        paths = {role: expand(name) for role, name in names.items() if name is not None}
        digest = digests(paths.values())
        found = {role: RawFile(path, digest[path]) for role, path in paths.items()}
        for modality, setting in FOLDERS.items():
            folder = self._folder(modality)
            if folder is not None:
                found[setting.removeprefix("data.")] = folder_digest(expand(folder))
        return found

    def read_interactions(self, files: Mapping[str, RawFile]) -> tuple[pl.DataFrame, Counts]:
        path = files["interactions"].path
        table = read_table(path, separator=self.separator, setting="data.separator")
        roles = asdict(self.columns)
        split = "leave_one_out" if self.split == "leave_one_out" else None
        header = table.frame.columns
        check_columns(shown(path), header, roles, split=split, min_rating=self.min_rating)
        wanted = ["user", "item", "time", "position", *["rating"] * (self.min_rating is not None)]
        wanted += ["label"] * (self.split == "given")
        found = table.columns(
            {role: roles[role] for role in wanted},
            optional=("time", "position", "label"),
            remedy=RENAME,
        )
        kept, _ = select_rows(
            self.name,
            table,
            found,
            where=self.where,
            min_rating=None,
            used=[column.name for column in found.values()],
        )
        for role in ("user", "item"):
            kept[role].reject(kept[role].values.is_null(), "an id; complete the line, or drop it")
        frame = pl.DataFrame({role: kept[role].text for role in ("user", "item")})
        if "rating" in kept:
            number = kept["rating"].values.cast(pl.Float64, strict=False)
            kept["rating"].reject(~number.is_finite(), "a number; correct the line, or drop it")
            frame = frame.with_columns(rating=number)
        if "label" in kept:
            frame = frame.with_columns(label=labels(kept["label"]))
        if "time" in kept:
            time, order = self._time(kept["time"])
            frame = frame.with_columns(time=time, order=order)
        elif "position" in kept:
            position = kept["position"].integers
            kept["position"].reject(position.is_null(), "an integer; number each user's rows")
            frame = frame.with_columns(order=position, position=position)
        if "order" in frame.columns:  # within a second, or within a user
            frame = frame.sort("order", maintain_order=True).drop("order")
        return frame, {"rows": len(table.frame)}

    def _time(self, column: Column) -> tuple[pl.Series, pl.Series]:
        """[N] seconds, and [N] numbers that order also within a second."""
        if self.time_unit is None or column.values.dtype in (pl.Date, pl.Datetime):
            return moments(column)
        number = column.values.cast(pl.Float64, strict=False)
        largest = 2.0**63
        bad = ~number.is_between(0, largest, closed="left")
        column.reject(bad, f"{self.time_unit} since 1970; correct data.time_unit, or the line")
        whole = column.integers
        order = whole if not whole.has_nulls() else number
        return (order // PER_SECOND[self.time_unit]).cast(pl.Int64), order

    def read_items(
        self, files: Mapping[str, RawFile], ids: pl.Series
    ) -> tuple[pl.DataFrame, Counts]:
        if "items" not in files:
            return ids.to_frame("id").select(), {}
        table = read_table(files["items"].path)
        roles = {"title": self.columns.title, "categories": self.columns.categories}
        optional = [role for role, name in roles.items() if name == role]
        more = {f"text:{name}": name for name in self.text}
        found = item_columns(table, self._item_id(), optional=optional, **roles, **more)
        rows, unused = item_rows(ids, found["item"].text)
        places = pl.Series(rows)
        places = places.set(places < 0, None)
        taken = {column.name for role, column in found.items() if role in ("item", *roles)}
        columns = {role: found[role].text for role in roles if role in found}
        for name in table.frame.columns:
            plain = name.split(":")[0]
            if name not in taken and plain not in (*columns, DEFAULTS["item"], "text"):
                columns[plain] = table.frame[name].cast(pl.String, strict=False)
        frame = pl.DataFrame({name: values.gather(places) for name, values in columns.items()})
        if "categories" in frame.columns:
            category = pl.col("categories").str.replace_all("|", "/", literal=True)
            if self.category_separator != "|":
                frame = frame.with_columns(
                    category.str.replace_all(self.category_separator, "|", literal=True)
                )
        read = [*more] or [role for role in roles if role in found]
        if read:
            texts = pl.DataFrame([found[role].text.gather(places).alias(role) for role in read])
            said = texts.select(joined(read).str.replace_all("|", " ", literal=True).alias("text"))
            frame = frame.hstack(said)
        frame = frame.with_columns(clean_text(pl.col(pl.String)))
        missing = int((rows < 0).sum())
        return frame, {"without_metadata": missing, "metadata_unused": unused}

    def _item_id(self) -> str:
        return self.columns.item if self.item_id is None else self.item_id

    def places(
        self, modality: str, files: Mapping[str, RawFile], ids: pl.Series, details: pl.DataFrame
    ) -> Places:
        """Return the files that are named by item id, or what a column of the items names."""
        folder, column = self._folder(modality), self._column(modality)
        home = None if folder is None else expand(folder)
        if column is not None:
            table = read_table(files["items"].path)
            found = item_columns(table, self._item_id(), **{modality: column})
            rows, _ = item_rows(ids, found["item"].text)
            places = pl.Series(rows)
            names = found[modality].text.gather(places.set(places < 0, None))
            return named_by_column(modality, home, names)
        if home is None:  # refused by `check`
            raise SettingError(setting=FOLDERS[modality], expected="a folder")
        return named_by_id(modality, home, ids, SUFFIXES[modality])

    def read_vectors(self, files: Mapping[str, RawFile], ids: pl.Series) -> dict[str, Vectors]:
        found = {}
        for kind in self.features:
            path = files[f"features.{kind}.file"].path
            matrix = open_matrix(path)
            listing = files.get(f"features.{kind}.ids") or files["items"]
            column = item_columns(read_table(listing.path), self._item_id())["item"]
            if len(column.values) != len(matrix):
                raise DataError(
                    file=shown(path),
                    found=f"{len(matrix)} rows",
                    expected=f"{len(column.values)}, one for each id in {shown(listing.path)}",
                    hint=f"give data.features.{kind}.ids, a table of item ids in the order of rows",
                )
            rows, unused = item_rows(ids, column.text)
            found[kind] = Vectors(matrix, rows, shown(path), None, unused)
        return found
