"""Tables: text, JSON lines and Parquet, and columns that know their lines."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import random
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from mmrec.config.errors import DataError, SettingError
from mmrec.data import Columns
from mmrec.data.tables import Column, FileTable, read_table, shown
from mmrec.tables.headers import check_data


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "toys"
    made.mkdir()
    return made


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, **arguments: str) -> DataError:
    """The error about a table, which names the file and fits one line."""
    with pytest.raises(DataError) as error:
        read_table(path, **arguments).columns({"user": "userID", "item": "itemID"}, remedy="{role}")
    assert error.value.file == f"toys/{path.name}"
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500
    return error.value


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "I/O")])
def test_a_file_that_cannot_be_opened_is_named(folder, monkeypatch, error):
    path = written(folder / "t.inter", "userID\n")

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    assert refused(path).problem == f"cannot be read ({error.strerror})"


def test_a_folder_and_a_missing_file_are_named(folder):
    assert refused(folder / "t.csv").problem.startswith("cannot be read (No such file")
    (folder / "t.csv").mkdir()
    assert refused(folder / "t.csv").problem == "cannot be read (it is a folder)"


def test_integers_are_what_is_written_as_an_integer():
    written = ["17", "017", "-3", "17.0", "1e3", " 5", "", None, "+4", str(2**63 - 1), str(2**63)]
    numbers = [17, None, -3, None, None, None, None, None, None, 2**63 - 1, None]
    assert Column(Path("x"), "id", pl.Series(written)).integers.to_list() == numbers
    unsigned = pl.Series([1, 2**64 - 1], dtype=pl.UInt64)
    assert Column(Path("x"), "id", unsigned).integers.to_list() == [1, None]


def test_selected_values_know_their_lines():
    column = Column(Path("toys/x"), "id", pl.Series(["a", "b", "c", "d"]), lines=[2, 3, 7, 9])
    taken = column.take(pl.Series([3, 2, 0])).take(pl.Series([1, 2]))
    assert taken.values.to_list() == ["c", "a"]
    for bad, line, found in ([True, True], 7, "c"), ([False, True], 2, "a"):
        with pytest.raises(DataError) as error:
            taken.reject(pl.Series(bad), "better; improve it")
        assert (error.value.line, error.value.row) == (line, None)
        assert (error.value.column, error.value.found) == ("id", found)
        assert (error.value.expected, error.value.hint) == ("better", "improve it")
    typed = Column(Path("toys/x"), "id", pl.Series([5, 6])).take(pl.Series([1]))
    with pytest.raises(DataError) as error:
        typed.reject(pl.Series([True]), "less")
    assert (error.value.line, error.value.row, error.value.found) == (None, 1, "6")
    assert (error.value.expected, error.value.hint) == ("less", None)


@pytest.mark.parametrize(
    "name", ["t.inter", "t.csv", "t[1].tsv", "t.inter.gz", "t.csv.gz", "t.tsv.gz", "packed.csv"]
)
def test_text_is_read_with_and_without_compression(folder, name):
    content = b"userID\titemID\n017\tb\n1_0\tc\n"
    path = written(folder / name, gzip.compress(content) if name.endswith("gz") else content)
    if name == "packed.csv":
        path.write_bytes(gzip.compress(content))
    table = read_table(path)
    assert table.frame.rows() == [("017", "b"), ("1_0", "c")]
    assert table.frame.columns == ["userID", "itemID"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.jsonl.gz"])
def test_json_lines_are_read_with_their_types_and_lines(folder, name):
    rows = [{"userID": 7, "itemID": "007"}, {"userID": 8}, {"itemID": "x", "other": [1, {"a": 2}]}]
    content = "\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n"
    raw = content.encode()
    path = written(folder / name, gzip.compress(raw) if name.endswith("gz") else raw)
    found = read_table(path).columns({"user": "userID", "item": "itemID"}, remedy="")
    assert found["user"].values.to_list() == [7, 8, None]
    assert found["item"].text.to_list() == ["007", None, "x"]
    with pytest.raises(DataError) as error:
        found["user"].reject(found["user"].values.is_null(), "an id")
    assert (error.value.line, error.value.column, error.value.found) == (5, "userID", "empty")


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b'{"userID": 1}\n{"userID": \n', 2, '{"userID":'),
        (b'{"userID": 1}\n\n[1, 2]\n', 3, "[1, 2]"),
        (b'{"userID": 1}\n{"userID": "\xff"}\n', 2, '{"userID": "'),
        (b"userID,itemID\n1,2\n", 1, "userID,itemID"),
    ],
)
def test_a_line_that_is_no_json_object_is_named(folder, content, line, found):
    error = refused(written(folder / "t.jsonl", content))
    assert (error.line, error.expected) == (line, "a JSON object")
    assert error.found.startswith(found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"userID": ' + b"[" * 9000 + b"]" * 9000 + b"}\n", ("cannot be read", "{")),
        (b'{"userID": [1]}\n{"userID": 2}\n', "cannot be read"),
        (b"\n \n", "the file is empty"),
        (b"", "the file is empty"),
    ],
)
def test_json_lines_that_are_no_table_say_why(folder, content, said):
    error = refused(written(folder / "t.jsonl", content))
    assert (error.problem or error.found).startswith(said)


def test_json_lines_without_a_column_list_the_nearest(folder):
    error = refused(written(folder / "t.jsonl", b'{"user": 1}\n'))
    assert (error.found, error.expected, error.hint) == ("user", "a column userID", "user")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"userID\titemID\n1\t2\n" * 9, mtime=0)[:-12], "cannot be read"),
        (b"\x1f\x8bnothing", "cannot be read"),
        (b"PK\x03\x04rest", "a zip archive or an Excel workbook; unpack it, or save it as CSV"),
        (b"BZh91AY", "compressed with bzip2; unpack it"),
        (b"\xfd7zXZ\x00", "compressed with xz; unpack it"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it"),
        (b"PAR1", "a Parquet file; rename it"),
        (b"ARROW1", "an Arrow file"),
    ],
)
def test_another_kind_of_file_says_which(folder, content, said):
    assert said in refused(written(folder / "t.csv", content)).problem


@pytest.mark.parametrize("content", [b"not parquet", b"", b"PAR1" + b"x" * 50 + b"PAR1"])
def test_a_parquet_file_that_is_not_one_is_named(folder, content):
    assert refused(written(folder / "t.parquet", content)).problem.startswith("cannot be read (")


def test_a_damaged_file_that_makes_the_reader_panic_is_named(folder, monkeypatch):
    def panic(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("index out of bounds")

    monkeypatch.setattr(pl, "read_parquet", panic)
    assert refused(folder / "t.parquet").problem == "cannot be read (index out of bounds)"


def damaged(content: bytes, generator: random.Random) -> bytes:
    """The content cut short, with flipped bits, or with other bytes near its begin or end."""
    data = bytearray(content)
    match generator.choice(["cut", "bits", "begin", "end"]):
        case "cut":
            return content[: generator.randrange(len(content))]
        case "bits":
            for _ in range(generator.choice([1, 3, 20])):
                data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        case "begin":
            data[generator.randrange(min(100, len(data)))] = generator.randrange(256)
        case "end":
            data[-1 - generator.randrange(min(300, len(data)))] = generator.choice([0, 127, 255])
    return bytes(data)


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz"])
def test_damage_is_an_error_that_names_the_file(folder, kind):
    ids = [f"u{row % 40}" for row in range(300)]
    table = pl.DataFrame({"userID": ids, "itemID": range(300), "timestamp": range(300)})
    plain = io.BytesIO()
    if kind == ".parquet":
        table.write_parquet(plain, row_group_size=100)
    elif "csv" in kind:
        table.write_csv(plain)
    else:
        table.write_ndjson(plain)
    whole = gzip.compress(plain.getvalue()) if kind.endswith(".gz") else plain.getvalue()
    generator, refused = random.Random(0), []
    for _ in range(200):
        path = written(folder / f"t{kind}", damaged(whole, generator))
        data = {"name": "toys", "root": str(folder.parent), "interactions_file": path.name}
        try:
            check_data({"_target_": "mmrec.data.FolderData", "columns": asdict(Columns()), **data})
            read_table(path)
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all(path.name in message and message.isprintable() for message in refused)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pl.Series(["b", None, "a"], dtype=pl.Categorical), ["b", None, "a"]),
        (pl.Series(["b", None, "a"], dtype=pl.Enum(["a", "b"])), ["b", None, "a"]),
        (pl.Series([True, None]), ["true", None]),
        (pl.Series([Decimal(17), None]).cast(pl.Decimal(38, 0)), ["17", None]),
        (pl.Series([datetime.date(2026, 1, 2), None]), ["2026-01-02", None]),
        (pl.Series([1.5, float("nan"), None]), ["1.5", None, None]),
        (pl.Series([None, None]), [None, None]),
        (pl.Series([2**63], dtype=pl.UInt64), [str(2**63)]),
    ],
)
def test_types_of_parquet_become_text(folder, values, text):
    pl.DataFrame({"id": values}).write_parquet(folder / "t.parquet")
    found = read_table(folder / "t.parquet").columns({"id": "id"}, remedy="")["id"]
    assert found.text.to_list() == text
    assert len(found.integers) == len(text)


def test_integers_of_parquet_are_integers_whatever_their_type(folder):
    for values in (
        pl.Series([17, None], dtype=pl.UInt8),
        pl.Series(["17", None], dtype=pl.Categorical),
        pl.Series([Decimal(17), None]).cast(pl.Decimal(38, 0)),
    ):
        pl.DataFrame({"id": values}).write_parquet(folder / "t.parquet")
        found = read_table(folder / "t.parquet").columns({"id": "id"}, remedy="")["id"]
        assert found.integers.to_list() == [17, None]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pl.Series([[1, 2]]), "List(Int64)"),
        (pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2)), "Array"),
        (pl.Series([b"x"]), "Binary"),
        (pl.Series([{"a": 1}]), "Struct"),
        (pl.Series([datetime.timedelta(1)]), "Duration"),
        (pl.Series([datetime.time(1)]), "Time"),
    ],
)
def test_a_column_without_simple_values_is_named_with_its_type(folder, values, kind):
    frame = pl.DataFrame({"userID": values, "itemID": [1]})
    frame.write_parquet(folder / "t.parquet")
    error = refused(folder / "t.parquet")
    assert error.column == "userID"
    assert error.found.startswith(f"of type {kind}")
    assert error.expected.startswith("text, integers")
    # It may be there as long as nothing reads it.
    assert read_table(folder / "t.parquet").columns({"item": "itemID"}, remedy="")


@pytest.mark.parametrize("wanted", ["user_id", "user_id:token"])
@pytest.mark.parametrize("header", ["user_id", "user_id:token"])
def test_a_type_in_the_header_is_no_part_of_the_name(folder, wanted, header):
    (folder / "t.inter").write_text(f"{header}\tx\n1\t2\n")
    found = read_table(folder / "t.inter").columns({"user": wanted}, remedy="")
    assert found["user"].name == header


def test_an_unknown_separator_lists_the_known_ones_and_the_setting(folder):
    path = written(folder / "t.inter", "userID#itemID\n1#2\n")
    listed = "separate the columns by tab, comma, semicolon, pipe, double colon, space"
    assert (refused(path).found, refused(path).hint) == ("userID#itemID", listed)
    hint = refused(path, setting="data.separator").hint
    assert hint.startswith(f"{listed}, or set data.separator")
    assert read_table(path, separator="#").frame.rows() == [("1", "2")]


def test_a_separator_that_cannot_be_is_named(folder):
    path = written(folder / "t.inter", "userID\titemID\n1\t2\n")
    assert "data.separator" in refused(path, separator=";", setting="data.separator").problem
    table = pl.DataFrame({"userID": [1], "itemID": [2]})
    table.write_parquet(folder / "t.parquet")
    with pytest.raises(SettingError) as error:
        read_table(folder / "t.parquet", separator=";", setting="data.separator")
    assert (error.value.setting, error.value.value) == ("data.separator", ";")
    assert error.value.problem == "toys/t.parquet is a .parquet file"


def test_a_missing_header_is_told(folder):
    for text in ("1\t510\t5.0\n2\t3\t1\n", "17\n18\n"):
        hint = refused(written(folder / "t.inter", text)).hint
        assert hint.startswith("the first line has numbers; add")


def test_control_characters_and_long_names_are_shown_safely(folder):
    evil = "\x1b]0;owned\x07\x1b[31m\u202e" + "x" * 5000
    path = written(folder / "t.inter", f"{evil}\t{evil}2\n1\t2\n")
    assert refused(path).found.startswith(r"\x1b]0;owned\x07")
    path = written(folder / "t.inter", f"userID\titemID\n1\t{evil}\n")
    column = read_table(path).columns({"item": "itemID"}, remedy="")["item"]
    with pytest.raises(DataError) as error:
        column.reject(pl.Series([True]), "less")
    assert (error.value.line, error.value.column) == (2, "itemID")
    assert error.value.found.startswith(r"\x1b")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 200
    named = Path("toys") / f"a\x1b[2J{'b' * 300}.csv"
    assert shown(named).isprintable()
    assert len(shown(named)) < 200
    json_path = written(folder / "t.jsonl", b"[1, '\x1b" + b"x" * 5000)
    assert refused(json_path).line == 1


def test_the_name_of_a_column_is_told_safely_where_its_type_is_wrong():
    table = FileTable(Path("toys/t.parquet"), pl.DataFrame({"a\x1b": [[1]]}))
    with pytest.raises(DataError) as error:
        table.column("a\x1b")
    assert error.value.column == r"a\x1b"
