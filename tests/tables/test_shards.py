"""A folder of Parquet files is one table."""

from __future__ import annotations

import polars as pl
import pytest

from mmrec.commands.prepare import prepare
from mmrec.config.errors import DataError, SettingError
from mmrec.data import FolderData, read_folder
from mmrec.data.files import digests
from mmrec.data.prepare import Tables
from mmrec.data.tables import read_table
from mmrec.tables.headers import check_data, read_header
from mmrec.tables.shards import shards, table_size

ROWS = pl.DataFrame(
    {
        "userID": [f"u{user}" for user in range(6) for _ in range(5)],
        "itemID": [f"i{(user + place) % 7}" for user in range(6) for place in range(5)],
        "timestamp": range(100, 130),
    }
)


def write(folder, frame=ROWS, step=7):
    """Write shards, and files that are no part of the table."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, len(frame), step)):
        frame[start : start + step].write_parquet(folder / f"part-{number:02d}.parquet")
    (folder / "_SUCCESS").write_text("")
    (folder / "_metadata.parquet").write_bytes(b"nothing")
    (folder / ".hidden.parquet").write_bytes(b"nothing")
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "sets" / "shop" / "shop.parquet")


def test_the_rows_are_those_of_all_files_in_order(folder):
    table = read_table(folder)
    assert table.frame.equals(ROWS)
    assert table.lines is None
    assert read_header(folder) == ROWS.columns
    assert [path.name for path in shards(folder)] == [f"part-{n:02d}.parquet" for n in range(5)]
    assert table_size(folder) == sum(path.stat().st_size for path in shards(folder))


def test_the_digest_tells_any_change(folder):
    def digest():
        return digests([folder])[folder]

    before = digest()
    assert digest() == before
    (folder / "_SUCCESS").write_text("again")
    assert digest() == before
    first = folder / "part-00.parquet"
    first.rename(folder / "part-09.parquet")
    assert digest() != before
    (folder / "part-09.parquet").rename(first)
    ROWS[:6].write_parquet(first)
    assert digest() != before


@pytest.mark.parametrize("given", [None, "shop.parquet", "days"])
def test_a_run_reads_it(folder, tmp_path, given):
    if given == "days":
        folder = folder.rename(folder.with_name("days"))
    check_data(
        {"_target_": "mmrec.data.FolderData", "name": "shop", "root": str(tmp_path / "sets")}
        | {"interactions_file": given, "columns": {"user": "userID", "item": "itemID"}}
    )
    data = FolderData("shop", tmp_path / "sets", interactions_file=given, cache=True)
    whole = tmp_path / "whole" / "shop"
    whole.mkdir(parents=True)
    ROWS.write_parquet(whole / "shop.parquet")
    one = FolderData("shop", whole.parent).corpus
    for corpus in (
        data.corpus,
        FolderData("shop", tmp_path / "sets", interactions_file=given).corpus,
    ):
        assert corpus.train.item.tolist() == one.train.item.tolist()
        assert corpus.user_ids.to_list() == one.user_ids.to_list()
        assert corpus.test.user.tolist() == one.test.user.tolist()


def test_it_is_a_source_of_a_data_set(folder, tmp_path):
    made = Tables(name="other", root=str(tmp_path / "sets"), interactions=str(folder))
    source = read_folder(prepare(data=made, downloads=str(tmp_path)).parent, "other")
    assert len(source.interactions) == len(ROWS)


@pytest.mark.parametrize(
    ("frame", "column", "found"),
    [
        (ROWS.rename({"itemID": "item"}), "item", "of type String"),
        (ROWS.drop("timestamp"), "timestamp", "missing"),
        (ROWS.with_columns(pl.col("timestamp").cast(pl.String)), "timestamp", "of type String"),
    ],
    ids=["renamed", "missing", "type"],
)
def test_a_file_with_another_schema_is_named(folder, frame, column, found):
    frame.write_parquet(folder / "part-03.parquet")
    with pytest.raises(DataError) as error:
        read_table(folder)
    assert error.value.file == "shop.parquet/part-03.parquet"
    assert (error.value.column, error.value.found) == (column, found)


def test_a_damaged_file_and_a_folder_without_any_are_named(folder, tmp_path):
    with pytest.raises(SettingError) as error:
        read_table(folder, separator="tab", setting="data.separator")
    assert error.value.setting == "data.separator"
    (folder / "part-01.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError) as error:
        read_table(folder)
    assert error.value.file == "shop.parquet/part-01.parquet"
    for path in shards(folder):
        path.unlink()
    with pytest.raises(DataError) as error:
        read_folder(tmp_path / "sets", "shop")
    assert error.value.problem == "it is a folder without Parquet files"
    with pytest.raises(SettingError) as error:
        Tables(name="other", interactions=str(folder)).check()
    assert error.value.problem == "it is a folder without Parquet files"
