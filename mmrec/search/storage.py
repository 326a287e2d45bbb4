"""Open the storage of a study, with retries."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from mmrec.config.errors import SettingError
from mmrec.config.paths import expand
from mmrec.config.text import first_line

JOURNAL = "journal:///"
SQLITE = "sqlite:///"
TROUBLE = (StorageInternalError, DBAPIError, OSError)  # errors that may be temporary
PAUSES = (1.0, 2.0, 4.0)  # seconds between attempts
LOCKED = 20.0  # seconds that SQLite waits for another process

log = logging.getLogger(__name__)
T = TypeVar("T")


def full_url(url: str | None, folder: Path) -> str:
    """Make the path in a storage URL absolute, so that it is valid in every process.

    Args:
        url: Optuna URL, or `journal:///file`. Three slashes start a path relative to the working
            directory, four an absolute path. None: a SQLite file in the folder.
        folder: folder of the sweep.
    """
    if url is None:
        return f"{SQLITE}{folder.resolve() / 'study.db'}"
    for scheme in (JOURNAL, SQLITE):
        path = url.removeprefix(scheme)
        if path != url and path and path != ":memory:":
            return f"{scheme}{expand(path).resolve()}"
    return url


def hidden(url: str) -> str:
    """Return a URL with its password hidden."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def open_storage(url: str) -> BaseStorage:
    """Open a storage; create it if it does not exist.

    Args:
        url: absolute URL, see `full_url`.

    Raises:
        SettingError: the storage is unreachable, its driver is missing, or the URL is invalid.
    """
    refused = partial(SettingError, setting="sweep.storage", value=hidden(url))
    if url == f"{SQLITE}:memory:":
        raise refused(
            problem="memory is not shared with other processes", hint="give a file, or omit it"
        )
    try:
        return patiently(lambda: _open(url), url)
    except ArgumentError:
        raise refused(
            expected="a URL such as sqlite:///file, journal:///file or postgresql://user@host/name"
        ) from None
    except ImportError as error:
        cause = error.__cause__ or error
        remedy = "install the driver of the database"
        if url.startswith("postgresql"):
            remedy = "pip install 'mmrec[postgresql]'"
        raise refused(problem=str(cause), hint=remedy) from None


def patiently(call: Callable[[], T], url: str) -> T:
    """Call a function, and retry it if the storage is locked or unreachable.

    Args:
        call: accesses the storage.
        url: URL of the storage, used in messages.

    Returns:
        The result of the call.

    Raises:
        SettingError: all attempts failed.
    """
    for pause in PAUSES:
        try:
            return call()
        except TROUBLE as error:
            again = "sweep.storage=%s: %s; retrying in %.0f s"
            log.warning(again, hidden(url), _reason(error), pause)
            time.sleep(pause)
    try:
        return call()
    except TROUBLE as error:
        raise SettingError(
            setting="sweep.storage",
            value=hidden(url),
            problem=f"{_reason(error)} ({len(PAUSES) + 1} attempts)",
            hint="make sure that it is writable and not locked, then repeat the command to resume",
        ) from error


def _open(url: str) -> BaseStorage:
    for scheme in (JOURNAL, SQLITE):
        if url.startswith(scheme):
            Path(url.removeprefix(scheme)).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if url.startswith(JOURNAL):
            return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
        connect = {"timeout": LOCKED} if url.startswith(SQLITE) else {}
        return RDBStorage(url, engine_kwargs={"connect_args": connect})


def _reason(error: BaseException) -> str:
    """Return the first line of the database error inside wrapped exceptions."""
    while isinstance(error, StorageInternalError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    return first_line(error)
