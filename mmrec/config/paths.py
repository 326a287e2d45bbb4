"""Where the framework keeps things on disk."""

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
    """The folder of rebuildable results: `MMREC_CACHE`, else `~/.cache/mmrec`."""
    return expand(os.environ.get("MMREC_CACHE") or "~/.cache/mmrec")


def data_root() -> Path:
    """The folder that holds the data sets: `MMREC_DATA`, else `./data`."""
    return expand(os.environ.get("MMREC_DATA") or "data")


@cache
def conf_dir() -> Path:
    """The configuration's folder: the installed package's own, else the checkout's."""
    package = Path(str(resources.files("mmrec")))
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


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
    """Write beside a file, then move the result into its place.

    A failed write leaves nothing behind. The leftover of a killed process is removed by the next
    write of the same file, with its `pieces_folder`.

    Args:
        path: the final name.

    Yields:
        The name to write to, in the same folder.
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
    """Create a folder beside an unfinished file for pieces of it, and remove it at the end.

    Args:
        part: the name that `replace_file` yields.
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
    """Allocate the space of a new file, so that a full disk is noticed before anything is written.

    The file then has `size` bytes; whoever writes less truncates it.

    Args:
        file: open for writing.
        size: in bytes.

    Raises:
        OSError: there is not enough space.
    """
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            # The file system has no reservations; writing notices a full disk later.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise


def free_space(folder: Path) -> str:
    """The free space of a folder as the end of a message, `, 1.0 MB free`; empty if unknown."""
    try:
        return f", {shutil.disk_usage(folder).free / 1e6:,.1f} MB free"
    except OSError:
        return ""


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Create a file and hold its lock; the lock of a process that dies is released."""
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):  # a file system without locks
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
    """Remove the unfinished versions of a file that no living process has locked."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*.part"):
        with suppress(OSError):  # locked, or removed by another process in the meantime
            if part.is_symlink():
                part.unlink()
            elif part.is_file():
                with part.open("r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(_pieces(part), ignore_errors=True)
                    part.unlink()
