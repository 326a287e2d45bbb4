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


def expand(path: str | Path) -> Path:
    """The path, with `~` or `~user` at its beginning replaced by the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def outward_link(folder: Path, *, below: Path | None = None) -> Path | None:
    """Find a symbolic link in a folder that leads out of it.

    Args:
        folder: what must contain everything; it may itself be reached by a link.
        below: the part of the folder to search; None searches all of it.

    Returns:
        The first link found, else None.
    """
    home = folder.resolve()
    top = below or folder
    if top.is_symlink() and top != folder and not top.resolve().is_relative_to(home):
        return top
    for place, folders, files in os.walk(top):
        for name in sorted((*folders, *files)):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                return path
    return None


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
