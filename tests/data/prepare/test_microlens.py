"""Files in the formats of MicroLens become a folder that a run reads."""

from __future__ import annotations

import csv
import io
import random
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mmrec.config.errors import DataError, SettingError
from mmrec.data import read_folder
from mmrec.data.prepare import Fetcher, MicroLens, check_folder, prepare_folder
from mmrec.data.prepare.microlens import TITLES, VECTORS

UNKNOWN = 3  # an item without a title
START = 1_583_378_629_552  # milliseconds


def pairs():
    draw = random.Random(5)
    return [
        (user, item, START + draw.randrange(10**9))
        for user in range(1, 31)
        for item in draw.sample(range(1, 13), 8)
    ]


def title(item):
    return f'Video, the "{item}"' if item % 2 else f"Two\nlines {item}"


def pairs_csv(bad=()):
    lines = [",".join(map(str, row)) for row in pairs()]
    lines[2:2] = bad
    return "\n".join(["user,item,timestamp", *lines, ""]).encode()


def titles_csv(size):
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    if size == "50k":
        table.writerow(["item", "title"])
    table.writerows((item, title(item)) for item in range(1, 15) if item != UNKNOWN)
    start = "" if size == "50k" else "\ufeff"
    return (start + text.getvalue() + "15,plain, with commas\n").encode()


def matrix(kind, rows=15):
    packed = io.BytesIO()
    width = len(kind)
    np.save(packed, np.arange(rows * width, dtype=np.float32).reshape(rows, width))
    return packed.getvalue()


def make(data, tmp_path, offline=False):
    return prepare_folder(data, Fetcher(tmp_path / "raw", offline, wait=0.01, attempts=2), {})


@pytest.fixture(params=TITLES)
def size(request):
    return request.param


@pytest.fixture
def data(server, size, tmp_path, monkeypatch):
    """Settings that download small files."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    place = f"/MicroLens-{size}-Dataset"
    server.files[f"{place}/MicroLens-{size}_pairs.csv"] = pairs_csv()
    server.files[f"{place}/{TITLES[size]}"] = titles_csv(size)
    for kind, name in VECTORS.items():
        server.files[f"{place}/extracted_modality_features/{name}"] = matrix(kind)
    return MicroLens(
        name="videos",
        root=str(tmp_path / "sets"),
        size=size,
        mirrors=[server.url],
        vectors=[*VECTORS] if size == "100k" else [],
        k_core=5,
    )


def path_of(server, part):
    [path] = [path for path in server.files if part in path]
    return path


def test_the_folder_holds_views_titles_and_vectors(data, tmp_path, size):
    folder = make(data, tmp_path)
    source = read_folder(folder.parent, "videos")
    user = source.user_ids.gather(source.interactions.user.numpy()).cast(pl.Int64)
    item = source.item_ids.gather(source.interactions.item.numpy()).cast(pl.Int64)
    times = source.interactions.time.tolist()
    assert {*zip(user, item, times, strict=True)} == {(u, i, t // 1000) for u, i, t in pairs()}
    assert {*source.modalities} == {*data.vectors}
    for row, name in enumerate(source.item_ids):
        number = int(name)
        known = "" if number == UNKNOWN else title(number).replace("\n", " ")
        assert source.item_titles[row] == known
        for kind, content in source.modalities.items():
            assert content.features[row, 0] == (number - 1) * len(kind)
    manifest = check_folder(folder)
    assert manifest["items"] == {
        "without_metadata": 1,
        "metadata_unused": 3,
        "malformed_lines": 0,
    }
    if size == "100k":
        assert manifest["modalities"]["video"]["rows_unused"] == 3


def test_views_within_a_second_keep_their_order(tmp_path, lines):
    path = tmp_path / "pairs.csv"
    path.write_text("user,item,timestamp\n1,7,5900\n1,8,5100\n")
    data = MicroLens(name="videos", size="50k")
    frame, _ = data.read_interactions({"pairs": lines.raw(path)})
    assert frame.rows() == [("1", "8", 5), ("1", "7", 5)]


def test_counts_of_the_file_are_compared_with_published_ones(data, tmp_path, size, caplog):
    make(data, tmp_path)
    [said] = [line for line in caplog.messages if "not the published set" in line]
    assert ("359,708" if size == "50k" else "719,405") in said


def test_malformed_lines_are_counted(data, server, tmp_path):
    bad = ["1,2", "1,2,yesterday", "<html>"]
    server.files[path_of(server, "pairs")] = pairs_csv(bad)
    server.files[path_of(server, TITLES[data.size])] += b"no id,title\n16\n"
    manifest = check_folder(make(data, tmp_path))
    assert manifest["stages"][0]["malformed_lines"] == 3
    assert manifest["items"]["malformed_lines"] == 2
    with pytest.raises(DataError) as error:
        make(replace(data, name="other", malformed_lines=2), tmp_path)
    assert error.value.line == 6


def test_a_folder_of_the_files_replaces_downloads(data, server, tmp_path):
    given = tmp_path / "given"
    for path, content in server.files.items():
        place = given / path.split("/", 2)[2]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    before = sorted(given.rglob("*"))
    there = replace(data, source_folder=str(given), root=str(tmp_path / "again"))
    first, second = make(data, tmp_path), make(there, tmp_path, offline=True)
    assert (first / "videos.inter").read_bytes() == (second / "videos.inter").read_bytes()
    assert sorted(given.rglob("*")) == before
    (given / TITLES[data.size]).unlink()
    with pytest.raises(DataError) as error:
        make(replace(there, name="other"), tmp_path)
    assert error.value.file == str(given / TITLES[data.size])
    (given / TITLES[data.size]).write_text("<html>moved</html>")
    with pytest.raises(DataError) as error:
        make(replace(there, name="other"), tmp_path)
    assert "web page" in error.value.problem


@pytest.mark.parametrize(
    ("part", "content", "problem"),
    [
        ("pairs", b"<!DOCTYPE html>moved", "web page"),
        ("pairs", b"userID,videoID\n1,2\n", "user,item,timestamp"),
        ("CLIPRN50", b"<html>", "web page"),
        ("CLIPRN50", b"0.1,0.2\n", "not an array of NumPy"),
        ("CLIPRN50", matrix("image")[:-8], "cannot be read"),
        ("CLIPRN50", matrix("image", rows=11), "11 rows, and 1 items of larger ids"),
    ],
)
@pytest.mark.parametrize("size", ["100k"], indirect=True)
def test_a_spoiled_file_is_an_error(data, server, tmp_path, part, content, problem):
    server.files[path_of(server, part)] = content
    with pytest.raises(DataError) as error:
        make(data, tmp_path)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"size": "50k"}, "data.vectors"),
        ({"text_model": "an/encoder"}, "data.text_model"),
        ({"source_folder": "missing"}, "data.source_folder"),
        ({"labels": "missing.inter"}, "data.labels"),
    ],
)
def test_a_wrong_setting_is_named(change, setting):
    data = MicroLens(name="videos", size="100k", vectors=["image", "text"])
    with pytest.raises(SettingError) as error:
        replace(data, **change).check()
    assert error.value.setting == setting
