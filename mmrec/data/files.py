"""Files of a data set: feature matrices as memory maps, content hashes.

Hashing and scanning happen once per content; what they find is kept in the cache folder.

Shape legend: I items.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmrec.data.corpus import DataError, Modality
from mmrec.data.tables import reading, shown
from mmrec.paths import cache_dir, replace_file

log = logging.getLogger(__name__)

FEATURES = "_feat.npy"
BLOCK = 2**22  # values of a feature matrix that are looked at together


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
