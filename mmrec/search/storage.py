"""Open the storage of a study, and have patience with it."""

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
TROUBLE = (StorageInternalError, DBAPIError, OSError)  # that may pass
PAUSES = (1.0, 2.0, 4.0)  # seconds between attempts
LOCKED = 20.0  # seconds that SQLite waits for another process

log = logging.getLogger(__name__)
T = TypeVar("T")


def full_url(url: str | None, folder: Path) -> str:
    """A URL that means the same in every process: paths are absolute.

    Args:
        url: of Optuna, or `journal:///file`; three slashes begin a path relative to the working
            directory, four an absolute one. None: a SQLite file in the folder.
        folder: of the sweep.
    """
    if url is None:
        return f"{SQLITE}{folder.resolve() / 'study.db'}"
    for scheme in (JOURNAL, SQLITE):
        path = url.removeprefix(scheme)
        if path != url and path and path != ":memory:":
            return f"{scheme}{expand(path).resolve()}"
    return url


def hidden(url: str) -> str:
    """A URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def open_storage(url: str) -> BaseStorage:
    """Open, or make.

    Raises:
        SettingError: it cannot be reached, or the URL is none.
    """
    refused = partial(SettingError, setting="sweep.storage", value=hidden(url))
    if url == f"{SQLITE}:memory:":
        raise refused(problem="other processes cannot see it", hint="give a file, or leave it out")
    try:
        return patiently(lambda: _open(url), url)
    except ArgumentError:
        raise refused(
            expected="a URL, as sqlite:///file, journal:///file or postgresql://user@host/name"
        ) from None
    except ImportError as error:
        cause = error.__cause__ or error
        remedy = "install the database's driver"
        if url.startswith("postgresql"):
            remedy = "pip install 'mmrec[postgresql]'"
        raise refused(problem=str(cause), hint=remedy) from None


def patiently(call: Callable[[], T], url: str) -> T:
    """What a call returns, after some attempts if the storage is locked or out of reach.

    Raises:
        SettingError: it stayed so.
    """
    for pause in PAUSES:
        try:
            return call()
        except TROUBLE as error:
            again = "sweep.storage=%s: %s; trying again in %.0f s"
            log.warning(again, hidden(url), _reason(error), pause)
            time.sleep(pause)
    try:
        return call()
    except TROUBLE as error:
        raise SettingError(
            setting="sweep.storage",
            value=hidden(url),
            problem=f"{_reason(error)}, {len(PAUSES) + 1} times",
            hint="see that it can be written and is not locked, then give the same command again: "
            "what is finished is kept",
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
    """The database's own words, which come first in what is wrapped around them."""
    while isinstance(error, StorageInternalError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    return first_line(error)
