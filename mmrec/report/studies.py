"""Open the Optuna studies beside runs and in other storages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmrec.config.errors import SettingError
from mmrec.config.paths import outward_link
from mmrec.config.text import first_line, one_line
from mmrec.report.collect import holding

if TYPE_CHECKING:
    from optuna import Study

STUDY = "study.db"


def studies(
    patterns: str | Sequence[str], storages: Sequence[str], left_out: dict[Path, str]
) -> Iterator[Study]:
    """Yield the studies of searches.

    Args:
        patterns: folders or patterns, as for `collect`. Files `study.db` below them are read.
        storages: URLs of other storages, in the form of `sweep.storage`.
        left_out: receives the unreadable files, with reasons.

    Raises:
        SettingError: one of the other storages is unreadable.
    """
    import optuna

    from mmrec.search.storage import SQLITE, full_url

    beside = []
    for folder in holding(patterns, (STUDY,)):
        if outward_link(folder, below=folder / STUDY):  # opening a database may write to it
            left_out[folder / STUDY] = "symbolic link to another folder, not followed"
        else:
            beside.append(f"{SQLITE}{folder / STUDY}")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield from _opened(beside, [full_url(url, Path()) for url in storages], left_out)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _opened(
    beside: Sequence[str], others: Sequence[str], left_out: dict[Path, str]
) -> Iterator[Study]:
    """Yield the studies in storages beside runs, which may be malformed, and in other storages."""
    import optuna

    from mmrec.search.storage import JOURNAL, SQLITE, TROUBLE, open_storage

    for url in dict.fromkeys([*beside, *others]):
        path = url.removeprefix(SQLITE).removeprefix(JOURNAL)
        if path != url and not Path(path).is_file():
            raise SettingError(setting="storages", problem=f"no such file: {path}")
        try:
            storage = open_storage(url)
            names = optuna.get_all_study_names(storage)
            found = [optuna.load_study(study_name=name, storage=storage) for name in names]
            for study in found:
                study.get_trials(deepcopy=False)  # reads and caches the trials
        except (SettingError, ValueError, KeyError, TypeError, *TROUBLE) as error:
            if url not in beside:
                raise SettingError(setting="storages", problem=first_line(error)) from error
            left_out[Path(url.removeprefix(SQLITE))] = one_line(first_line(error))
            continue
        yield from found
