"""What a preparation keeps on disk: finished stages in the cache, and errors of a full disk.

The table of a stage is kept under the hash of everything that it depends on.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from mmrec.config.bars import working
from mmrec.config.errors import DataError
from mmrec.config.paths import cache_dir, free_space, replace_file
from mmrec.config.text import first_line
from mmrec.data.corpus import content_hash

log = logging.getLogger(__name__)
VERSION = "2"  # change it when a stage computes something else from the same input
COUNTS = "mmrec"  # key of the counts in the metadata of a Parquet file


def cached(
    stage: str, parts: Sequence[str], build: Callable[[], tuple[pl.DataFrame, Any]]
) -> tuple[pl.DataFrame, Any]:
    """Return the table and the counts of a stage, from the cache if they are there.

    Args:
        stage: its name.
        parts: everything that the result depends on, as text.
        build: computes the table, and counts that JSON can hold.
    """
    path = cache_dir() / "prepare" / f"{stage}-{content_hash([VERSION, *parts])[:32]}.parquet"
    if path.exists():
        try:
            counts = json.loads(pl.read_parquet_metadata(path)[COUNTS])
            return pl.read_parquet(path, glob=False), counts
        except (OSError, ValueError, KeyError, pl.exceptions.PolarsError) as error:
            log.warning("%s is damaged (%s); building it again", path, first_line(error))
    with working(stage):
        frame, counts = build()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as part:
            frame.write_parquet(part, metadata={COUNTS: json.dumps(counts)})
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        log.warning(
            "%s: the stage %s is not kept (%s%s); make room there, or set MMREC_CACHE to a folder "
            "that can be written",
            path.parent,
            stage,
            reason,
            free_space(path.parent),
        )
    return frame, counts


@contextmanager
def enough_room(path: Path, hint: str) -> Iterator[None]:
    """Report a full disk, and how to continue.

    Args:
        path: of the file that is written.
        hint: what to do.

    Raises:
        DataError: the disk or the quota is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            file=path.parent,
            problem=f"cannot write {path.name} ({error.strerror}{free_space(path.parent)})",
            hint=hint,
        ) from error
