"""The data card shows what is in a folder, needs no network, and keeps foreign text as text."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mmrec.commands.prepare import prepare
from mmrec.data import read_folder
from mmrec.data.prepare import describe
from mmrec.report.data_card import PIXELS, write_card

ITEMS, USERS, EVIL = 40, 60, "<script>alert(1)</script> | [x](http://e) `a` $10"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A set without manifest: 4 groups of items, aligned text, shuffled image, a gap in both."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "<b>set"
    folder.mkdir()
    draw = np.random.default_rng(0)
    rows = ["userID\titemID\ttimestamp\tx_label"]
    for user in range(USERS):
        liked = draw.choice(np.arange(user % 4, ITEMS, 4), 5, replace=False)
        for place, item in enumerate(liked):
            rows.append(
                f"{user}\t{item}\t{1_300_000_000 + 86_400 * int(user)}\t{max(0, place - 2)}"
            )
    (folder / "<b>set.inter").write_text("\n".join(rows) + "\n")
    features = np.eye(4)[np.arange(ITEMS) % 4] + 0.1 * draw.standard_normal((ITEMS, 4))
    features[7] = np.nan
    np.save(folder / "text_feat.npy", features.astype(np.float32))
    features[np.arange(ITEMS) != 7] = draw.permutation(np.delete(features, 7, axis=0))
    np.save(folder / "image_feat.npy", features.astype(np.float32))
    titles = [f"{EVIL} {item}" for item in range(ITEMS - 1)] + [""]
    pl.DataFrame({"itemID": range(ITEMS), "title": titles, "categories": "Home|a<b"}).write_csv(
        folder / "items.csv"
    )
    (folder / "images").mkdir()
    for item in range(ITEMS):
        Image.new("RGB", (400, 200), (item, 0, 0)).save(folder / "images" / f"{item}.png")
    return folder


@pytest.fixture
def card(folder):
    return describe(read_folder(folder.parent, folder.name), folder)


def test_numbers_are_those_of_the_files(card):
    assert (card.users, card.items, card.interactions) == (USERS, ITEMS, 5 * USERS)
    assert card.density == pytest.approx(5 / ITEMS)
    assert card.parts == {"train": 3 * USERS, "val": USERS, "test": USERS}
    assert card.user_degree.tolist() == [5] * USERS
    assert card.item_degree.sum() == card.periods[1].sum() == 5 * USERS
    assert card.periods[0][0] == 1_300_000_000
    assert (card.categories, card.untitled, card.contentless) == (2, 1, 1)
    text, image = card.content["text"], card.content["image"]
    assert (text.width, text.missing, text.zero) == (4, 1, 0)
    assert text.lift.value > 2
    assert not text.lift.suspicious
    assert image.lift.suspicious
    [warned] = card.warnings
    assert warned.startswith("image: ")
    assert card.alignment()["image"]["suspicious"]
    for item, neighbours in text.samples:
        assert {near.item.row % 4 for near in neighbours} == {item.row % 4}
        assert all(near.cosine > 0.5 for near in neighbours)


def test_the_page_needs_no_network_and_escapes_text(card, folder):
    manifest = {
        "stages": [{"stage": "<script>", "interactions": 3}, "nothing"],
        "sources": {"<script>": {"file": "<script>", "bytes": 5, "sha256": 7}},
        "split": "<script>",
        "unexpected": {"users": [1, 2]},
    }
    html = write_card(folder, card, manifest).read_text()
    assert "<script" not in html
    assert "<b>set" not in html
    assert "&lt;script" in html
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)["']""", html)
    assert all(each.startswith(("data:image/jpeg;base64,", "#")) for each in addresses)
    assert "@import" not in html
    assert card.warnings[0] in html
    text = (folder / "card.md").read_text()
    assert not re.search(r"<(script|b>)", text)
    assert "](http" not in text.replace("\\]", "")
    assert f"**Warning:** {card.warnings[0]}" in text


def test_pictures_are_small_and_a_damaged_or_huge_one_is_left_out(card, folder, caplog):
    damaged, huge = (near.item.picture for near in card.content["text"].samples[0][1][:2])
    damaged.write_bytes(b"no picture")
    Image.new("1", (PIXELS // 1000 + 1, 1000)).save(huge)
    html = write_card(folder, card).read_text()
    found = [b64decode(each) for each in re.findall(r"base64,([^\"]*)", html)]
    shown = [Image.open(BytesIO(each)) for each in found]
    assert {(image.format, image.size) for image in shown} == {("JPEG", (160, 80))}
    assert f"{damaged.name} is not shown (cannot identify" in caplog.text
    assert f"{huge.name} is not shown (50001 x 1000 pixels are too many" in caplog.text


def test_the_same_set_gives_the_same_bytes(card, folder):
    names = ("card.html", "card.md")
    write_card(folder, card)
    first = [(folder / name).read_bytes() for name in names]
    write_card(folder, describe(read_folder(folder.parent, folder.name), folder))
    assert [(folder / name).read_bytes() for name in names] == first


def test_a_set_without_content_and_time_has_a_card(folder):
    for path in folder.glob("*_feat.npy"):
        path.unlink()
    rows = pl.read_csv(folder / "<b>set.inter", separator="\t").select("userID", "itemID")
    rows = pl.concat([rows, rows[:3]])
    rows.write_csv(folder / "<b>set.inter", separator="\t")
    card = describe(read_folder(folder.parent, folder.name), folder)
    html = write_card(folder, card).read_text()
    assert (card.interactions, card.repeats) == (5 * USERS + 3, 3)
    assert card.density == pytest.approx(5 / ITEMS)
    assert (card.periods, card.parts, card.content, card.warnings) == (None, {}, {}, [])
    assert "Concentration" in html
    assert "Neighbours" not in html


def test_a_folder_from_elsewhere_is_checked_and_nothing_is_written(folder, caplog):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    caplog.set_level("INFO")
    assert prepare(check=str(folder)) == folder
    for told in (
        "no manifest.json",
        "300 interactions",
        "180 train, 60 val, 60 test",
        "image: width 4",
    ):
        assert told in caplog.text
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert "features may belong to other items" in caplog.text
    prepare(check=str(folder), card=True)
    written = {path.name for path in folder.rglob("*") if path not in before and path.is_file()}
    assert written == {"card.html", "card.md"}
    (folder / "manifest.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match="it lacks key"):
        prepare(check=str(folder))


def test_a_picture_named_by_an_id_is_of_no_other_item(folder):
    ids = [*range(100, 100 + ITEMS)]
    ids[3] = 5  # row 5 has the id 105
    rows = "\n".join(f"{name},{row}" for row, name in enumerate(ids))
    (folder / "i_id_mapping.csv").write_text("original_id,itemID\n" + rows + "\n")
    source = read_folder(folder.parent, folder.name, ids="rows")
    items = {
        item.row: item.picture
        for content in describe(source, folder).content.values()
        for item, near in content.samples
        for item in (item, *(each.item for each in near))
    }
    assert {row for row, picture in items.items() if picture is not None} <= {3}
