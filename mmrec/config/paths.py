"""Paths of the framework, and atomic writes."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def cache_dir() -> Path:
    """Return the cache folder: `MMREC_CACHE`, or else `~/.cache/mmrec`."""
    return expand(os.environ.get("MMREC_CACHE") or "~/.cache/mmrec")


def data_root() -> Path:
    """Return the folder of data sets: `MMREC_DATA`, or else `./data`."""
    return expand(os.environ.get("MMREC_DATA") or "data")


@cache
def conf_dir() -> Path:
    """Return the configuration folder of the installed package, or else of the checkout."""
    package = Path(str(resources.files("mmrec")))
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def expand(path: str | Path) -> Path:
    """Replace `~` or `~user` at the start of a path by the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def outward_link(folder: Path, *, below: Path | None = None) -> Path | None:
    """Find a symbolic link in a folder that points outside the folder.

    Args:
        folder: folder to search; it may itself be a link.
        below: part of the folder to search; None searches the whole folder.

    Returns:
        The first such link, or None.
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
    """Write a file atomically: to a temporary file, which then replaces the target.

    A failed write leaves no files. Temporary files of killed processes, and their `pieces_folder`,
    are removed by the next write of the same file.

    Args:
        path: path of the file.

    Yields:
        Path of the temporary file, in the same folder.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    lock: AbstractContextManager[None] = nullcontext()
    if fcntl is not None:
        _remove_abandoned(path)
        lock = _locked(part)
    with lock:
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def pieces_folder(part: Path) -> Iterator[Path]:
    """Create a folder for pieces of an unfinished file, and remove it at the end.

    Args:
        part: temporary file of `replace_file`.
    """
    folder = _pieces(part)
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pieces(part: Path) -> Path:
    return part.with_name(f"{part.name}s")


def reserve_space(file: BinaryIO, size: int) -> None:
    """Allocate the space of a new file, so that a full disk is detected before writing.

    The file then has `size` bytes; truncate it after writing less.

    Args:
        file: file opened for writing.
        size: size in bytes.

    Raises:
        OSError: there is not enough space.
    """
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            # The file system does not support allocation; a full disk is detected when writing.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise


def free_space(folder: Path) -> str:
    """Format the free space of a folder for a message, `, 1.0 MB free`; empty if unknown."""
    try:
        return f", {shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
    except OSError:
        return ""


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Create a file and lock it; the lock is released if the process dies."""
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):  # the file system may not support locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have removed the file before it was locked.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), part.stat()):
                break
        os.close(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Remove temporary versions of a file that are not locked by a process."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*.part"):
        with suppress(OSError):  # locked, or already removed by another process
            if part.is_symlink():
                part.unlink()
            elif part.is_file():
                with part.open("r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(_pieces(part), ignore_errors=True)
                    part.unlink()
