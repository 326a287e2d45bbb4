"""Files of a data set: columns of tables, feature matrices as memory maps, content hashes.

Hashing and scanning happen once per content; what they find is kept in the cache folder.

Shape legend: I items, N rows of a table.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from mmrec.data.corpus import DataError, Modality
from mmrec.paths import cache_dir, replace_file
from mmrec.results import first_line

log = logging.getLogger(__name__)

FEATURES = "_feat.npy"
SEPARATORS = "\t,;"
BLOCK = 2**22  # values of a feature matrix that are looked at together


def shown(path: Path) -> str:
    """A file as messages name it: data set and file."""
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong while the block reads the file becomes a DataError that names it."""
    try:
        yield
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        if path.is_dir():
            reason = "it is a folder"
        else:
            reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(
            f"{shown(path)}: cannot be read ({reason}); "
            "check that the file is complete, of the kind its name says, and readable"
        ) from error


@contextmanager
def _caching(path: Path) -> Iterator[Path]:
    """A new file to write, which takes its place in the cache once the block has succeeded."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as part:
            yield part
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); "
            "set MMREC_CACHE to a folder with room that can be written"
        ) from error


@dataclass(frozen=True)
class Column:
    """One column of a file, which knows where its values stand.

    Attributes:
        path: of the file.
        name: in the file.
        values: [N] text, or what a Parquet file says.
        rows: [N] row of each value in the file; None: all rows in order.
    """

    path: Path
    name: str
    values: pl.Series
    rows: pl.Series | None = None

    @cached_property
    def integers(self) -> pl.Series:
        """[N] int64; null where the value is not written as an integer (017 and 17.0 are text)."""
        numbers = self.values.cast(pl.Int64, strict=False)
        if self.values.dtype.is_integer():
            return numbers
        written = numbers.cast(pl.String) == self.text
        return pl.select(pl.when(written).then(numbers)).to_series()

    @cached_property
    def text(self) -> pl.Series:
        """[N] as it is written."""
        return self.values.cast(pl.String)

    def take(self, rows: pl.Series) -> Column:
        """Select rows by index [M]; errors still name their line in the file."""
        kept = rows if self.rows is None else self.rows.gather(rows)
        return Column(self.path, self.name, self.values.gather(rows), kept)

    def reject(self, bad: pl.Series, expected: str) -> None:
        """Raises a DataError about the first row where `bad` [N] is true or null, if there is one.

        Args:
            bad: the rows that cannot be right.
            expected: what should stand there, and what to do.
        """
        if not (bad := bad.fill_null(True)).any():
            return
        index = int(bad.arg_true()[0])
        row = index if self.rows is None else int(self.rows[index])
        place = f"row {row}" if self.path.suffix == ".parquet" else f"line {row + 2}"
        value = "empty" if self.values[index] is None else self.text[index]
        raise DataError(f"{shown(self.path)}, {place}: {self.name} is {value}, expected {expected}")


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Attributes:
        path: of the file.
        frame: its content.
    """

    path: Path
    frame: pl.DataFrame

    def columns(
        self, names: Mapping[str, str], *, optional: Collection[str] = (), remedy: str
    ) -> dict[str, Column]:
        """The columns that play the given roles, by role.

        Args:
            names: a column for each role; a type as in `user_id:token` may be left out.
            optional: roles that the file may lack.
            remedy: what to do about a missing column; `{role}`, `{name}` and `{nearest}` stand for
                its role, its name, and the name in the file that is most like it.

        Raises:
            DataError: a column is missing.
        """
        header = {name.split(":")[0]: name for name in self.frame.columns}
        found = {}
        for role, name in names.items():
            match = name if name in self.frame.columns else header.get(name.split(":")[0])
            if match is not None:
                found[role] = Column(self.path, match, self.frame[match])
            elif role not in optional:
                near = difflib.get_close_matches(name, header, n=3, cutoff=0.0)
                raise DataError(
                    f"{shown(self.path)}: expected a column {name}, found {', '.join(near)}; "
                    + remedy.format(role=role, name=name, nearest=near[0])
                )
        return found


def read_table(path: Path) -> Table:
    """A delimited text file (tab, comma or semicolon, with a header) as text, or a Parquet file.

    Raises:
        DataError: the file cannot be read.
    """
    with reading(path):
        if path.suffix == ".parquet":
            return Table(path, pl.read_parquet(path, glob=False))
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(SEPARATORS, key=header.count)
        try:
            frame = pl.read_csv(path, separator=separator, infer_schema=False, glob=False)
        except pl.exceptions.ComputeError as error:
            width = header.count(separator) + 1
            with path.open(encoding="utf-8-sig") as file:
                for line, text in enumerate(file, start=1):
                    if text.count(separator) >= width:
                        raise ValueError(f"line {line} has more than {width} values") from error
            raise
    return Table(path, frame)


def digests(paths: Iterable[Path]) -> dict[Path, str]:
    """The sha256 of each file's content.

    A file is read again only when its path, size or time of change is new.

    Raises:
        DataError: a file cannot be read, or the cache cannot be written.
    """
    store = cache_dir() / "digests.json"
    known = _remembered(store)
    found: dict[Path, str] = {}
    fresh: dict[str, str] = {}
    for path in paths:
        with reading(path):
            stat = path.stat()
            key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
            found[path] = known.get(key) or fresh.setdefault(key, _sha256(path))
    if fresh:
        with _caching(store) as new:
            new.write_text(json.dumps(known | fresh, indent=0))
    return found


def read_modality(path: Path, digest: str) -> Modality:
    """A feature file as float32, memory-mapped.

    A C-ordered float32 file without missing rows is mapped as it is. Any other is converted once,
    blockwise, into the cache. Writing to the tensor never reaches a file.

    Args:
        path: an `.npy` file of float16, float32 or float64, [items, F]; a row of NaN is missing.
        digest: of its content, see `digests`.

    Raises:
        DataError: not such a file, an infinite value, or a row of which only a part is NaN.
    """
    array = _open(path)
    if array.ndim == 2 and not array.size:
        raise DataError(f"{shown(path)}: it has no values, its shape is {list(array.shape)}")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8 or array.ndim != 2 or not array.size:
        raise DataError(
            f"{shown(path)}: expected float16, float32 or float64 of shape [items, width], "
            f"found {array.dtype} of shape {list(array.shape)}; save floats, one row per item"
        )
    folder = cache_dir() / "features"
    mask, copy = folder / f"{digest}.present.npy", folder / f"{digest}.npy"
    plain = array.dtype == np.float32 and array.flags.c_contiguous
    if not mask.exists():
        present = _scan(array, path)
        with _caching(mask) as new, new.open("wb") as file:
            np.save(file, present)
    present = np.array(_open(mask))
    if not (plain and present.all()):
        if not copy.exists():
            _convert(array, present, copy)
        array = _open(copy)
    features = torch.from_numpy(array)
    # The first item that has features is all that is read of a healthy file.
    if not features[int(present.argmax())].any() and not features.any():
        log.warning("%s: every feature is zero or missing; the modality says nothing", shown(path))
    return Modality(features=features, present=torch.from_numpy(present), digest=digest)


def _remembered(store: Path) -> dict[str, str]:
    """What an earlier run has hashed; nothing if the cache is missing or damaged."""
    try:
        known = json.loads(store.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path) -> npt.NDArray[Any]:
    """The array of an `.npy` file, copied on write; pickled objects are refused."""
    with reading(path):
        return np.lib.format.open_memmap(path, mode="c")


def _blocks(array: npt.NDArray[Any]) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Runs of rows, each with its values as float32."""
    step = max(1, BLOCK // array.shape[1])
    for start in range(0, len(array), step):
        rows = slice(start, start + step)
        with np.errstate(over="ignore"):  # what overflows is refused
            yield rows, array[rows].astype(np.float32, copy=False)


def _scan(array: npt.NDArray[Any], path: Path) -> npt.NDArray[np.bool_]:
    """[I] bool: the rows that are not missing."""
    present, zeros = np.ones(len(array), dtype=np.bool_), 0
    for rows, values in _blocks(array):
        zeros += int((values == 0).all(axis=1).sum())
        bad = ~np.isfinite(values)
        if not bad.any():
            continue
        missing = np.isnan(values).all(axis=1)
        present[rows] = ~missing
        bad[missing] = False
        if bad.any():
            row, column = np.argwhere(bad)[0]
            what = "NaN in a part of the row"
            if np.isinf(values[row, column]):
                given = array[rows.start + row, column]
                what = "infinite value" if np.isinf(given) else f"{given:g} is beyond float32"
            raise DataError(
                f"{shown(path)}, row {rows.start + row}: {what} (column {column}); "
                f"use a row of NaN for a missing {path.name.removesuffix(FEATURES)}"
            )
    if 0 < zeros < present.sum():
        log.warning(
            "%s: %d rows are zero, and count as content; a row of NaN says that it is missing",
            shown(path),
            zeros,
        )
    return present


def _convert(array: npt.NDArray[Any], present: npt.NDArray[np.bool_], target: Path) -> None:
    """Writes the float32 copy, with zeros where an item is missing."""
    with _caching(target) as new:
        copy = np.lib.format.open_memmap(new, mode="w+", dtype=np.float32, shape=array.shape)
        for rows, values in _blocks(array):
            copy[rows] = np.where(present[rows, None], values, np.float32(0))
        copy.flush()
