"""Tables that are folders of Parquet files."""

from __future__ import annotations

from pathlib import Path


def shards(path: Path) -> list[Path]:
    """The Parquet files of a folder in the order of their names; empty if it is no such folder.

    Files whose names begin with a dot or an underscore are left out, as other tools do.
    """
    if not path.is_dir():
        return []
    return sorted(file for file in path.glob("[!._]*.parquet") if file.is_file())


def is_table(path: Path) -> bool:
    """Whether a path is a file, or a folder of Parquet files."""
    return path.is_file() or bool(shards(path))


def table_size(path: Path) -> int:
    """The size of a table in bytes."""
    return sum(file.stat().st_size for file in shards(path) or [path])
