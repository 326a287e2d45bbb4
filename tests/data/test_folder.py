"""Folders: formats that mean the same are read the same, and mistakes are named where they are."""

from __future__ import annotations

import gzip
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.config.errors import DataError, SettingError
from mmrec.data import FolderData, files
from mmrec.data.corpus import Interactions, Source
from mmrec.data.filters import k_core
from mmrec.data.folder import Columns, read_folder

# Not in order of time; users 0..3, items 0..4; the last two rows of user 0 share a second.
TABLE = pl.DataFrame(
    {
        "userID": [0, 0, 0, 1, 1, 2, 2, 3],
        "itemID": [4, 0, 1, 1, 0, 3, 0, 2],
        "rating": [5, 4, 3, 2, 1, 5, 4, 3],
        "timestamp": [30, 20, 20, 11, 10, 7, 7, 1],
        "position": [2, 1, 0, 1, 0, 0, 1, 0],
        "x_label": [2, 1, 0, 0, 1, 0, 0, 0],
    }
)
ITEMS = (
    'itemID,title,categories\n0,"a, b",x|y\n1,c,\n2,d, y |x|\n3,e,z\n4,f,\n'  # item 1 and 4 bare
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    """A whole data set, `toys`, without a mistake."""
    folder = tmp_path / "data" / "toys"
    folder.mkdir(parents=True)
    TABLE.write_csv(folder / "toys.inter", separator="\t")
    rng = np.random.default_rng(0)
    np.save(folder / "text_feat.npy", rng.normal(size=(5, 3)).astype("float32"))
    np.save(folder / "image_feat.npy", rng.normal(size=(5, 4)).astype("float16"))
    (folder / "items.csv").write_text(ITEMS)
    (folder / "cold_items.csv").write_text("itemID,cold_label\n3,1\n4,2\n0,0\n")
    (folder / "u_id_mapping.csv").write_text("userID\toriginal\n0\tann\n2\tcat\n1\t\n3\tdan\n")
    (folder / "i_id_mapping.csv").write_text("asin\titemID\nA\t0\nB\t1\nC\t2\nD\t3\nE\t4\n")
    return tmp_path / "data"


def strip(root: Path, *names: str) -> Path:
    """The folder with nothing but interactions and the named files."""
    for path in (root / "toys").iterdir():
        if path.name not in ("toys.inter", *names):
            path.unlink()
    return root


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))


def assert_same(first: Source, second: Source) -> None:
    assert (first.n_users, first.n_items) == (second.n_users, second.n_items)
    for name in ("user", "item", "time"):
        torch.testing.assert_close(
            getattr(first.interactions, name), getattr(second.interactions, name)
        )
    torch.testing.assert_close(first.label, second.label)
    assert list(first.modalities) == list(second.modalities)
    for name, modality in first.modalities.items():
        assert torch.equal(modality.features, second.modalities[name].features)


def pairs(source: Source) -> list[tuple[object, object]]:
    """Interactions by original id."""
    users, items = source.user_ids, source.item_ids
    return [
        (u if users is None else users[u], i if items is None else items[i])
        for u, i in zip(
            source.interactions.user.tolist(), source.interactions.item.tolist(), strict=True
        )
    ]


def test_everything_is_read(root):
    source = read_folder(root, "toys")
    assert (source.name, source.n_users, source.n_items) == ("toys", 4, 5)
    # By user, time and position.
    assert source.interactions.user.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert source.interactions.item.tolist() == [1, 0, 4, 0, 1, 3, 0, 2]
    assert source.interactions.time.tolist() == [20, 20, 30, 10, 11, 7, 7, 1]
    assert source.label.tolist() == [0, 1, 2, 1, 0, 0, 0, 0]
    assert source.label.dtype == source.cold.dtype == torch.int8
    assert list(source.modalities) == ["image", "text"]
    assert source.modalities["image"].width == 4
    assert source.categories.names == ("x", "y", "z")
    assert source.categories.item.tolist() == [0, 0, 2, 2, 3]
    assert source.categories.category.tolist() == [0, 1, 0, 1, 2]
    assert source.item_titles.to_list() == ["a, b", "c", "d", "e", "f"]
    assert source.cold.tolist() == [0, 0, 0, 1, 2]
    assert source.user_ids.to_list() == ["ann", "1", "cat", "dan"]
    assert source.item_ids.to_list() == ["A", "B", "C", "D", "E"]


def test_a_folder_of_nothing_but_pairs_is_enough(root):
    TABLE.select("userID", "itemID").write_csv(strip(root) / "toys/toys.inter", separator="\t")
    source = read_folder(root, "toys")
    assert source.interactions.item.tolist() == TABLE["itemID"].to_list()
    assert source.interactions.time is None
    assert source.label is source.categories is source.cold is source.item_titles is None
    assert source.user_ids is source.item_ids is None
    assert source.modalities == {}


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_formats_mean_the_same(root, kind):
    expected = read_folder(root, "toys")
    (root / "toys/toys.inter").unlink()
    path = root / f"toys/toys.{kind}"
    if kind == "parquet":
        TABLE.write_parquet(path)
    else:
        TABLE.write_csv(path, separator="\t" if kind == "tsv" else ",")
    assert_same(read_folder(root, "toys"), expected)


@pytest.mark.parametrize("kind", ["inter.gz", "csv.gz", "tsv.gz", "jsonl", "jsonl.gz"])
def test_json_lines_and_compressed_files_mean_the_same(root, kind):
    expected = read_folder(root, "toys")
    (root / "toys/toys.inter").unlink()
    raw = io.BytesIO()
    if kind.startswith("jsonl"):
        TABLE.write_ndjson(raw)
    else:
        TABLE.write_csv(raw, separator="," if kind == "csv.gz" else "\t")
    content = raw.getvalue()
    (root / f"toys/toys.{kind}").write_bytes(
        gzip.compress(content) if kind.endswith(".gz") else content
    )
    assert_same(read_folder(root, "toys"), expected)


@pytest.mark.parametrize("separator", ["::", "|", ", ", " ", ";", "#"])
def test_separators_mean_the_same(root, separator):
    expected = read_folder(root, "toys")
    path = root / "toys/toys.inter"
    path.write_text(path.read_text().replace("\t", separator))
    if separator == "#":
        with pytest.raises(DataError) as error:
            read_folder(root, "toys")
        assert error.value.hint.startswith("separate the columns by ")
        assert "set data.separator" in error.value.hint
        assert_same(read_folder(root, "toys", separator="#"), expected)
    else:
        assert_same(read_folder(root, "toys"), expected)


@pytest.mark.parametrize("separator", [";", "semicolon"])
def test_a_separator_that_the_header_lacks_names_the_setting(root, separator):
    data = FolderData(name="toys", root=str(root), separator=separator)
    with pytest.raises(DataError) as error:
        _ = data.corpus
    assert (error.value.file, error.value.line) == ("toys/toys.inter", 1)
    assert "data.separator" in error.value.problem


@pytest.mark.parametrize("separator", ["", 7])
def test_a_separator_that_is_none_is_a_setting(root, separator):
    data = FolderData(name="toys", root=str(root), separator=separator)
    with pytest.raises(SettingError) as error:
        _ = data.corpus
    assert (error.value.setting, error.value.value) == ("data.separator", separator)


def test_titles_hold_no_control_characters(root):
    edit(root / "toys/items.csv", "1,c", "1,Moon\x1b]0;x\x07 \u202elamp\x9b")
    titles = read_folder(root, "toys").item_titles
    assert [title for title in titles if "Moon" in title] == ["Moon ]0;x lamp"]


@pytest.mark.parametrize("name", ["product_name", "Title", "name:token_seq"])
def test_a_likely_column_of_titles_is_read_if_it_is_the_only_one(root, name):
    expected = read_folder(root, "toys")
    path = root / "toys/items.csv"
    path.write_text(path.read_text().replace("title", name, 1))
    source = read_folder(root, "toys")
    assert source.item_titles.equals(expected.item_titles)
    named = read_folder(root, "toys", columns=Columns(title=name))
    assert named.item_titles.equals(expected.item_titles)
    assert named.fingerprint == source.fingerprint  # titles change no result


def test_several_likely_columns_of_titles_are_named(root, caplog):
    path = root / "toys/items.csv"
    lines = path.read_text().replace("title", "product_name", 1).splitlines()
    path.write_text("\n".join([f"name,{lines[0]}", *(f"x,{line}" for line in lines[1:])]))
    source = read_folder(root, "toys")
    assert source.item_titles is None
    assert "name or product_name" in caplog.text
    assert "data.columns.title" in caplog.text
    named = read_folder(root, "toys", columns=Columns(title="product_name"))
    assert named.item_titles is not None
    assert named.fingerprint == source.fingerprint


def test_a_column_that_is_likely_to_hold_categories_is_named_and_not_read(root, caplog):
    path = root / "toys/items.csv"
    path.write_text(path.read_text().replace("categories", "Genres", 1))
    with caplog.at_level("INFO"):
        assert read_folder(root, "toys").categories is None
    assert "data.columns.categories=Genres" in caplog.text
    caplog.clear()
    assert read_folder(root, "toys", columns=Columns(categories="Genres")).categories is not None
    assert "Genres" not in caplog.text


def test_items_without_the_column_of_ids_name_it(root):
    table = TABLE.rename({"itemID": "isbn"})
    table.write_csv(root / "toys/toys.inter", separator="\t")
    edit(root / "toys/items.csv", "itemID,title", "book,title")
    with pytest.raises(DataError) as error:
        read_folder(root, "toys", columns=Columns(item="isbn"))
    assert error.value.file == "toys/items.csv"
    assert "isbn" in error.value.expected
    assert error.value.hint.endswith("to isbn")


def test_a_file_that_has_the_column_of_titles_is_named(root):
    (root / "toys/items.csv").rename(root / "toys/toys-list.csv")
    with pytest.raises(SettingError) as error:
        read_folder(root, "toys", columns=Columns(categories="title"))
    assert error.value.setting == "data.columns.categories"
    assert "toys-list.csv" in error.value.hint
    (root / "toys/toys-list.csv").unlink()
    with pytest.raises(SettingError) as error:
        read_folder(root, "toys", columns=Columns(categories="title"))
    assert error.value.hint.startswith("add the file")


def test_renamed_and_typed_columns_mean_the_same(root):
    expected = read_folder(root, "toys")
    names = dict(
        zip(TABLE.columns, ["u:token", "i:token", "r", "t:float", "p", "split"], strict=True)
    )
    TABLE.rename(names).write_csv(root / "toys/other.txt", separator=";")
    columns = Columns(user="u", item="i:token", time="t", position="p", label="split")
    found = read_folder(root, "toys", columns=columns, interactions_file="other.txt")
    assert_same(found, expected)
    assert found.fingerprint != expected.fingerprint


@pytest.mark.parametrize(
    "clock",
    [
        pl.col("timestamp").cast(pl.Float64),
        pl.col("timestamp").cast(pl.Float64) + pl.col("position") / 10,
        pl.from_epoch("timestamp"),
        pl.from_epoch("timestamp").dt.cast_time_unit("ns"),
    ],
    ids=["float", "fractions", "datetime", "nanoseconds"],
)
def test_clocks_become_seconds(root, clock):
    expected = read_folder(root, "toys")
    TABLE.with_columns(clock.alias("timestamp")).write_parquet(root / "toys/toys.parquet")
    found = read_folder(root, "toys", interactions_file="toys.parquet")
    assert_same(found, expected)


def test_fractions_of_seconds_decide_the_order(root):
    table = TABLE.drop("position").with_columns(timestamp=pl.Series([2.9, 2.5, 2.7] + [0.0] * 5))
    table.write_csv(root / "toys/toys.inter", separator="\t")
    interactions = read_folder(root, "toys").interactions
    assert interactions.item[:3].tolist() == [0, 1, 4]
    assert interactions.time[:3].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("dropped", "item", "time"),
    [
        ("timestamp", [1, 0, 4, 0, 1, 3, 0, 2], [0, 1, 2, 0, 1, 0, 1, 0]),
        ("position", [0, 1, 4, 0, 1, 3, 0, 2], [20, 20, 30, 10, 11, 7, 7, 1]),
    ],
)
def test_either_of_time_and_position_gives_the_order(root, dropped, item, time):
    TABLE.drop(dropped).write_csv(root / "toys/toys.inter", separator="\t")
    source = read_folder(root, "toys")
    assert source.interactions.item.tolist() == item
    assert source.interactions.time.tolist() == time
    assert source.clock == (dropped == "position")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    "rename",
    [lambda n: n + 1, lambda n: 10**12 * (n + 3), lambda n: f"0{n}", lambda n: f"id {n}"],
    ids=["from one", "sparse", "leading zero", "text"],
)
def test_ids_that_nothing_is_ordered_by_are_sorted_and_numbered(root, rename, kind):
    expected = read_folder(root, "toys")
    ids = {name: [rename(n) for n in TABLE[name]] for name in ("userID", "itemID")}
    table = TABLE.with_columns(**{name: pl.Series(values) for name, values in ids.items()})
    strip(root)
    (root / "toys/toys.inter").unlink()
    getattr(table, f"write_{kind}")(root / f"toys/toys.{kind}")
    found = read_folder(root, "toys")
    assert_same(found, replace(expected, modalities={}))
    assert found.item_ids.to_list() == [rename(n) for n in range(5)]
    assert found.user_ids.to_list() == [rename(n) for n in range(4)]


def test_text_ids_are_looked_up_in_the_files_of_original_ids(root):
    mapping = root / "toys/u_id_mapping.csv"
    mapping.write_text("userID\toriginal\n0\tann\n1\tbob\n2\tcat\n3\tdan\n")
    expected = read_folder(root, "toys")
    named = TABLE.with_columns(
        userID=pl.Series(["ann", "bob", "cat", "dan"]).gather(TABLE["userID"]),
        itemID=pl.Series(list("ABCDE")).gather(TABLE["itemID"]),
    )
    named.write_csv(root / "toys/toys.inter", separator="\t")
    found = read_folder(root, "toys")
    assert_same(found, expected)
    assert found.categories.item.tolist() == expected.categories.item.tolist()
    assert found.cold.tolist() == expected.cold.tolist()


def test_text_ids_follow_the_rows_of_items_csv(root):
    expected = read_folder(root, "toys")
    folder = strip(root, "image_feat.npy", "text_feat.npy") / "toys"
    named = TABLE.with_columns(itemID=pl.Series(list("ZYXWV")).gather(TABLE["itemID"]))
    named.write_csv(folder / "toys.inter", separator="\t")
    (folder / "items.csv").write_text("itemID,categories\nZ,x\nY,\nX,\nW,z\nV,\n")
    (folder / "cold_items.csv").write_text("itemID,cold_label\nV,2\n")
    found = read_folder(root, "toys")
    assert_same(found, expected)
    assert found.categories.item.tolist() == [0, 3]
    assert found.cold.tolist() == [0, 0, 0, 0, 2]


def test_sparse_ids_take_the_catalogue_of_items_csv_along(root):
    table = TABLE.with_columns(itemID=TABLE["itemID"] * 10 + 7)
    folder = strip(root) / "toys"
    table.write_csv(folder / "toys.inter", separator="\t")
    (folder / "items.csv").write_text(
        "itemID,categories,title\n99,x,far\n17,y, near \n17,,2nd\n7,,\n"
    )
    source = read_folder(root, "toys")
    assert source.item_titles.to_list() == ["", "near", "", "", "", "far"]
    assert source.item_ids.to_list() == [7, 17, 27, 37, 47, 99]
    assert source.categories.item.tolist() == [1, 5]


def test_items_without_interactions_count_where_a_file_has_them(root):
    folder = strip(root) / "toys"
    (folder / "items.csv").write_text("itemID\n5\n6\n")
    assert read_folder(root, "toys").n_items == 7
    np.save(folder / "a_feat.npy", np.ones((7, 2)))
    TABLE.filter(pl.col("itemID") != 1).write_csv(folder / "toys.inter", separator="\t")
    source = read_folder(root, "toys")
    assert source.n_items == 7
    assert source.item_ids is None
    assert 1 not in source.interactions.item.tolist()


def test_modalities_are_those_asked_for_in_that_order(root):
    assert list(read_folder(root, "toys", modalities=["text", "image"]).modalities) == [
        "text",
        "image",
    ]
    assert read_folder(root, "toys", modalities=[]).modalities == {}


def test_the_first_interactions_file_of_the_list_is_read(root, caplog):
    TABLE.head(3).write_csv(root / "toys/toys.csv")
    assert len(read_folder(root, "toys").interactions) == 8
    chosen = "reading toys.inter and not toys.csv; set data.interactions_file"
    assert chosen in caplog.text
    caplog.clear()
    assert len(read_folder(root, "toys", interactions_file="toys.csv").interactions) == 3
    assert "interactions_file" not in caplog.text


def test_fingerprint_follows_content_and_arguments(root):
    first = read_folder(root, "toys").fingerprint
    assert read_folder(root, "toys").fingerprint == first
    others = [
        read_folder(root, "toys", k_core=1),
        read_folder(root, "toys", modalities=["text"]),
        read_folder(root, "toys", modalities=["text", "image"]),
    ]
    for file in ("toys.inter", "items.csv", "cold_items.csv", "u_id_mapping.csv"):
        path = root / "toys" / file
        path.write_text(path.read_text().rstrip("\n"))
        others.append(read_folder(root, "toys"))
    assert len({first, *(source.fingerprint for source in others)}) == 8


def test_a_second_load_neither_scans_nor_converts_features(root, monkeypatch):
    first = read_folder(root, "toys")
    for step in ("_scan", "_convert"):
        monkeypatch.setattr(files, step, lambda *_: pytest.fail("read the content again"))
    second = read_folder(root, "toys")
    assert_same(first, second)
    assert first.fingerprint == second.fingerprint


# A file, what is replaced in it and by what; file, line, column and expectation of the error.
ID, LABEL, TIME = "an id", "0, 1 or 2", "a time since 1970"
CORRUPTIONS = [
    ("toys.inter", "0\t4\t5", "-1\t4\t5", "toys.inter", 2, "userID", "0 or more"),
    ("toys.inter", "1\t1\t2", "1\t-3\t2", "toys.inter", 5, "itemID", "0 or more"),
    ("toys.inter", "1\t1\t2", "1\tx7\t2", "toys.inter", 5, "itemID", "a row number, or an id"),
    ("toys.inter", "1\t1\t2", "1.0\t1\t2", "toys.inter", 5, "userID", "a row number, or an id"),
    ("toys.inter", "1\t1\t2", "1\t\t2", "toys.inter", 5, "itemID", ID),
    ("toys.inter", "1\t1\t2", "\t1\t2", "toys.inter", 5, "userID", ID),
    ("toys.inter", "1\t1\t2", "1\t9\t2", "toys.inter", 5, "itemID", "below 5"),
    ("toys.inter", "11\t1\t0", "11\t1\t3", "toys.inter", 5, "x_label", LABEL),
    ("toys.inter", "11\t1\t0", "11\t1\t-1", "toys.inter", 5, "x_label", LABEL),
    ("toys.inter", "11\t1\t0", "11\t1\t", "toys.inter", 5, "x_label", LABEL),
    ("toys.inter", "11\t1\t0", "11\t1\t0.5", "toys.inter", 5, "x_label", LABEL),
    ("toys.inter", "\t11\t", "\tnoon\t", "toys.inter", 5, "timestamp", TIME),
    ("toys.inter", "\t11\t", "\tnan\t", "toys.inter", 5, "timestamp", TIME),
    ("toys.inter", "\t11\t", "\t\t", "toys.inter", 5, "timestamp", TIME),
    ("toys.inter", "\t11\t1", "\t11\tz", "toys.inter", 5, "position", "an integer"),
    ("toys.inter", "1\t1\t2\t", "1\t1\t2\t9\t", "toys.inter", 5, None, "6 as in the header"),
    ("toys.inter", "11\t1\t0", "11\t1", "toys.inter", 5, None, "6 as in the header"),
    ("toys.inter", "userID", "user_id", "toys.inter", None, None, "a column userID"),
    ("toys.inter", "itemID", "item:token", "toys.inter", None, None, "a column itemID"),
    ("items.csv", "itemID", "item", "items.csv", None, None, "a column itemID"),
    ("items.csv", "3,e", "-3,e", "items.csv", 5, "itemID", "a row number of 0..4"),
    ("items.csv", "3,e", ",e", "items.csv", 5, "itemID", ID),
    ("items.csv", "3,e", '3,"e', "items.csv", 5, None, None),
    ("items.csv", "4,f", "5,f", "image_feat.npy", None, None, "6, one an item"),
    ("cold_items.csv", "4,2", "4,3", "cold_items.csv", 3, "cold_label", LABEL),
    ("cold_items.csv", "4,2", "4,", "cold_items.csv", 3, "cold_label", LABEL),
    ("cold_items.csv", "4,2", "5,2", "cold_items.csv", 3, "itemID", "a row number"),
    ("cold_items.csv", "4,2", "3,2", "cold_items.csv", 2, "itemID", "each item once"),
    ("cold_items.csv", "cold_label", "cold", "cold_items.csv", None, None, "a column cold_label"),
    ("u_id_mapping.csv", "0\tann", "99999999999\tann", "u_id_mapping.csv", 2, "userID", "a row"),
    ("u_id_mapping.csv", "0\tann", "-1\tann", "u_id_mapping.csv", 2, "userID", "a row number"),
    ("u_id_mapping.csv", "0\tann", "1\tann", "u_id_mapping.csv", 2, "userID", "a row number"),
    ("u_id_mapping.csv", "0\tann", "0\tdan", "u_id_mapping.csv", 2, "original", "each id once"),
    ("i_id_mapping.csv", "itemID", "asin2", "i_id_mapping.csv", None, None, "a column itemID"),
    ("i_id_mapping.csv", "E\t4", "E\t9", "image_feat.npy", None, None, "10, one an item"),
]  # fmt: skip


def test_the_column_of_original_ids_is_told_by_its_name_among_several(root):
    rows = ["title,original_id,itemID", *(f"same,{name},{n}" for n, name in enumerate("ABCDE"))]
    mapping = root / "toys/i_id_mapping.csv"
    mapping.write_text("\n".join(rows) + "\n")
    assert read_folder(root, "toys").item_ids.to_list() == list("ABCDE")
    mapping.write_text("\n".join(rows).replace("original_id", "asin") + "\n")
    with pytest.raises(DataError) as error:
        read_folder(root, "toys")
    assert error.value.expected == "each id once"
    assert "name the column of ids original_id" in error.value.hint


@pytest.mark.parametrize(("file", "old", "new", "named", "line", "column", "expected"), CORRUPTIONS)
def test_a_mistake_is_named_by_file_line_and_column(
    root, file, old, new, named, line, column, expected
):
    edit(root / "toys" / file, old, new)
    with pytest.raises(DataError) as error:
        read_folder(root, "toys")
    place = (error.value.file, error.value.line, error.value.column)
    assert place == (f"toys/{named}", line, column)
    assert (error.value.expected or "").startswith(expected or "")
    assert error.value.hint
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["toys.inter", "items.csv", "cold_items.csv", "image_feat.npy"])
@pytest.mark.parametrize("raw", [b"", b"\x80\x02binary\xff"])
def test_a_file_that_is_not_what_its_name_says_is_named(root, file, raw):
    (root / "toys" / file).write_bytes(raw)
    with pytest.raises(DataError) as error:
        read_folder(root, "toys")
    assert error.value.file == f"toys/{file}"
    assert error.value.problem.startswith(("cannot be read (", "the file is", "byte 0x80"))


def test_no_interaction_below_the_header(root):
    (root / "toys/toys.inter").write_text("userID\titemID\n")
    with pytest.raises(DataError) as error:
        read_folder(root, "toys")
    assert error.value.file == "toys/toys.inter"
    assert error.value.problem == "no interaction below the header"


def test_a_parquet_mistake_is_named_by_row(root):
    TABLE.with_columns(userID=-TABLE["userID"]).write_parquet(root / "toys/toys.parquet")
    with pytest.raises(DataError) as error:
        read_folder(root, "toys", interactions_file="toys.parquet")
    place = (error.value.file, error.value.line, error.value.row, error.value.column)
    assert place == ("toys/toys.parquet", None, 3, "userID")
    assert (error.value.found, error.value.expected) == ("-1", "0 or more")


def test_a_missing_folder_lists_what_there_is(root):
    (root / "shoes").mkdir()
    for folder, name, found, hint in (
        (root, "toy", "shoes, toys", "did you mean data.name=toys?"),
        (root, "abc", "shoes, toys", "set MMREC_DATA or data.root"),
        (root / "nowhere", "mine", "none", "set MMREC_DATA"),
    ):
        with pytest.raises(DataError) as error:
            read_folder(folder, name)
        assert (error.value.file, error.value.found) == (str(folder), found)
        assert error.value.problem == f"no data set {name}"
        assert error.value.hint.startswith(hint)


def test_a_missing_public_set_is_made_by_one_command(tmp_path, monkeypatch):
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "baby")
    assert f"`mmrec prepare data=baby data.root={tmp_path}`" in error.value.hint
    monkeypatch.setenv("MMREC_DATA", str(tmp_path))
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "baby")
    assert "`mmrec prepare data=baby`" in error.value.hint
    for source in ("tables", "folder", "amazon2018"):  # names of another kind than those of sets
        with pytest.raises(DataError) as error:
            read_folder(tmp_path, source)
        assert "prepare" not in error.value.hint


def test_a_missing_file_is_named_with_its_setting(root):
    def missing(**options):
        with pytest.raises(DataError) as error:
            read_folder(root, "toys", **options)
        assert error.value.file == str(root / "toys")
        return error.value

    features = missing(modalities=["audio"])
    assert (features.problem, features.found) == ("no audio_feat.npy", "image, text")
    assert "data.modalities" in features.hint
    table = missing(interactions_file="all.csv")
    assert table.expected == "all.csv"
    assert "data.interactions_file" in table.hint
    (root / "toys/toys.inter").unlink()
    assert missing().expected.startswith("toys.csv, ")


def test_an_optional_column_that_was_asked_for_must_be_there(root):
    with pytest.raises(DataError) as error:
        read_folder(root, "toys", columns=Columns(time="time"))
    assert error.value.expected == "a column time"
    assert error.value.hint == "set data.columns.time=timestamp"


def test_text_ids_with_features_need_to_know_their_rows(root):
    folder = strip(root, "image_feat.npy") / "toys"
    TABLE.with_columns(itemID="A" + TABLE["itemID"].cast(pl.String)).write_csv(
        folder / "toys.inter", separator="\t"
    )
    with pytest.raises(DataError) as error:
        read_folder(root, "toys")
    assert (error.value.line, error.value.column, error.value.found) == (2, "itemID", "A4")
    assert error.value.hint.startswith("list the ids in i_id_mapping.csv, with the columns itemID")


def test_an_id_that_no_file_lists_is_named_by_line(root):
    named = TABLE.with_columns(itemID=pl.Series(list("ABCDF")).gather(TABLE["itemID"]))
    named.slice(1).write_csv(root / "toys/toys.inter", separator="\t")
    named.head(1).write_csv(root / "toys/last.txt", include_header=False, separator="\t")
    with (root / "toys/toys.inter").open("a") as file:
        file.write((root / "toys/last.txt").read_text())
    with pytest.raises(DataError) as error:
        read_folder(root, "toys")
    assert (error.value.line, error.value.column, error.value.found) == (9, "itemID", "F")
    assert error.value.expected == "an id that is known"


def naive_core(rows: list[tuple[int, int]], k: int) -> list[bool]:
    keep = [True] * len(rows)
    changed = True
    while changed:
        left = {row for row, stays in zip(rows, keep, strict=True) if stays}
        now = [
            stays and sum(u == user for u, _ in left) >= k and sum(i == item for _, i in left) >= k
            for (user, item), stays in zip(rows, keep, strict=True)
        ]
        changed, keep = now != keep, now
    return keep


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=40),
    st.integers(0, 4),
)
def test_k_core_is_the_naive_loop(rows, k):
    user, item = torch.tensor(rows).T
    assert k_core(Interactions(user, item), k, 6, 7).tolist() == naive_core(rows, k)


def test_a_core_keeps_what_belongs_to_its_rows(root):
    whole, core = read_folder(root, "toys"), read_folder(root, "toys", k_core=2)
    kept = naive_core(list(zip(*pair_tensors(whole), strict=True)), 2)
    assert pairs(core) == [("ann", "B"), ("ann", "A"), ("1", "A"), ("1", "B")]
    assert core.interactions.time.tolist() == whole.interactions.time[kept].tolist()
    assert core.label.tolist() == whole.label[kept].tolist()
    assert (core.n_users, core.n_items) == (len(core.user_ids), len(core.item_ids))
    rows = [whole.item_ids.to_list().index(name) for name in core.item_ids]
    assert core.cold.tolist() == whole.cold[rows].tolist()
    assert core.item_titles.to_list() == [whole.item_titles[row] for row in rows]
    for name, modality in core.modalities.items():
        assert torch.equal(modality.features, whole.modalities[name].features[rows])
        assert modality.digest != whole.modalities[name].digest

    def names(source: Source) -> set[tuple[str, str]]:
        item, category, known = source.categories
        return {
            (source.item_ids[i], known[c])
            for i, c in zip(item.tolist(), category.tolist(), strict=True)
        }

    assert names(core) == {pair for pair in names(whole) if pair[0] in core.item_ids.to_list()}


def pair_tensors(source: Source) -> tuple[list[int], list[int]]:
    return source.interactions.user.tolist(), source.interactions.item.tolist()


def test_a_core_without_mapping_keeps_row_numbers_as_original_ids(root):
    whole = read_folder(strip(root), "toys")
    core = read_folder(root, "toys", k_core=2)
    kept = naive_core(list(zip(*pair_tensors(whole), strict=True)), 2)
    assert sum(kept) == 4
    assert pairs(core) == [pair for pair, stays in zip(pairs(whole), kept, strict=True) if stays]


def test_a_core_that_drops_nothing_copies_nothing(root):
    whole, core = read_folder(root, "toys"), read_folder(root, "toys", k_core=1)
    assert core.modalities["text"].digest == whole.modalities["text"].digest
    assert_same(whole, core)


def test_an_empty_core_and_a_negative_one_are_refused(root):
    with pytest.raises(DataError) as empty:
        read_folder(root, "toys", k_core=9)
    assert (empty.value.file, empty.value.hint) == ("toys", "lower data.k_core")
    with pytest.raises(SettingError) as negative:
        read_folder(root, "toys", k_core=-1)
    assert (negative.value.setting, negative.value.value) == ("data.k_core", -1)
