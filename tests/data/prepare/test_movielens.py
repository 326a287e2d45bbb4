"""Archives in the formats of MovieLens become a folder that a run reads."""

from __future__ import annotations

import csv
import io
import random
import zipfile

import polars as pl
import pytest

from mmrec.config.errors import DataError, SettingError
from mmrec.data import read_folder
from mmrec.data.prepare import Fetcher, MovieLens, check_folder, prepare_folder

TITLES = {
    1: ("Toy Story (1995)", "Adventure|Children's|Comedy"),
    2: ("Cité des enfants perdus, La (1995)", "Adventure|Sci-Fi"),
    3: ('Great "Cats", The (1998)', "Musical"),
    4: ("Unnamed (2001)", "(no genres listed)"),
}
UNKNOWN = 11  # a movie that has ratings and no title


def ratings():
    draw = random.Random(3)
    return [
        (user, movie, draw.randint(1, 5), 978_300_000 + draw.randrange(10**6))
        for user in range(1, 21)
        for movie in sorted(draw.sample(range(1, 13), 10))
    ]


def movies():
    others = {movie: (f"Movie {movie} (1990)", "Drama") for movie in (*range(5, 13), 99)}
    listed = {**TITLES, **others}
    return [(movie, *listed[movie]) for movie in listed if movie != UNKNOWN]


def one_million(bad=()):
    lines = ["::".join(map(str, row)) for row in ratings()]
    lines[2:2] = bad
    listed = "".join("::".join(map(str, row)) + "\n" for row in movies())
    return {
        "ml-1m/README": b"see movies.dat",
        "ml-1m/ratings.dat": "".join(f"{line}\n" for line in lines).encode(),
        "ml-1m/movies.dat": listed.encode("latin-1"),
        "ml-1m/users.dat": b"1::F::1::10::48067\n",
    }


def thirty_two_million(bad=()):
    lines = [f"{user},{movie},{stars - 0.5},{time}" for user, movie, stars, time in ratings()]
    lines[2:2] = [line.replace("::", ",") for line in bad]
    text = io.StringIO()
    csv.writer(text).writerows([("movieId", "title", "genres"), *movies()])
    return {
        "ml-32m/tags.csv": b"userId,movieId,tag,timestamp\n",
        "ml-32m/ratings.csv": "\r\n".join(["userId,movieId,rating,timestamp", *lines, ""]).encode(),
        "ml-32m/movies.csv": text.getvalue().encode(),
    }


SIZES = {"1m": one_million, "32m": thirty_two_million}


def archive(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return packed.getvalue()


@pytest.fixture(params=SIZES)
def size(request):
    return request.param


@pytest.fixture
def prepare(server, size, tmp_path, monkeypatch):
    """`prepare(**settings)`: the folder of a small archive of this size."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    server.files[f"/ml-{size}.zip"] = archive(SIZES[size]())

    def call(offline=False, **settings):
        given = {"size": size, "mirrors": [server.url], "min_rating": 4, **settings}
        data = MovieLens(**{"name": "ml", "root": str(tmp_path / "sets"), **given})
        fetcher = Fetcher(tmp_path / "raw", offline, wait=0.01, attempts=2)
        return prepare_folder(data, fetcher, {})

    return call


def test_the_folder_holds_good_ratings_with_titles_and_genres(prepare, size):
    folder = prepare()
    source = read_folder(folder.parent, "ml")
    user = source.user_ids.gather(source.interactions.user.numpy()).cast(pl.Int64)
    item = source.item_ids.gather(source.interactions.item.numpy()).cast(pl.Int64)
    least = 4 if size == "1m" else 5  # half a star less
    liked = {row[:2]: row[3] for row in ratings() if row[2] >= least}
    pairs = [*zip(user, item, strict=True)]
    assert dict(zip(pairs, source.interactions.time.tolist(), strict=True)) == liked
    known = {movie: (title, genres) for movie, title, genres in movies()}
    details = pl.read_csv(folder / "items.csv")
    assert details.columns == ["itemID", "title", "categories"]
    for row, name in enumerate(source.item_ids):
        title, genres = known.get(int(name), ("", ""))
        genres = "" if genres.startswith("(") else genres
        assert details.row(row)[1:] == (title, genres)
    manifest = check_folder(folder)
    assert manifest["items"]["without_metadata"] == 1
    assert manifest["items"]["metadata_unused"] == 1
    assert manifest["stages"][0]["interactions"] == 200


def test_a_text_is_title_and_genres(size, tmp_path, lines):
    (tmp_path / "a.zip").write_bytes(archive(SIZES[size]()))
    data = MovieLens(name="ml", size=size, mirrors=[])
    files = {"archive": lines.raw(tmp_path / "a.zip")}
    frame, _ = data.read_items(files, pl.Series(["4", "11", "2"]))
    said = ["Unnamed (2001)", "", "Cité des enfants perdus, La (1995) Adventure Sci-Fi"]
    assert frame["text"].to_list() == said


def test_counts_of_the_file_are_compared_with_published_ones(prepare, size, caplog):
    folder = prepare()
    [said] = [line for line in caplog.messages if "not the published set" in line]
    assert "1,000,209" in said if size == "1m" else "32,000,204" in said
    assert check_folder(folder)["unexpected"]["interactions"][0] == 200


def test_malformed_lines_are_counted(prepare, server, size):
    bad = ["1::2::five::978300000", "<html>", "1::2", "1::2::3::4::5"]
    members = SIZES[size](bad)
    movies_file = next(name for name in members if "movies" in name)
    members[movies_file] += b"one word\n"
    server.files[f"/ml-{size}.zip"] = archive(members)
    manifest = check_folder(prepare())
    assert manifest["stages"][0]["malformed_lines"] == 4
    assert manifest["stages"][0]["interactions"] == 200
    assert manifest["items"]["malformed_lines"] == 1
    with pytest.raises(DataError) as error:
        prepare(malformed_lines=2, name="other")
    assert error.value.found.startswith("1")


def test_hostile_names_in_the_archive_are_not_written(prepare, server, size, tmp_path):
    name = f"/ml-{size}.zip"
    absolute = tmp_path / "absolute"
    hostile = {"../../escaped": b"x", str(absolute): b"x", f"ml-{size}/../../up": b"x"}
    server.files[name] = archive({**hostile, **SIZES[size]()})
    prepare()
    found = {path.name for path in tmp_path.parent.rglob("*")}
    assert not found & {"escaped", "absolute", "up"}


@pytest.mark.parametrize(
    ("spoiled", "problem"),
    [
        (lambda whole: whole[:-30], "damaged"),
        (lambda whole: whole[: len(whole) // 2], "damaged"),
        (lambda _: archive({"other/ratings.csv": b"x"}), "the archive has no ml-"),
        (lambda _: b"\x1f\x8bgzip", "not a zip archive"),
        (lambda _: b"<!DOCTYPE html>sorry", "web page"),
    ],
)
def test_a_spoiled_archive_is_an_error(prepare, server, size, spoiled, problem):
    name = f"/ml-{size}.zip"
    server.files[name] = spoiled(server.files[name])
    with pytest.raises(DataError) as error:
        prepare()
    assert problem in error.value.problem


def test_offline_takes_the_archive_that_is_there(prepare, server, tmp_path):
    first = (prepare() / "ml.inter").read_bytes()
    server.files.clear()
    again = prepare(offline=True, mirrors=[], root=str(tmp_path / "again"))
    assert (again / "ml.inter").read_bytes() == first


@pytest.mark.parametrize("size", ["32m"], indirect=True)
def test_another_table_in_place_of_the_ratings_is_an_error(prepare, server):
    members = thirty_two_million()
    members["ml-32m/ratings.csv"] = members["ml-32m/tags.csv"]
    server.files["/ml-32m.zip"] = archive(members)
    with pytest.raises(DataError) as error:
        prepare()
    assert error.value.expected == "userId,movieId,rating,timestamp"


def test_a_file_of_labels_must_exist(prepare):
    with pytest.raises(SettingError) as error:
        prepare(labels="missing.inter")
    assert error.value.setting == "data.labels"
