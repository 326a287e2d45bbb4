"""Where the framework keeps things on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """The folder of rebuildable results: `MMREC_CACHE`, else `~/.cache/mmrec`."""
    return Path(os.environ.get("MMREC_CACHE") or "~/.cache/mmrec").expanduser()


def data_root() -> Path:
    """The folder that holds the data sets: `MMREC_DATA`, else `./data`."""
    return Path(os.environ.get("MMREC_DATA") or "data").expanduser()


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write beside a file, then move into its place; on any failure nothing is left behind.

    Args:
        path: the final name.

    Yields:
        The name to write to, in the same folder.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
