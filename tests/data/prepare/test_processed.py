"""A folder as MMRec has it is copied: rows, labels, features and ids stay what they are."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from mmrec.config.errors import DataError, SettingError
from mmrec.data import read_folder
from mmrec.data.prepare import Fetcher, ProcessedFolder, check_folder, prepare_folder

USERS, ITEMS = 12, 10  # the last item has features and no interaction, the one before it has two
FILES = (
    *("baby.inter", "image_feat.npy", "text_feat.npy"),
    *("u_id_mapping.csv", "i_id_mapping.csv"),
)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A processed folder."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "published" / "baby"
    folder.mkdir(parents=True)
    draw = random.Random(2)
    rows = [
        (user, item, float(draw.randint(1, 5)), 1_300_000_000 + draw.randrange(10**6), place % 3)
        for user in range(USERS)
        for place, item in enumerate([*draw.sample(range(ITEMS - 2), 5), *[ITEMS - 2] * (user < 2)])
    ]
    draw.shuffle(rows)
    columns = ["userID", "itemID", "rating", "timestamp", "x_label"]
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(
        folder / "baby.inter", separator="\t"
    )
    image = np.arange(ITEMS * 3, dtype=np.float64).reshape(ITEMS, 3)
    image[4] = np.nan
    np.save(folder / "image_feat.npy", image)
    np.save(folder / "text_feat.npy", np.ones((ITEMS, 2), dtype=np.float32) * 2)
    for side, name, count in (("u", "user_id", USERS), ("i", "asin", ITEMS)):
        ids = {name: [f"{side}{count - row}" for row in range(count)]}
        key = "userID" if side == "u" else "itemID"
        frame = pl.DataFrame({**ids, key: range(count)})
        frame.write_csv(folder / f"{side}_id_mapping.csv", separator="\t")
    return folder


@pytest.fixture
def data(published, tmp_path):
    """Settings that copy it."""
    return ProcessedFolder(
        name="mine",
        root=str(tmp_path / "sets"),
        source_folder=str(published),
        duplicates="keep",
        split="given",
    )


def make(data, tmp_path, offline=False):
    return prepare_folder(data, Fetcher(tmp_path / "raw", offline, wait=0.01, attempts=2), {})


def test_a_run_reads_the_same_from_the_copy(data, published, tmp_path):
    cold = pl.DataFrame({"itemID": [2, 5], "cold_label": [1, 2]})
    cold.write_csv(published / "cold_items.csv")
    folder = make(data, tmp_path)
    theirs, ours = (read_folder(path.parent, path.name) for path in (published, folder))
    for part in ("user", "item", "time"):
        assert torch.equal(getattr(theirs.interactions, part), getattr(ours.interactions, part))
    assert torch.equal(theirs.label, ours.label)
    assert torch.equal(theirs.cold, ours.cold)
    assert (ours.n_users, ours.n_items) == (USERS, ITEMS)
    assert theirs.user_ids.to_list() == ours.user_ids.to_list()
    assert theirs.item_ids.to_list() == ours.item_ids.to_list()
    for kind in ("image", "text"):
        first, second = theirs.modalities[kind], ours.modalities[kind]
        assert torch.equal(first.present, second.present)
        assert torch.equal(first.features, second.features)
    manifest = check_folder(folder)
    assert manifest["counts"] == {"interactions": 62, "users": USERS, "items": ITEMS - 1}
    assert manifest["stages"][0]["listed_items"] == ITEMS
    assert manifest["modalities"]["image"]["missing"] == 1
    assert {*manifest["sources"]} == {*FILES, "cold_items.csv", "interactions"} - {"baby.inter"}


def test_what_a_filter_removes_has_no_row(data, published, tmp_path):
    folder = make(replace(data, k_core=3), tmp_path)
    ours = read_folder(folder.parent, "mine")
    assert ours.n_items == ITEMS - 1  # all but the one with two interactions
    image = np.load(published / "image_feat.npy")
    ids = pl.read_csv(published / "i_id_mapping.csv", separator="\t")["asin"].to_list()
    for row, name in enumerate(ours.item_ids):
        assert ours.modalities["image"].present[row] == (ids.index(name) != 4)
        if ids.index(name) != 4:
            assert (
                ours.modalities["image"].features[row].tolist() == image[ids.index(name)].tolist()
            )
    assert [ids.index(name) for name in ours.item_ids] == sorted(map(ids.index, ours.item_ids))
    assert check_folder(folder)["modalities"]["text"]["rows_unused"] == ITEMS - ours.n_items


@pytest.mark.parametrize("named", [True, False])
def test_details_of_items_are_copied(data, published, tmp_path, named, lines):
    listed = pl.read_csv(published / "i_id_mapping.csv", separator="\t")
    details = pl.DataFrame(
        {
            "itemID": listed["asin"] if named else listed["itemID"],
            "title": [f"Thing {row}" for row in range(ITEMS)],
            "categories": ["Home|Room"] * ITEMS,
            "url": [f"http://example.org/{row}" for row in range(ITEMS)],
        }
    )
    details.head(ITEMS - 2).write_csv(published / "items.csv")
    folder = make(data, tmp_path)
    found = pl.read_csv(folder / "items.csv")
    assert found["itemID"].to_list() == [*range(ITEMS)]
    assert found.head(ITEMS - 2).drop("itemID").equals(details.head(ITEMS - 2).drop("itemID"))
    assert check_folder(folder)["items"] == {"without_metadata": 2, "metadata_unused": 0}
    files = {name: lines.raw(published / name) for name in ("items.csv", "baby.inter")}
    files["interactions"] = files.pop("baby.inter")
    frame, _ = data.read_items(files, data.id_orders(files)["item"])
    assert frame["text"].to_list() == [*(f"Thing {row} Home Room" for row in range(8)), "", ""]


def test_an_order_without_time_is_copied(data, published, tmp_path):
    frame = pl.read_csv(published / "baby.inter", separator="\t").sort("userID", "timestamp")
    place = pl.int_range(pl.len()).over("userID").alias("position")
    frame.with_columns(place).drop("timestamp").sample(
        fraction=1.0, shuffle=True, seed=1
    ).write_csv(published / "baby.inter", separator="\t")
    folder = make(data, tmp_path)
    theirs, ours = (read_folder(path.parent, path.name) for path in (published, folder))
    assert torch.equal(theirs.interactions.item, ours.interactions.item)
    assert not ours.clock
    assert ours.interactions.time.tolist() == [*range(6)] * 2 + [*range(5)] * (USERS - 2)


def test_a_folder_is_downloaded_from_the_first_mirror_that_has_it(
    data, published, server, tmp_path
):
    for name in FILES:
        server.files[f"/sets/baby/{name}"] = (published / name).read_bytes()
    mirrors = [f"{server.url}/gone", f"{server.url}/sets/baby/"]
    loaded = replace(data, source_folder=None, mirrors=mirrors, files=FILES, name="baby")
    folder = make(loaded, tmp_path)
    assert check_folder(folder)["sources"]["image_feat.npy"]["url"] == mirrors[1] + "image_feat.npy"
    copied = (make(data, tmp_path) / "mine.inter").read_bytes()
    assert (folder / "baby.inter").read_bytes() == copied
    server.files.clear()
    again = make(replace(loaded, root=str(tmp_path / "again")), tmp_path, offline=True)
    assert (again / "baby.inter").read_bytes() == copied
    with pytest.raises(DataError) as error:
        make(replace(loaded, files=FILES[:-1]), tmp_path)
    assert error.value.file.endswith("i_id_mapping.csv")


def test_a_web_page_in_place_of_a_file_is_an_error(data, published, server, tmp_path):
    for name in FILES:
        server.files[f"/{name}"] = (published / name).read_bytes()
    server.files["/text_feat.npy"] = b"<html>quota exceeded</html>"
    mirrors, page = [server.url], "http://example.org/sets"
    loaded = replace(data, source_folder=None, mirrors=mirrors, files=FILES, page=page)
    with pytest.raises(DataError) as error:
        make(loaded, tmp_path)
    assert "web page" in error.value.problem
    assert page in error.value.hint


def test_a_malformed_line_is_named(data, published, tmp_path):
    with (published / "baby.inter").open("a") as file:
        file.write("3\tfour\t5.0\t1300000000\t0\n")
    with pytest.raises(DataError) as error:
        make(data, tmp_path)
    assert (error.value.file, error.value.line) == ("baby/baby.inter", 64)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("image_feat.npy", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        ("image_feat.npy", lambda path: np.save(path, np.array([{}] * ITEMS), allow_pickle=True)),
        ("baby.inter", lambda path: path.write_text("<html>moved</html>\n")),
        ("i_id_mapping.csv", lambda path: path.write_text("asin\titemID\na\t0\na\t1\n")),
    ],
)
def test_a_spoiled_file_is_named(data, published, tmp_path, name, spoil):
    spoil(published / name)
    with pytest.raises(DataError) as error:
        make(data, tmp_path)
    assert error.value.file == f"baby/{name}"


def test_fewer_rows_of_features_than_items_are_an_error(data, published, tmp_path):
    np.save(published / "image_feat.npy", np.ones((ITEMS - 3, 2)))
    with pytest.raises(DataError) as error:
        make(data, tmp_path)
    assert "image_feat.npy" in str(error.value)


def test_another_content_than_the_known_one_is_an_error(data, published, tmp_path):
    with pytest.raises(DataError) as error:
        make(replace(data, sha256={"image_feat.npy": "0" * 64}), tmp_path)
    assert error.value.file == str(published / "image_feat.npy")


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"source_folder": None}, "data.source_folder"),
        ({"source_folder": "missing"}, "data.source_folder"),
        ({"files": ["../baby.inter"]}, "data.files"),
        ({"labels": "missing.inter"}, "data.labels"),
    ],
)
def test_a_wrong_setting_is_named(data, change, setting):
    with pytest.raises(SettingError) as error:
        replace(data, **change).check()
    assert error.value.setting == setting


def test_an_encoder_needs_texts(data, tmp_path):
    with pytest.raises(SettingError) as error:
        replace(data, text_model="an/encoder").fetch(Fetcher(tmp_path))
    assert error.value.setting == "data.text_model"
