"""The user's own tables become a folder that a run reads."""

from __future__ import annotations

import errno
import json
import os
import random
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from filelock import FileLock

from mmrec.config.errors import DataError, SettingError
from mmrec.data import read_folder
from mmrec.data.prepare import Fetcher, TableColumns, Tables, check_folder, prepare_folder

COLUMNS = TableColumns(user="customer", item="sku", time="when", rating="stars", title="name")
VERSIONS = {"mmrec": "0"}


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Settings for a small shop with ratings, items and pictures."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    draw = random.Random(0)
    rows = ["customer,sku,stars,when"]
    for user in range(30):
        for item in draw.sample(range(20), 12):
            when = 1_700_000_000_000 + draw.randrange(10**9)
            rows.append(f"u{user},B{item:02d},{draw.randint(1, 5)},{when}")
    (tmp_path / "orders.csv").write_text("\n".join(rows) + "\n")
    items = ["sku;name;categories;colour"]
    items += [f'B{item:02d};"Thing {item}";Home, Room {item % 3};red' for item in range(1, 25)]
    (tmp_path / "items.csv").write_text("\n".join(items) + "\n")
    features = np.arange(24 * 3, dtype=np.float64).reshape(24, 3)
    np.save(tmp_path / "image.npy", features)
    return Tables(
        name="shop",
        root=str(tmp_path / "sets"),
        interactions=str(tmp_path / "orders.csv"),
        columns=COLUMNS,
        min_rating=2,
        k_core=3,
        items=str(tmp_path / "items.csv"),
        category_separator=", ",
        features={"image": {"file": str(tmp_path / "image.npy")}},
    )


def make(data, tmp_path, **options):
    return prepare_folder(data, Fetcher(tmp_path / "downloads"), VERSIONS, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def naive_core(pairs, k):
    pairs = [*pairs]
    while True:
        kept = [
            (user, item)
            for user, item in pairs
            if sum(u == user for u, _ in pairs) >= k and sum(i == item for _, i in pairs) >= k
        ]
        if kept == pairs:
            return {*kept}
        pairs = kept


def test_the_folder_holds_what_the_tables_say(shop, tmp_path):
    folder = make(shop, tmp_path)
    orders = pl.read_csv(tmp_path / "orders.csv")
    liked = orders.filter(pl.col("stars") >= 2)
    source = read_folder(folder.parent, "shop")
    assert source.user_ids is not None
    assert source.item_ids is not None
    users, items = source.interactions.user.numpy(), source.interactions.item.numpy()
    pairs = [*zip(source.user_ids.gather(users), source.item_ids.gather(items), strict=True)]
    assert {*pairs} == naive_core(zip(liked["customer"], liked["sku"], strict=True), 3)
    when = {(user, item): time // 1000 for user, item, _, time in orders.rows()}
    assert source.interactions.time.tolist() == [when[pair] for pair in pairs]

    picture = source.modalities["image"]
    for row, name in enumerate(source.item_ids):
        number = int(name[1:])
        assert picture.present[row] == (number > 0)  # B00 is not in the table of items
        if number:
            assert picture.features[row].tolist() == [
                3 * number - 3,
                3 * number - 2,
                3 * number - 1,
            ]
            assert source.item_titles[row] == f"Thing {number}"
    assert {*source.categories.names} == {"Home", "Room 0", "Room 1", "Room 2"}
    assert "colour" in pl.read_csv(folder / "items.csv").columns
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["shop"]


def test_the_manifest_tells_how_it_was_made(shop, tmp_path):
    folder = make(shop, tmp_path)
    manifest = check_folder(folder)
    stages = {stage["stage"]: stage for stage in manifest["stages"]}
    assert [*stages] == ["parse", "min_rating=2", "duplicates=exact", "k_core=3", "split"]
    assert stages["parse"]["interactions"] == stages["parse"]["rows"] == 360
    split = stages["split"]
    assert split["train"] + split["val"] + split["test"] == manifest["counts"]["interactions"]
    assert manifest["items"] == {"without_metadata": 1, "metadata_unused": 5}
    assert manifest["modalities"]["image"]["missing"] == 1
    assert manifest["settings"]["k_core"] == 3
    assert manifest["versions"] == VERSIONS
    assert {*manifest["sources"]} == {"interactions", "items", "features.image.file"}
    assert str(tmp_path / "sets") not in json.dumps(manifest)


def test_the_same_seed_gives_the_same_bytes_and_another_another_split(shop, tmp_path):
    first = contents(make(shop, tmp_path))
    again = make(replace(shop, root=str(tmp_path / "again")), tmp_path)
    assert contents(again) == first
    other = make(replace(shop, root=str(tmp_path / "other"), split_seed=1), tmp_path)
    assert contents(other)["shop.inter"] != first["shop.inter"]


def test_a_folder_of_the_same_settings_is_verified_and_left(shop, tmp_path):
    folder = make(shop, tmp_path)
    before = (folder / "shop.inter").stat().st_mtime_ns
    assert make(shop, tmp_path) == folder
    assert (folder / "shop.inter").stat().st_mtime_ns == before
    (folder / "items.csv").write_text("itemID\n0\n")
    with pytest.raises(DataError) as error:
        make(shop, tmp_path)
    assert error.value.file == "shop/items.csv"


def test_a_folder_of_other_settings_is_only_replaced_on_request(shop, tmp_path):
    folder = make(shop, tmp_path)
    other = replace(shop, k_core=0)
    with pytest.raises(SettingError) as error:
        make(other, tmp_path)
    assert error.value.setting == "data.name"
    assert "overwrite=true" in error.value.hint
    (folder / "images").mkdir()
    (folder / "images/1.jpg").write_bytes(b"a picture of the user")
    make(other, tmp_path, overwrite=True)
    assert check_folder(folder)["settings"]["k_core"] == 0
    assert (folder / "images/1.jpg").read_bytes() == b"a picture of the user"
    assert not folder.with_name(f".preparing-{folder.name}").exists()
    (folder / "manifest.json").unlink()
    with pytest.raises(SettingError) as error:
        make(shop, tmp_path, overwrite=True)  # of a folder that somebody else made
    assert "overwrite" not in error.value.hint


def test_a_second_process_is_refused_while_the_first_works(shop, tmp_path):
    (tmp_path / "sets").mkdir()
    with FileLock(tmp_path / "sets" / ".preparing-shop.lock"), pytest.raises(SettingError) as error:
        make(shop, tmp_path)
    assert error.value.problem.startswith("another process prepares")


def test_a_killed_call_goes_on_where_it_stopped(shop, tmp_path, monkeypatch):
    from mmrec.data.prepare import write

    whole = contents(make(replace(shop, root=str(tmp_path / "whole")), tmp_path))
    copied = write._write_matrix

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_write_matrix", killed)
    with pytest.raises(KeyboardInterrupt):
        make(shop, tmp_path)
    assert not shop.folder.exists()
    left = tmp_path / "sets" / ".preparing-shop" / "shop" / "shop.inter"
    inode = left.stat().st_ino
    monkeypatch.setattr(write, "_write_matrix", copied)
    monkeypatch.setattr(Tables, "read_interactions", killed)  # it is cached
    folder = make(shop, tmp_path)
    assert (folder / "shop.inter").stat().st_ino == inode
    assert contents(folder) == whole


def test_published_labels_replace_the_split(shop, tmp_path):
    folder = make(shop, tmp_path)
    published = tmp_path / "published"
    published.mkdir()
    source = read_folder(folder.parent, "shop")
    pairs = pl.DataFrame(
        {
            "userID": source.interactions.user.numpy(),
            "itemID": source.interactions.item.numpy(),
            "x_label": np.arange(len(source.interactions)) % 3,
        }
    )
    users = pl.DataFrame({"userID": range(source.n_users), "original": source.user_ids})
    flipped = source.n_users - 1 - pl.col("userID")  # numbered in another order
    pairs.with_columns(flipped.alias("userID")).write_csv(published / "shop.inter", separator="\t")
    users.with_columns(flipped.alias("userID")).write_csv(
        published / "u_id_mapping.csv", separator="\t"
    )
    labelled = replace(shop, root=str(tmp_path / "l"), labels=str(published / "shop.inter"))
    found = read_folder(make(labelled, tmp_path).parent, "shop")
    assert check_folder(labelled.folder)["split"] == "labels of shop.inter"
    assert found.user_ids.to_list() == source.user_ids.to_list()[::-1]

    def labels(each):
        user = each.user_ids.gather(each.interactions.user.numpy())
        item = each.item_ids.gather(each.interactions.item.numpy())
        return {*zip(user, item, strict=True)}, user, item

    assert labels(found)[0] == labels(source)[0]
    _, user, item = labels(source)
    given = dict(zip(zip(user, item, strict=True), pairs["x_label"], strict=True))
    _, user, item = labels(found)
    assert found.label.tolist() == [given[pair] for pair in zip(user, item, strict=True)]

    pairs.head(5).write_csv(published / "shop.inter", separator="\t")
    with pytest.raises(DataError) as error:
        make(replace(labelled, root=str(tmp_path / "m")), tmp_path)
    assert error.value.expected == "the same pairs"


def test_ids_that_are_row_numbers_stay_row_numbers(tmp_path):
    rows = [(user, (user + 5 * step) % 8) for user in (2, 0, 1) for step in range(3)]
    frame = pl.DataFrame(rows, schema=["userID", "itemID"], orient="row")
    frame = frame.filter(pl.col("itemID") < 8)
    frame.write_csv(tmp_path / "n.csv")
    data = Tables(name="n", root=str(tmp_path / "sets"), interactions=str(tmp_path / "n.csv"))
    folder = make(data, tmp_path)
    source = read_folder(folder.parent, "n")
    assert source.user_ids.to_list() == ["0", "1", "2"]
    user = source.user_ids.gather(source.interactions.user.numpy()).cast(pl.Int64)
    item = source.item_ids.gather(source.interactions.item.numpy()).cast(pl.Int64)
    assert {*zip(user, item, strict=True)} == {*frame.rows()}


@pytest.mark.parametrize(("unit", "factor"), [("seconds", 1), ("microseconds", 10**6)])
def test_a_unit_of_time_is_taken_as_given(tmp_path, unit, factor):
    (tmp_path / "t.csv").write_text(
        f"userID,itemID,timestamp\na,x,{5 * factor}\na,y,{3 * factor}\n"
    )
    files = {"name": "t", "root": str(tmp_path / "sets"), "interactions": str(tmp_path / "t.csv")}
    folder = make(Tables(**files, time_unit=unit, split="none"), tmp_path)
    assert (folder / "t.inter").read_text() == "userID\titemID\ttimestamp\n0\t0\t3\n0\t1\t5\n"


def test_an_order_without_time_is_written(tmp_path):
    (tmp_path / "p.csv").write_text("userID,itemID,position\na,x,7\na,y,3\nb,x,1\n")
    files = {"root": str(tmp_path / "sets"), "interactions": str(tmp_path / "p.csv")}
    folder = make(Tables(name="p", **files, split="none"), tmp_path)
    text = "userID\titemID\tposition\n0\t0\t1\n1\t1\t3\n1\t0\t7\n"
    assert (folder / "p.inter").read_text() == text
    source = read_folder(folder.parent, "p")
    assert source.interactions.time.tolist() == [1, 3, 7]


def test_leave_one_out_holds_out_the_last(shop, tmp_path):
    folder = make(replace(shop, split="leave_one_out"), tmp_path)
    source = read_folder(folder.parent, "shop")
    for user in range(source.n_users):
        label = source.label[source.interactions.user == user]
        assert label.tolist() == [0] * (len(label) - 2) + [1, 2]
    assert torch.equal(source.interactions.user, source.interactions.user.sort().values)


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"name": "../up"}, "data.name"),
        ({"interactions": "missing.csv"}, "data.interactions"),
        ({"features": {"image": {"path": "x"}}}, "data.features.image"),
        ({"items": None}, "data.features.image.ids"),
        ({"items": None, "features": {}, "text": ["name"]}, "data.text"),
        ({"labels": "missing.inter"}, "data.labels"),
        ({"split": "given"}, "data.split"),
    ],
)
def test_a_wrong_setting_is_named(shop, tmp_path, change, setting):
    with pytest.raises(SettingError) as error:
        make(replace(shop, **change), tmp_path)
    assert error.value.setting == setting


def test_vectors_without_ids_need_a_row_for_each_item(shop, tmp_path):
    np.save(tmp_path / "image.npy", np.ones((7, 3), dtype=np.float32))
    with pytest.raises(DataError) as error:
        make(shop, tmp_path)
    assert (error.value.file, error.value.found) == (f"{tmp_path.name}/image.npy", "7 rows")


def test_an_infinite_vector_is_named_by_its_row(shop, tmp_path):
    features = np.ones((24, 3))
    features[6, 1] = np.inf
    np.save(tmp_path / "image.npy", features)
    with pytest.raises(DataError) as error:
        make(shop, tmp_path)
    assert (error.value.row, error.value.column, error.value.found) == (6, 1, "inf")


def test_counts_other_than_known_ones_are_a_warning(shop, tmp_path, caplog):
    make(replace(shop, expected={"users": 30, "interactions": 7}), tmp_path)
    [said] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "instead of 7" in said
    assert check_folder(shop.folder)["unexpected"]["interactions"][1] == 7


def test_items_are_read_again_only_for_what_changes_them(shop, tmp_path, monkeypatch):
    read, real = [], Tables.read_items

    def counted(self, files, ids):
        read.append(self)
        return real(self, files, ids)

    monkeypatch.setattr(Tables, "read_items", counted)
    labels = str(make(shop, tmp_path) / "shop.inter")
    for changed in ({"split_seed": 1}, {"split": "leave_one_out"}, {"labels": labels}):
        make(replace(shop, name=f"with_{next(iter(changed))}", **changed), tmp_path)
    assert len(read) == 1
    make(replace(shop, name="other_categories", category_separator="Room"), tmp_path)
    make(replace(shop, name="other_items", min_rating=4), tmp_path)
    assert len(read) == 3


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_and_the_next_call_goes_on(shop, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mmrec.data.prepare.write._write_matrix", full)
        with pytest.raises(DataError) as error:
            make(shop, tmp_path)
    staging = tmp_path / "sets" / ".preparing-shop" / "shop"
    assert error.value.file == str(staging)
    assert error.value.problem.startswith("cannot write image_feat.npy (No space left on device, ")
    assert "data.root" in error.value.hint
    assert not shop.folder.exists()
    assert not [*staging.glob(".*")]
    before = (staging / "items.csv").stat().st_mtime_ns
    folder = make(shop, tmp_path)
    assert (folder / "items.csv").stat().st_mtime_ns == before


def test_a_stage_that_cannot_be_cached_is_not_lost(shop, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    assert check_folder(make(shop, tmp_path))["counts"]["users"] == 30
    assert "the stage parse is not kept (No space left on device, " in caplog.text
