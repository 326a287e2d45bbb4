"""Ranked lists that are written to a file."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pytest

from mmrec.commands.lists import SUFFIXES, write_lists

WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
import polars as pl
from mmrec.commands.lists import write_lists

def frames():
    yield pl.DataFrame({"item": [1]})
    print("one block is written", flush=True)
    time.sleep(300)

write_lists(frames(), Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of POSIX")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_next_write_removes_what_a_killed_process_left(tmp_path, suffix):
    path = tmp_path / f"r[1]{suffix}"
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT, path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        write_lists([pl.DataFrame({"item": [2]})], path)
        assert len([*tmp_path.iterdir()]) == 3  # the other process lives, and keeps its pieces
        process.kill()
    assert len([*tmp_path.iterdir()]) == 3
    write_lists([pl.DataFrame({"item": [item]}) for item in (3, 4)], path)
    assert [*tmp_path.iterdir()] == [path]
    read = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[suffix]
    assert read(path.read_bytes())["item"].to_list() == [3, 4]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("old")

    def frames():
        yield pl.DataFrame({"item": [1]})
        raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        write_lists(frames(), path)
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_text() == "old"
