"""Results that take long to build, kept on disk under what they were built from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeAlias

import torch
from filelock import FileLock
from torch import Tensor

from mmrec.paths import cache_dir

logger = logging.getLogger(__name__)

Key: TypeAlias = str | int | float | Sequence["Key"] | Mapping[str, "Key"] | None


def cached(
    name: str, key: Mapping[str, Key], build: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """What `build` returns, read from the cache if the same key was built before.

    Of several processes that ask at once, one builds and the others wait. A damaged entry is built
    again. Where the cache cannot be written, the value is built and not kept.

    Args:
        name: what is built, a folder of the cache.
        key: all that the value depends on: digests of content, and every argument.
        build: makes dense tensors.

    Raises:
        TypeError: a part of the key is not plain data.
    """
    # json writes the shortest digits that read back as the same float, so no two floats meet.
    text = json.dumps(dict(key), sort_keys=True)
    entry = cache_dir() / name / f"{hashlib.sha256(text.encode()).hexdigest()}.pt"
    with ExitStack() as stack:
        with suppress(OSError):  # a cache that cannot be written may still be read
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
    except Exception as error:  # damage shows in many ways, and the remedy is always the same
        logger.warning("%s cannot be read (%s); building it again", entry, error)
        return None
    return tensors


def _write(entry: Path, tensors: Mapping[str, Tensor]) -> None:
    beside = entry.with_suffix(f".{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            torch.save(dict(tensors), file)
        beside.replace(entry)
    except (OSError, RuntimeError) as error:
        logger.warning(
            "%s is not kept (%s); set MMREC_CACHE to a folder that can be written", entry, error
        )
        with suppress(OSError):
            beside.unlink()
