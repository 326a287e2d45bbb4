"""Pictures in a folder become a modality, and items without one lack it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mmrec.config.errors import DataError, SettingError
from mmrec.data import read_folder
from mmrec.data.prepare import Fetcher, TableColumns, Tables, check_folder, media, prepare_folder
from mmrec.data.prepare.media import named_by_column, named_by_id

IDS = pl.Series(["a", "b/c", "d", "e", "f"])


@pytest.fixture
def folder(tmp_path):
    """Files of three items, and two that no item has."""
    for name in ("a.PNG", "a.jpg", "b/c.webp", "deep/d.png", "e.txt", "stray.gif"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "secret.png").write_text("outside")
    return tmp_path / "pictures"


def below(folder, found):
    return [path.removeprefix(f"{folder}/") for path in found]


def test_files_are_found_by_item_id(folder, caplog):
    places = named_by_id("image", folder, IDS, {".png", ".jpg", ".webp", ".gif"})
    assert below(folder, places.found) == ["a.PNG", "b/c.webp", "deep/d.png", "", ""]
    assert (places.without, places.unused) == ({"not_found": 2}, 2)
    assert "2 of 5 items have no picture" in caplog.text
    assert ": e, f" in caplog.text


def test_a_column_names_files_and_urls(folder, caplog):
    names = pl.Series(["stray.gif", " HTTPS://x.org/1.jpg ", None, "../secret.png", "a.jpg"])
    places = named_by_column("image", folder, names)
    assert below(folder, places.found) == ["stray.gif", "HTTPS://x.org/1.jpg", "", "", "a.jpg"]
    assert (places.without, places.unused) == ({"no_name": 1, "not_found": 1}, 4)
    assert "../secret.png" in caplog.text
    with pytest.raises(DataError) as error:
        named_by_column("image", None, names)
    assert (error.value.found, error.value.expected) == ("stray.gif", "URLs")
    assert "data.images" in error.value.hint


@pytest.fixture
def shop(tmp_path, monkeypatch, colours):  # noqa: ARG001
    """Six items: two share a picture, one is damaged, one is missing."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(media, "BLOCK", 2)
    rows = [f"u{user},i{(user + step) % 6}" for user in range(6) for step in range(5)]
    (tmp_path / "orders.csv").write_text("\n".join(["userID,itemID", *rows]))
    items = "".join(f"i{number},pic {number}.png\n" for number in range(5))
    (tmp_path / "items.csv").write_text(f"itemID,file\n{items}i5,\n")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        colour = (10 * max(number, 1), 0, 100)  # items 0 and 1 have the same
        Image.new("RGB", (8, 8), colour).save(pictures / f"pic {number}.png")
    (pictures / "pic 4.png").write_bytes(b"no picture")
    return Tables(
        name="shop",
        root=str(tmp_path / "sets"),
        interactions=str(tmp_path / "orders.csv"),
        items=str(tmp_path / "items.csv"),
        columns=TableColumns(image="file"),
        images=str(pictures),
        image_model="timm:colours",
    )


def make(data, tmp_path, **options):
    return prepare_folder(data, Fetcher(tmp_path / "downloads"), {}, **options)


def test_pictures_become_a_modality(shop, tmp_path, colours, caplog):
    folder = make(shop, tmp_path)
    manifest = check_folder(folder)
    assert manifest["modalities"]["image"] == {
        "width": 3,
        "missing": 2,
        "fill": None,
        "rows_unused": 0,
        "without": {"no_name": 1, "not_found": 0, "corrupt": 1},
    }
    assert manifest["image_encoder"] == {"model": "timm:colours", "colours": "1"}
    source = manifest["sources"]["images"]
    sizes = [path.stat().st_size for path in (tmp_path / "pictures").iterdir()]
    assert (source["file"], source["bytes"]) == ("pictures", sum(sizes))
    assert "1 of 6 items have a picture that cannot be decoded" in caplog.text
    assert "pic 4.png (cannot identify image file" in caplog.text
    assert sorted(colours.seen) == [*(f"pic {n}.png" for n in (0, 2, 3, 4))]  # equal ones once

    found = read_folder(folder.parent, "shop")
    picture = found.modalities["image"]
    for row, name in enumerate(found.item_ids):
        number = int(name[1:])
        assert picture.present[row] == (number < 4)
        if number < 4:
            assert picture.features[row].tolist() == [10 * max(number, 1), 0, 100]


def test_another_picture_makes_another_set(shop, tmp_path):
    make(shop, tmp_path)
    Image.new("RGB", (8, 8), (7, 7, 7)).save(tmp_path / "pictures" / "pic 4.png")
    with pytest.raises(SettingError) as error:
        make(shop, tmp_path)
    assert "overwrite=true" in error.value.hint
    manifest = check_folder(make(shop, tmp_path, overwrite=True))
    assert manifest["modalities"]["image"]["without"]["corrupt"] == 0


def test_killed_work_encodes_nothing_twice(shop, tmp_path, colours, monkeypatch):
    encode = colours.encode

    def killed(self, items):
        if len(self.seen) >= 2:
            raise KeyboardInterrupt
        return encode(self, items)

    monkeypatch.setattr(colours, "encode", killed)
    with pytest.raises(KeyboardInterrupt):
        make(shop, tmp_path)
    monkeypatch.setattr(colours, "encode", encode)
    folder = make(shop, tmp_path)
    assert sorted(colours.seen) == [*(f"pic {n}.png" for n in (0, 2, 3, 4))]
    assert np.isnan(np.load(folder / "image_feat.npy")).all(1).sum() == 2


def test_nothing_to_decode_is_an_error(shop, tmp_path):
    for path in (tmp_path / "pictures").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError) as error:
        make(shop, tmp_path)
    assert error.value.problem == "none of 5 pictures can be decoded"
    with pytest.raises(DataError) as error:
        make(replace(shop, columns=TableColumns()), tmp_path)  # no file is named by id
    assert error.value.problem == "no item has a picture"


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"image_model": None}, "data.images"),
        ({"image_model": None, "images": None}, "data.columns.image"),
        ({"images": None, "columns": TableColumns()}, "data.image_model"),
        ({"items": None}, "data.columns.image"),
        ({"images": "nowhere"}, "data.images"),
        ({"image_model": "colours"}, "data.image_model"),
        ({"features": {"image": {"file": "x.npy"}}}, "data.image_model"),
    ],
)
def test_settings_that_contradict_each_other_are_named(shop, tmp_path, change, setting):
    with pytest.raises(SettingError) as error:
        make(replace(shop, **change), tmp_path)
    assert error.value.setting == setting
