"""Output of ranked lists, to a file or to the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec.config.paths import pieces_folder, replace_file

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".parquet", ".csv", ".jsonl")
SHOWN = 3  # number of lists printed by default
WIDEST = 60  # largest number of characters of a printed value


def write_lists(
    frames: Iterable[pl.DataFrame], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write blocks of lists to one file; on any failure, an earlier file is kept.

    Args:
        frames: written as they come, so that memory holds one at a time.
        path: ends in one of `SUFFIXES`.
        metadata: of a Parquet file.
    """
    import polars as pl

    from mmrec.config.text import spreadsheet_frame

    sinks: dict[str, Callable[..., Any]] = {
        ".parquet": partial(pl.LazyFrame.sink_parquet, metadata=dict(metadata or {})),
        ".csv": pl.LazyFrame.sink_csv,
        ".jsonl": pl.LazyFrame.sink_ndjson,
    }
    with replace_file(path) as part, pieces_folder(part) as folder:
        parts = []
        for number, frame in enumerate(frames):
            parts.append(folder / f"{number}.parquet")
            frame.write_parquet(parts[-1])
        table = pl.scan_parquet(parts, glob=False)
        sinks[path.suffix](spreadsheet_frame(table) if path.suffix == ".csv" else table, part)


def table_text(frame: pl.DataFrame) -> str:
    """Format a table for the terminal, with control characters replaced by spaces."""
    import polars as pl

    from mmrec.data.tables import without_controls

    texts = [
        without_controls(column) for column in frame.iter_columns() if column.dtype == pl.String
    ]
    shown = frame.with_columns(texts)
    with pl.Config(
        tbl_formatting="NOTHING",
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=10_000,
        fmt_str_lengths=WIDEST,
        float_precision=4,
    ):
        return str(shown)
