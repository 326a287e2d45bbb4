"""Files in the formats of Amazon 2014 become a folder that a run reads."""

from __future__ import annotations

import gzip
import json

import numpy as np
import polars as pl
import pytest

from mmrec.config.errors import DataError, SettingError
from mmrec.data import read_folder
from mmrec.data.prepare import Amazon2014, Fetcher, check_folder, prepare_folder
from mmrec.data.prepare.amazon2014 import image_features
from mmrec.data.prepare.lines import literal_record

REVIEWS = "/categoryFiles/reviews_Baby_5.json.gz"
METADATA = "/categoryFiles/meta_Baby.json.gz"
IMAGES = "/image_features/categoryFiles/image_features_Baby.b"


@pytest.fixture
def prepare(amazon, tmp_path, monkeypatch):
    """`prepare(**settings)`: the folder of the small Baby."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))

    def call(**settings):
        given = {"category": "Baby", "mirrors": [amazon.url], "k_core": 5, **settings}
        data = Amazon2014(name="baby", root=str(tmp_path / "sets"), **given)
        return prepare_folder(data, Fetcher(tmp_path / "raw", wait=0.01), {})

    return call


def test_the_folder_holds_the_core_with_its_content(prepare, core):
    folder = prepare()
    source = read_folder(folder.parent, "baby")
    user = source.user_ids.gather(source.interactions.user.numpy())
    item = source.item_ids.gather(source.interactions.item.numpy())
    assert {*zip(user, item, strict=True)} == core
    image = source.modalities["image"]
    for row, name in enumerate(source.item_ids):
        number = int(name[1:])
        assert image.present[row] == (number != 5)
        assert (image.features[row] == (0 if number == 5 else number)).all()
        assert source.item_titles[row] == ("" if number == 3 else f'The "big" thing {number}')
    assert {*source.categories.names} == {"Baby", "Room / 0", "Room / 1", "Room / 2"}
    manifest = check_folder(folder)
    assert manifest["items"]["without_metadata"] == 1
    assert manifest["modalities"]["image"]["missing"] == 1
    assert manifest["sources"]["reviews"]["url"].endswith(REVIEWS)


def test_items_without_an_image_may_get_the_mean(prepare):
    folder = prepare(fill="mean")
    features = np.load(folder / "image_feat.npy")
    ids = pl.read_csv(folder / "i_id_mapping.csv", separator="\t")["original_id"].to_list()
    others = [float(int(name[1:])) for name in ids if name != "B000000005"]
    assert features[ids.index("B000000005"), 0] == pytest.approx(np.mean(others))


def test_without_images_nothing_is_downloaded_for_them(prepare, amazon):
    folder = prepare(image_features=False)
    assert check_folder(folder)["modalities"] == {}
    assert IMAGES not in [path for path, _ in amazon.requests]


def test_pictures_at_their_urls_replace_the_image_features(prepare, amazon, colours, picture):
    metadata = gzip.decompress(amazon.files[METADATA]).replace(
        b"http://example.org", amazon.url.encode()
    )
    amazon.files[METADATA] = gzip.compress(metadata)
    amazon.files |= {f"/{item}.jpg": picture((item, 0, 0)) for item in range(40) if item != 7}
    with pytest.raises(SettingError) as error:
        prepare(image_model="timm:colours")
    assert error.value.setting == "data.image_model"
    folder = prepare(image_model="timm:colours", image_features=False)
    image = check_folder(folder)["modalities"]["image"]
    assert image["without"] == {"no_name": 1, "failed": 1, "corrupt": 0}  # items 3 and 7
    ids = pl.read_csv(folder / "i_id_mapping.csv", separator="\t")["original_id"].to_list()
    features = np.load(folder / "image_feat.npy")
    assert features[ids.index("B000000009")].tolist() == [9, 0, 0]
    assert len(colours.seen) == len(ids) - 2


def spoil(server, path, *lines):
    """Put lines into a gzipped file, from its third line on."""
    whole = gzip.decompress(server.files[path]).split(b"\n")
    whole[2:2] = [line.encode() for line in lines]
    server.files[path] = gzip.compress(b"\n".join(whole))


def test_malformed_lines_are_counted_and_the_first_three_shown(prepare, amazon, core, caplog):
    bad = ["not json", '{"asin": "B1"}', "[1]", '{"reviewerID": "A", "asin": 7}']
    spoil(amazon, REVIEWS, *bad)
    spoil(amazon, METADATA, "{'asin': __import__('os')}", "")
    folder = prepare()
    manifest = check_folder(folder)
    assert manifest["stages"][0]["malformed_lines"] == 4
    assert manifest["items"]["malformed_lines"] == 1
    assert manifest["counts"]["interactions"] == len(core)
    told = [r.getMessage() for r in caplog.records if "is left out" in r.getMessage()]
    assert [line.split(" is left")[0].rpartition(" ")[2] for line in told] == ["3", "4", "5", "3"]


def test_too_many_malformed_lines_are_an_error(prepare, amazon):
    spoil(amazon, REVIEWS, "one", "two")
    with pytest.raises(DataError) as error:
        prepare(malformed_lines=1)
    assert (error.value.line, error.value.found) == (4, "two")


def test_a_truncated_file_is_an_error(prepare, amazon):
    amazon.files[REVIEWS] = amazon.files[REVIEWS][:-20]
    with pytest.raises(DataError) as error:
        prepare()
    assert error.value.file.endswith("reviews_Baby_5.json.gz")
    assert "ends early" in error.value.problem


def test_image_features_that_end_inside_a_record_are_an_error(prepare, amazon):
    amazon.files[IMAGES] = amazon.files[IMAGES][:-100]
    with pytest.raises(DataError) as error:
        prepare()
    assert (error.value.row, error.value.found) == (38, "16294 bytes of a record")


def test_image_features_are_a_memory_map(tmp_path):
    path = tmp_path / "image.b"
    path.write_bytes(b"B000000001" + np.arange(4096, dtype="<f4").tobytes())
    matrix, ids = image_features(path)
    assert isinstance(matrix, np.memmap)
    assert (ids.to_list(), matrix[0, 4095]) == (["B000000001"], 4095)


@pytest.mark.parametrize(
    "line",
    ["open('x')", "[1, 2]", "{'asin': 1 +", "(" * 5000, "{'a': lambda: 0}", "\x00", '"text"'],
)
def test_only_literals_are_read(line):
    with pytest.raises(ValueError):  # noqa: PT011  (its text is not shown)
        literal_record(line.encode())


def test_json_is_read_too():
    assert literal_record(json.dumps({"asin": "B", "new": True}).encode()) == {
        "asin": "B",
        "new": True,
    }
