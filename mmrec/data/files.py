"""Feature files as memory maps, and content hashes.

A feature file is scanned and converted once per content; the results are kept in the cache folder.

Shape legend: I items.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmrec.config.paths import cache_dir, free_space, replace_file, reserve_space
from mmrec.config.text import first_line
from mmrec.data.corpus import DataError, Modality, content_hash
from mmrec.data.tables import reading, shown
from mmrec.tables.shards import shards

log = logging.getLogger(__name__)

FEATURES = "_feat.npy"
BLOCK = 2**22  # values of a feature matrix that are processed at a time
HASHING = 4  # files that are hashed at a time


@contextmanager
def _caching(path: Path, size: int) -> Iterator[BinaryIO]:
    """A new file of the cache, open for writing; it is kept only if the block succeeds.

    Args:
        path: the final name.
        size: bytes that will be written; reserved before the block runs.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as part, part.open("wb") as file:
            reserve_space(file, size)
            yield file
            file.flush()
    except OSError as error:
        reason = f"{error.strerror or first_line(error)}{free_space(path.parent)}"
        raise DataError(
            file=path.parent,
            problem=f"cannot write {size / 1e6:,.1f} MB ({reason})",
            hint="make room there, or set MMREC_CACHE to a folder with room that can be written",
        ) from error


def digests(paths: Iterable[Path]) -> dict[Path, str]:
    """The sha256 of each file's content.

    That of a folder of Parquet files is the hash of their names and digests. Each file is read in
    full every time: size, modification time and inode can all stay the same when the content
    changes.

    Raises:
        DataError: a file cannot be read.
    """
    tables = {path: shards(path) for path in paths}
    unique = list(dict.fromkeys(file for path, parts in tables.items() for file in parts or [path]))
    with ThreadPoolExecutor(HASHING) as pool:
        found = dict(zip(unique, pool.map(_sha256, unique), strict=True))
    return {
        path: content_hash([f"{file.name}: {found[file]}" for file in parts])
        if parts
        else found[path]
        for path, parts in tables.items()
    }


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
    _check_array(array, shown(path))
    folder = cache_dir() / "features"
    mask, copy = folder / f"{digest}.present.npy", folder / f"{digest}.npy"
    plain = array.dtype == np.float32 and array.flags.c_contiguous
    known = _cached(mask, (len(array),), np.bool_)
    if known is None:
        present = _scan(array, shown(path), path.name.removesuffix(FEATURES))
        _write_array(mask, present.dtype, present.shape, [present])
    else:
        present = np.array(known)
    if not (plain and present.all()):
        converted = _cached(copy, array.shape, np.float32)
        if converted is None:
            _convert(array, present, copy)
            converted = _open(copy)
        array = converted
    features = torch.from_numpy(array)
    _warn_if_empty(features, present, shown(path))
    return Modality(features=features, present=torch.from_numpy(present), digest=digest)


def modality_of(array: npt.NDArray[Any], where: str, kind: str) -> Modality:
    """Features from memory, checked as those of a file; the array is not changed.

    Args:
        array: float16, float32 or float64, [items, F]; a row of NaN is missing.
        where: what messages call the array.
        kind: name of the modality.

    Raises:
        DataError: as of `read_modality`.
    """
    _check_array(array, where)
    present = _scan(array, where, kind)
    # A copy, so that what the caller later writes to the array changes no model.
    features = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    features[torch.from_numpy(~present)] = 0
    _warn_if_empty(features, present, where)
    mask = torch.from_numpy(present)
    return Modality(features, mask, content_hash([features, mask]))


def _check_array(array: npt.NDArray[Any], where: str) -> None:
    """Refuse an array that cannot be the features of items."""
    if array.ndim == 2 and not array.size:
        raise DataError(file=where, problem=f"it has no values, its shape is {list(array.shape)}")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8 or array.ndim != 2 or not array.size:
        raise DataError(
            file=where,
            found=f"{array.dtype} of shape {list(array.shape)}",
            expected="float16, float32 or float64 of shape [items, width]",
            hint="save floats, one row per item",
        )


def _warn_if_empty(features: Tensor, present: npt.NDArray[np.bool_], where: str) -> None:
    # The first item that has features is all that is read of healthy ones.
    if not features[int(present.argmax())].any() and not features.any():
        log.warning("%s: every feature is zero or missing; the modality says nothing", where)


def _sha256(path: Path) -> str:
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path) -> npt.NDArray[Any]:
    """The array of an `.npy` file, mapped copy-on-write; pickled objects are refused."""
    with reading(path):
        return np.lib.format.open_memmap(path, mode="c")


def _blocks(array: npt.NDArray[Any]) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Runs of rows, each with its values as float32."""
    step = max(1, BLOCK // array.shape[1])
    for start in range(0, len(array), step):
        rows = slice(start, start + step)
        with np.errstate(over="ignore"):  # what overflows is refused
            values = array[rows].astype(np.float32, copy=False)
        yield rows, values


def _scan(array: npt.NDArray[Any], where: str, kind: str) -> npt.NDArray[np.bool_]:
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
            given = array[rows.start + row, column]
            raise DataError(
                file=where,
                row=rows.start + int(row),
                column=int(column),
                found=f"{given:g}",
                expected=f"a finite float32, or a row of NaN for a missing {kind}",
            )
    if 0 < zeros < present.sum():
        log.warning(
            "%s: %d rows are zero, and count as content; a row of NaN says that it is missing",
            where,
            zeros,
        )
    return present


def _convert(array: npt.NDArray[Any], present: npt.NDArray[np.bool_], target: Path) -> None:
    """Write the float32 copy, with zeros where an item is missing."""
    blocks = (
        np.where(present[rows, None], values, np.float32(0)) for rows, values in _blocks(array)
    )
    _write_array(target, np.dtype(np.float32), array.shape, blocks)


def _write_array(
    target: Path, dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Iterable[npt.NDArray[Any]]
) -> None:
    """Write an `.npy` file of the cache from consecutive blocks of rows."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    size = math.prod(shape) * dtype.itemsize
    with _caching(target, size) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).data)


def _cached(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any] | None:
    """An array of the cache; None if it is missing or damaged."""
    try:
        array = np.lib.format.open_memmap(path, mode="c")
    except (OSError, ValueError) as error:
        if path.exists():
            log.warning("%s is damaged (%s); building it again", path, first_line(error))
        return None
    return array if array.shape == shape and array.dtype == dtype else None
