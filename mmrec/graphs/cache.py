"""On-disk cache of slow results."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeAlias

import torch
from filelock import FileLock
from torch import Tensor

from mmrec.config.paths import cache_dir, free_space, replace_file, reserve_space
from mmrec.config.text import first_line

logger = logging.getLogger(__name__)

Key: TypeAlias = str | int | float | Sequence["Key"] | Mapping[str, "Key"] | None


def cached(
    name: str, key: Mapping[str, Key], build: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the result of `build`, from the cache if the key is known.

    If several processes request the same key, one builds the result and the others wait. Damaged
    entries are rebuilt. If the cache is not writable, the result is built but not stored.

    Args:
        name: folder of the cache.
        key: everything the result depends on: digests of content, and all arguments.
        build: function that returns dense tensors by name.

    Raises:
        TypeError: a part of the key is not plain data.
    """
    # JSON represents floats exactly, so different floats have different keys.
    text = json.dumps(dict(key), sort_keys=True)
    entry = cache_dir() / name / f"{hashlib.sha256(text.encode()).hexdigest()}.pt"
    with ExitStack() as stack:
        with suppress(OSError):  # a read-only cache can still be read
            entry.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(entry.with_suffix(".lock")))
        tensors = _read(entry)
        if tensors is None:
            tensors = dict(build())
            _write(entry, tensors)
        return tensors


def _read(entry: Path) -> dict[str, Tensor] | None:
    try:
        tensors: dict[str, Tensor] = torch.load(entry, weights_only=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # damaged files raise many types of errors
        logger.warning("cannot read the cache entry %s (%s); rebuilding it", entry, error)
        return None
    return tensors


def _write(entry: Path, tensors: Mapping[str, Tensor]) -> None:
    size = sum(tensor.nbytes for tensor in tensors.values())
    try:
        with replace_file(entry) as part, part.open("wb") as file:
            reserve_space(file, size)
            torch.save(dict(tensors), file)
            file.truncate()  # tensors that share memory need less than the reserved space
    except (OSError, RuntimeError) as error:  # PyTorch raises RuntimeError on a full disk
        logger.warning(
            "cannot write to the cache folder %s (%.1f MB: %s%s), so the result is not cached; "
            "free disk space, or set MMREC_CACHE to a writable folder",
            entry.parent,
            size / 1e6,
            getattr(error, "strerror", None) or first_line(error),
            free_space(entry.parent),
        )
