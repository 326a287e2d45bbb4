"""Results that take long to build, kept on disk under what they were built from."""

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
    size = sum(tensor.nbytes for tensor in tensors.values())
    try:
        with replace_file(entry) as part, part.open("wb") as file:
            reserve_space(file, size)
            torch.save(dict(tensors), file)
            file.truncate()  # tensors that share memory take less
    except (OSError, RuntimeError) as error:  # torch raises the latter on a full disk
        logger.warning(
            "%s: cannot write %.1f MB (%s%s), so the result is not kept; make room there, or set "
            "MMREC_CACHE to a folder that can be written",
            entry.parent,
            size / 1e6,
            getattr(error, "strerror", None) or first_line(error),
            free_space(entry.parent),
        )
