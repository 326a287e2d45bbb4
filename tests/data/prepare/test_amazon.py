"""Files in the formats of Amazon 2018 and 2023 become a folder that a run reads."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import polars as pl
import pytest

from mmrec.config.errors import DataError
from mmrec.data import read_folder
from mmrec.data.prepare import Amazon2018, Amazon2023, Fetcher, check_folder, prepare_folder

ITEMS = 40
UNKNOWN = 3  # an item without metadata
PICTURE = "https://m.media-amazon.com/images/I/{}.{}.jpg"


def review2018(row, _):
    return {**row, "verified": True, "vote": "2", "style": {"Format:": " Print"}, "image": ["x"]}


def meta2018(item):
    return {
        "category": ["Musical Instruments", f"Room | {item % 3}", "</span>"],
        "description": ["It's <b>number</b>", f"{item}."],
        "title": f"The &quot;big&quot; thing {item}",
        "brand": f"Brand {item % 2}",
        "also_buy": ["B1"],
        "imageURL": [PICTURE.format(item, "_SX38_")],
        "imageURLHighRes": [PICTURE.format(item, "_SL_")] if item % 2 else [],
        "asin": f"B{item:09d}",
    }


def review2023(row, number):
    return {
        "rating": row["overall"],
        "title": "Fine",
        "text": 'Says "asin"',
        "images": [],
        "asin": "B_A_VARIANT",
        "parent_asin": row["asin"],
        "user_id": row["reviewerID"],
        "timestamp": row["unixReviewTime"] * 1000 + number % 1000,
        "helpful_vote": 0,
        "verified_purchase": True,
    }


def meta2023(item):
    sizes = {size: PICTURE.format(item, size) for size in ("thumb", "large", "hi_res")}
    other = dict.fromkeys(sizes, PICTURE.format("other", "large")) | {"variant": "PT01"}
    return {
        "main_category": "Musical Instruments",
        "title": f"The big thing {item}",
        "average_rating": 4.5,
        "features": ["Loud", "Red"],
        "description": ["It's number", f"{item}."],
        "price": None,
        "images": [other, {**sizes, "variant": "MAIN"}],
        "videos": [],
        "store": f"Brand {item % 2}",
        "categories": ["Musical Instruments", f"Room | {item % 3}"],
        "details": {"UPC": "1"},
        "parent_asin": f"B{item:09d}",
        "bought_together": None,
    }


RELEASES = {
    "2018": (
        Amazon2018,
        "/categoryFilesSmall/Guitars_5.json.gz",
        "/metaFiles2/meta_Guitars.json.gz",
        review2018,
        meta2018,
    ),
    "2023": (
        Amazon2023,
        "/review_categories/Guitars.jsonl.gz",
        "/meta_categories/meta_Guitars.jsonl.gz",
        review2023,
        meta2023,
    ),
}


@pytest.fixture(params=RELEASES)
def release(request, server, lines, tmp_path, monkeypatch):
    """A small category on the server."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    made = Release(server, tmp_path, *RELEASES[request.param])
    rows = [made.review(row, number) for number, row in enumerate(lines.reviews())]
    server.files[made.reviews] = lines.packed(map(json.dumps, rows))
    listed = [made.meta(item) for item in range(ITEMS) if item != UNKNOWN]
    server.files[made.metadata] = lines.packed(map(json.dumps, listed))
    return made


class Release:
    def __init__(self, server, tmp_path, source, reviews, metadata, review, meta):
        self.server, self.tmp_path, self.source = server, tmp_path, source
        self.reviews, self.metadata = reviews, metadata
        self.review, self.meta = review, meta

    def prepare(self, offline=False, **settings):
        given = {"category": "Guitars", "mirrors": [self.server.url], "k_core": 5, **settings}
        data = self.source(name="guitars", **{"root": str(self.tmp_path / "sets"), **given})
        fetcher = Fetcher(self.tmp_path / "raw", offline, wait=0.01, attempts=2)
        return prepare_folder(data, fetcher, {})

    def spoil(self, path, *lines):
        """Put lines into a file, from its third line on."""
        whole = gzip.decompress(self.server.files[path]).split(b"\n")
        whole[2:2] = [line.encode() for line in lines]
        self.server.files[path] = gzip.compress(b"\n".join(whole))


def test_the_folder_holds_the_core_with_its_content(release, core):
    folder = release.prepare(split="leave_one_out")
    source = read_folder(folder.parent, "guitars")
    user = source.user_ids.gather(source.interactions.user.numpy())
    item = source.item_ids.gather(source.interactions.item.numpy())
    assert {*zip(user, item, strict=True)} == core
    assert source.interactions.time.min() > 1_299_999_999
    assert source.interactions.time.max() < 1_400_000_000
    details = pl.read_csv(folder / "items.csv")
    assert details.columns == ["itemID", "title", "brand", "categories", "image_url"]
    for row, name in enumerate(source.item_ids):
        number = int(name[1:])
        known = number != UNKNOWN
        title, brand, path, url = details.row(row)[1:]
        if known:
            quoted = '"big"' if release.source is Amazon2018 else "big"
            assert title == f"The {quoted} thing {number}"
            assert (brand, path) == (
                f"Brand {number % 2}",
                f"Musical Instruments|Room / {number % 3}",
            )
            size = "large" if release.source is Amazon2023 else ("_SX38_", "_SL_")[number % 2]
            assert url == PICTURE.format(number, size)
        else:
            assert title == url == ""
    manifest = check_folder(folder)
    assert manifest["items"]["without_metadata"] == 1
    assert manifest["items"]["metadata_unused"] == ITEMS - 1 - (len(source.item_ids) - 1)
    assert manifest["sources"]["reviews"]["url"] == release.server.url + release.reviews


def test_the_text_of_an_item_is_made_of_its_fields(release, lines):
    folder = release.tmp_path / "raw"
    release.prepare()
    data = release.source(name="guitars", category="Guitars", mirrors=[])
    files = {"metadata": lines.raw(folder / release.metadata.rpartition("/")[2])}
    frame, _ = data.read_items(files, pl.Series(["B000000004", "B000000003"]))
    said = {
        Amazon2018: 'The "big" thing 4 Brand 0 Musical Instruments Room / 1 It\'s number 4.',
        Amazon2023: "The big thing 4 Brand 0 Musical Instruments Room / 1 Loud Red It's number 4.",
    }
    assert frame["text"].to_list() == [said[release.source], ""]


def test_malformed_lines_are_counted(release, core):
    bad = ["not json", "[1]", '{"asin": 7, "parent_asin": 7, "rating": 1, "overall": 1}']
    release.spoil(release.reviews, *bad)
    release.spoil(release.metadata, "{'asin': 'B000000001'", '{"title": "no id"}')
    manifest = check_folder(release.prepare())
    assert manifest["stages"][0]["malformed_lines"] == 3
    assert manifest["counts"]["interactions"] == len(core)
    assert manifest["items"]["malformed_lines"] == 2


def test_too_many_malformed_lines_are_an_error(release):
    release.spoil(release.reviews, "one", "two")
    with pytest.raises(DataError) as error:
        release.prepare(malformed_lines=1)
    assert (error.value.line, error.value.found) == (4, "two")


@pytest.mark.parametrize("role", ["reviews", "metadata"])
def test_a_truncated_file_is_an_error(release, role):
    path = getattr(release, role)
    release.server.files[path] = release.server.files[path][:-20]
    with pytest.raises(DataError) as error:
        release.prepare()
    assert error.value.file.endswith(path.rpartition("/")[2])
    assert "ends early" in error.value.problem


def test_a_web_page_instead_of_a_file_is_an_error(release):
    release.server.files[release.metadata] = b"<html>moved</html>"
    with pytest.raises(DataError) as error:
        release.prepare()
    assert "web page" in error.value.problem
    assert release.source.page in error.value.hint


def test_a_second_mirror_and_then_no_server(release):
    gone = f"{release.server.url}/gone"
    folder = release.prepare(mirrors=[gone, release.server.url])
    before = (folder / "guitars.inter").read_bytes()
    release.server.files.clear()
    release.server.requests.clear()
    again = release.prepare(offline=True, mirrors=[], root=str(release.tmp_path / "again"))
    assert (again / "guitars.inter").read_bytes() == before
    assert release.server.requests == []


def test_the_first_review_of_a_pair_is_kept(tmp_path, lines):
    rows = [("ann", "x", 9_500), ("ann", "x", 9_400), ("ann", "y", 9_450), ("bob", "x", 1_000)]
    path = tmp_path / "r.jsonl.gz"
    fields = ("user_id", "parent_asin", "timestamp")
    listed = [dict(zip(fields, row, strict=True)) | {"rating": 4.0} for row in rows]
    path.write_bytes(lines.packed(map(json.dumps, listed)))
    data = Amazon2023(name="x", category="x", mirrors=[])
    frame, _ = data.read_interactions({"reviews": lines.raw(path)})
    assert frame.select("user", "item", "time").rows() == [
        ("bob", "x", 1),
        ("ann", "x", 9),
        ("ann", "y", 9),
        ("ann", "x", 9),
    ]


def test_counts_of_published_cores_are_known_for_their_filters():
    data = Amazon2023(name="x", category="Video_Games", mirrors=[], duplicates="pairs", k_core=5)
    assert data.known == {"users": 94762, "items": 25612, "interactions": 814586}
    for change in ({"k_core": 0}, {"min_rating": 4.0}, {"category": "Other"}):
        assert replace(data, **change).known == {}
    assert replace(data, expected={"users": 2}).known == {"users": 2}


@pytest.mark.parametrize("source", [Amazon2018, Amazon2023])
@pytest.mark.parametrize(
    "record",
    [
        {},
        {"title": 7, "category": "x", "categories": None, "imageURL": "x", "images": "x"},
        {"description": [1, None], "images": [None, {"large": None, "hi_res": "ftp://x"}]},
        {"title": "var t = new Date().getTime();", "images": [{}], "imageURLHighRes": [3]},
    ],
)
def test_fields_of_another_type_count_as_missing(source, record):
    found = source(name="x", category="x", mirrors=[]).details(record)
    title = record["title"] if "getTime" in str(record) and source is Amazon2023 else None
    assert found.pop("title") == title
    assert not any(found.values())


@pytest.mark.parametrize(
    "field", [{"user": ["x"]}, {"item": {"a": 1}}, {"user": ""}, {"rating": "inf"}, {"time": 2**70}]
)
def test_a_review_of_other_types_is_malformed_on_every_path(release, core, field):
    review = dict(zip(("user", "item", "rating", "time"), release.source.review, strict=True))
    [(role, value)] = field.items()
    good = {review["user"]: "A9", review["item"]: "B9", review["rating"]: 5.0, review["time"]: 1}
    line = json.dumps(good | {review[role]: value})
    release.spoil(release.reviews, line.replace('"inf"', "1e999"))
    manifest = check_folder(release.prepare())
    assert manifest["stages"][0]["malformed_lines"] == 1
    assert manifest["counts"]["interactions"] == len(core)
