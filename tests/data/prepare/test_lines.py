"""Text in blocks: plain, compressed, or inside an archive whose names are hostile."""

from __future__ import annotations

import gzip
import math
import os
import zipfile

import polars as pl
import pytest

from mmrec.config.errors import DataError
from mmrec.data.prepare import lines
from mmrec.data.prepare.lines import (
    Malformed,
    below_header,
    blocks,
    csv_rows,
    fitting,
    read_delimited,
)

SCHEMA = {"user": pl.String, "item": pl.String, "rating": pl.Float64, "time": pl.Int64}
TEXT = "".join(f"u{n},i{n % 3},{n % 5}.5,{n * 10}\n" for n in range(50))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 100)
    monkeypatch.setattr(lines, "LONGEST", 2000)


def archive(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def whole(path, member=None):
    return b"".join(block for _, block in blocks(path, member)).decode()


def test_plain_compressed_and_archived_text_read_alike(tmp_path):
    (tmp_path / "a.csv").write_text(TEXT)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    packed = archive(tmp_path / "a.zip", [("in/a.csv", TEXT)])
    assert whole(tmp_path / "a.csv") == TEXT
    assert whole(tmp_path / "a.csv.gz") == TEXT
    assert whole(packed, "in/a.csv") == TEXT
    line = 1
    for number, block in blocks(packed, "in/a.csv"):
        assert number == line
        line += block.count(b"\n")
    assert line == 51


def test_nothing_in_an_archive_becomes_a_file(tmp_path):
    inside = tmp_path / "raw"
    inside.mkdir()
    names = ["../escaped.csv", "/tmp/absolute.csv", "..\\windows.csv", "a.csv/../../up.csv"]
    members = [(name, "hostile\n") for name in names]
    packed = archive(inside / "a.zip", [*members, ("a.csv", TEXT)])
    before = sorted(tmp_path.rglob("*"))
    assert whole(packed, "a.csv") == TEXT
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(DataError) as error:
        whole(packed, "b.csv")
    assert error.value.problem == "the archive has no b.csv"


@pytest.mark.parametrize("cut", [-5, -200, 30])
def test_a_truncated_archive_is_an_error(tmp_path, cut):
    packed = archive(tmp_path / "a.zip", [("a.csv", os.urandom(5000).hex())])
    packed.write_bytes(packed.read_bytes()[:cut])
    with pytest.raises(DataError) as error:
        whole(packed, "a.csv")
    assert "damaged" in error.value.problem


def test_a_changed_byte_in_an_archive_is_an_error(tmp_path):
    packed = archive(tmp_path / "a.zip", [("a.csv", TEXT)], zipfile.ZIP_STORED)
    packed.write_bytes(packed.read_bytes().replace(b"u7,", b"u8,"))
    with pytest.raises(DataError) as error:
        whole(packed, "a.csv")
    assert "CRC" in error.value.problem


def test_a_line_without_end_is_not_kept_in_memory(tmp_path):
    packed = archive(tmp_path / "a.zip", [("a.csv", "u,i\n" + "0" * 10**6)])
    with pytest.raises(DataError) as error:
        whole(packed, "a.csv")
    assert error.value.line == 2


@pytest.mark.parametrize("separator", [",", "::", "\t"])
def test_delimited_text_becomes_a_table(tmp_path, separator):
    path = tmp_path / "r.dat"
    rows = [line.split(",") for line in TEXT.splitlines()]
    path.write_text("".join(f"{separator.join(row)}\n" for row in rows))
    frame = read_delimited(blocks(path), separator, SCHEMA, Malformed(path, 0, "a row"))
    assert frame.schema == SCHEMA
    expected = [(user, item, float(rating), int(time)) for user, item, rating, time in rows]
    assert frame.rows() == expected


@pytest.mark.parametrize(
    "line",
    [
        *("u", "u,i,5", "u,i,x,9", "u,i,5,9.5", "u,i,5,9,9", ",i,5,9", "u,,5,9"),
        *("u\ti,5,9", b"\xff,i,5,9"),
    ],
)
@pytest.mark.parametrize("separator", [",", "::"])
def test_a_malformed_line_is_counted_and_its_neighbours_kept(tmp_path, line, separator):
    path = tmp_path / "r.dat"
    line = line if isinstance(line, bytes) else line.encode()
    text = b"a,x,1.0,5\n\n" + line + b"\r\nb,y,2.0,6\r\n"
    path.write_bytes(text.replace(b",", separator.encode()))
    bad = Malformed(path, 1, "a row")
    frame = read_delimited(blocks(path), separator, SCHEMA, bad)
    assert frame.rows() == [("a", "x", 1.0, 5), ("b", "y", 2.0, 6)]
    assert bad.count == 1
    with pytest.raises(DataError) as error:
        read_delimited(blocks(path), separator, SCHEMA, Malformed(path, 0, "a row"))
    assert error.value.line == 3


def test_text_without_a_record_is_an_error(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("\n")
    with pytest.raises(DataError) as error:
        read_delimited(blocks(path), ",", SCHEMA, Malformed(path, 5, "a row"))
    assert error.value.problem == "no interaction in it"


def test_a_header_is_compared(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes(b"\xef\xbb\xbfuser,item\r\na,x\nb,y")
    found = [*below_header(blocks(path), path, ("user", "item"))]
    assert [number for number, _ in found] == [2, 3]
    assert b"".join(block for _, block in found) == b"a,x\nb,y"
    for content in (b"", b"a,x\n", b"item,user\n"):
        path.write_bytes(content)
        with pytest.raises(DataError) as error:
            [*below_header(blocks(path), path, ("user", "item"))]
        assert (error.value.line, error.value.expected) == (1, "user,item")


def test_quoted_text_may_hold_commas_and_line_breaks(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('1,"One, two"\n\n2,"a ""b""\nc"\r\n3,caf\xe9, au lait\n'.encode("latin-1"))
    rows = [*csv_rows(blocks(path), path, "latin-1")]
    assert rows == [
        (1, ["1", "One, two"]),
        (4, ["2", 'a "b"\nc']),
        (5, ["3", "caf\xe9", " au lait"]),
    ]


@pytest.mark.parametrize("text", ['1,"open\n2,next\n', '1,"open\n2,next\n3,other"x\n'])
def test_a_quoted_text_without_end_is_an_error(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        [*csv_rows(blocks(path), path)]
    assert error.value.file.endswith("t.csv")


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, math.inf, math.nan])
def test_a_number_that_no_column_holds_is_refused(value):
    with pytest.raises(ValueError, match=r"64 bits|finite"):
        fitting(value)
    assert fitting(2**63 - 1) == 2**63 - 1


def test_infinite_numbers_of_a_fast_path_are_counted(tmp_path):
    path = tmp_path / "t.dat"
    path.write_text("1::2::3.5\n1::3::inf\n1::4::nan\n1::99999999999999999999::2\n")
    bad = Malformed(path, 10, "a rating")
    schema = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64}
    assert read_delimited(blocks(path), "::", schema, bad).rows() == [(1, 2, 3.5)]
    assert bad.count == 3
