"""Pictures at URLs of a server that fails in every way that servers do."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from mmrec.data.prepare import Fetcher, Tables, check_folder, prepare_folder, urls
from mmrec.data.prepare.base import Places
from mmrec.data.prepare.tables import TableColumns
from mmrec.data.prepare.urls import Downloads, Pace

BODY = b"\x89PNG" + bytes(range(256)) * 20


@pytest.fixture
def fetcher(tmp_path):
    return Fetcher(tmp_path / "downloads", wait=0.001, attempts=3, timeout=(5, 0.3))


@pytest.fixture
def fetch(fetcher, server):
    """`fetch("/a", "/b")`: contents by item, None where there is no file, and what failed."""

    def call(*paths, **changes):
        places = pl.Series([f"{server.url}{path}" if path else "" for path in paths])
        ids = pl.Series([f"i{number}" for number in range(len(paths))])
        options = {"connections": 4, "rate": None, "fetcher": fetcher} | changes
        found = Downloads(**options).localize(Places(places, {"no_name": 1}), ids, "shop.image")
        record = fetcher.folder / "media" / "shop.image.failed.jsonl"
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        assert found.without == {"no_name": 1, "failed": len(lines)}
        bodies = [Path(path).read_bytes() if path else None for path in found.found]
        return bodies, {line["item"]: (line["reason"], line["final"]) for line in lines}

    return call


def requested(server):
    return sorted(path for path, _ in server.requests)


def test_each_url_is_downloaded_once(fetch, server):
    server.files |= {"/a": BODY, "/b": BODY + b"b"}
    assert fetch("/a", "", "/b", "/a") == ([BODY, None, BODY + b"b", BODY], {})
    assert requested(server) == ["/a", "/b"]
    assert fetch("/a", "", "/b", "/a")[0][3] == BODY
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", [503, 429, "cut", "lie", "hang"])
def test_another_attempt_succeeds(fetch, server, fault):
    server.files["/a"] = BODY
    server.faults["/a"] = [fault]
    assert fetch("/a") == ([BODY], {})
    assert requested(server) == ["/a", "/a"]


@pytest.mark.parametrize(
    ("fault", "said", "final", "attempts"),
    [
        (404, "404", True, 1),
        ("page", "web page", True, 1),
        (503, "503", False, 3),
        ("cut", "IncompleteRead", False, 3),
        ("lie", "IncompleteRead", False, 3),
        ("hang", "timed out", False, 3),
    ],
)
def test_what_fails_is_recorded_by_item(fetch, server, caplog, fault, said, final, attempts):
    server.files |= {"/bad": BODY, "/good": BODY}
    server.faults["/bad"] = [fault] * 3
    bodies, failed = fetch("/bad", "/good", "/bad")
    assert bodies == [None, BODY, None]
    assert [*failed] == ["i0", "i2"]
    assert said in failed["i0"][0]
    assert failed["i0"][1] == final
    assert requested(server) == ["/bad"] * attempts + ["/good"]
    assert "1 of 2 files could not be downloaded" in caplog.text
    # Afterwards only what may change is tried again.
    assert fetch("/bad", "/good")[0] == [None if final else BODY, BODY]
    assert len(server.requests) == attempts + 1 + (not final)


def test_a_page_is_known_by_its_content_and_a_file_may_be_too_large(fetch, server, monkeypatch):
    monkeypatch.setattr(urls, "LARGEST", len(BODY))
    server.files |= {"/page": b"\n<!DOCTYPE html>", "/empty": b"", "/large": BODY + b"+"}
    _, failed = fetch("/page", "/empty", "/large")
    said = [reason for reason, _ in failed.values()]
    assert "web page" in said[0]
    assert said[1] == "the file is empty"
    assert "larger" in said[2]


def test_an_address_that_is_none_fails(fetcher):
    places = Places(pl.Series(["http://", "http://[::1", "picture.png"]), {})
    found = Downloads(fetcher, 2, None).localize(places, pl.Series(["a", "b", "c"]), "x")
    assert found.found.to_list() == ["", "", "picture.png"]
    assert found.without == {"failed": 2}


def test_a_host_that_never_answers_is_left_alone(fetch, server, monkeypatch):
    monkeypatch.setattr(urls, "DEAD", 4)
    monkeypatch.setattr(server, "url", "http://127.0.0.1:9")  # nothing listens there
    _, failed = fetch("/a", "/b", "/c", connections=1)
    assert [
        reason.split()[-5:] == ["4", "times", "in", "a", "row"] for reason, _ in failed.values()
    ] == ([False, True, True])


def test_connections_are_bounded(fetch, server, monkeypatch):
    running, most, lock = 0, 0, threading.Lock()
    answer = server.answer

    def slow(request):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.03)
        with lock:
            running -= 1
        answer(request)

    monkeypatch.setattr(server, "answer", slow)
    names = [f"/{number}" for number in range(9)]
    server.files |= dict.fromkeys(names, BODY)
    assert fetch(*names, connections=3)[0] == [BODY] * 9
    assert most in (2, 3)


def test_requests_keep_their_distance(monkeypatch):
    now = 100.0
    slept = []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", slept.append)
    pace = Pace(rate=4)
    for _ in range(3):
        pace.wait()
    assert slept == [0, 0.25, 0.5]
    now = 200.0
    pace.wait()
    assert slept[-1] == 0


def test_killed_work_goes_on_where_it_stopped(fetch, server, fetcher, monkeypatch):
    names = [f"/{number}" for number in range(6)]
    server.files |= dict.fromkeys(names, BODY)
    attempt = Downloads._attempt
    done = []

    def killed(self, *given):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(given)
        return attempt(self, *given)

    monkeypatch.setattr(Downloads, "_attempt", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(*names, connections=1)
    monkeypatch.setattr(Downloads, "_attempt", attempt)
    (fetcher.folder / "media" / "shop.image.failed.jsonl").write_text('{"item": "i0", "ur')
    assert fetch(*names)[0] == [BODY] * 6
    assert requested(server) == names


def test_offline_takes_what_is_there(fetch, server, fetcher, caplog):
    server.files["/a"] = BODY
    fetch("/a")
    there = Downloads(replace(fetcher, offline=True), 1, None)
    places = Places(pl.Series([f"{server.url}/{name}" for name in "ab"]), {})
    found = there.localize(places, pl.Series(["a", "b"]), "other")
    assert (found.found[1], found.without) == ("", {"failed": 1})
    assert found.found[0] == str(there.path(f"{server.url}/a"))
    assert "offline=true downloads nothing" in caplog.text
    assert len(server.requests) == 1


@pytest.fixture
def shop(server, tmp_path, monkeypatch, colours, picture):  # noqa: ARG001
    """Settings whose table of items has URLs; the server lacks the picture of the last item."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    rows = [f"u{user},i{(user + step) % 4}" for user in range(4) for step in range(3)]
    (tmp_path / "orders.csv").write_text("\n".join(["userID,itemID", *rows]))
    items = "".join(f"i{number},{server.url}/{number}.png\n" for number in range(4))
    (tmp_path / "items.csv").write_text(f"itemID,image_url\n{items}")
    server.files |= {f"/{number}.png": picture((number, 0, 0)) for number in range(3)}
    return Tables(
        name="shop",
        root=str(tmp_path / "sets"),
        interactions=str(tmp_path / "orders.csv"),
        items=str(tmp_path / "items.csv"),
        columns=TableColumns(image="image_url"),
        image_model="timm:colours",
    )


def test_a_failed_picture_is_a_missing_modality_until_it_is_there(
    shop, server, fetcher, picture, colours
):
    server.faults["/3.png"] = [503] * 3
    folder = prepare_folder(shop, fetcher, {})
    image = check_folder(folder)["modalities"]["image"]
    assert image["missing"] == 1
    assert image["without"] == {"no_name": 0, "not_found": 0, "failed": 1, "corrupt": 0}
    server.files["/3.png"] = picture((9, 9, 9))
    assert prepare_folder(shop, fetcher, {}) == folder  # it is up to date
    folder = prepare_folder(shop, fetcher, {}, overwrite=True)
    assert check_folder(folder)["modalities"]["image"]["without"]["failed"] == 0
    assert len(colours.seen) == 4  # each picture once


def test_a_finished_file_is_written_again_if_more_is_downloaded(shop, server, fetcher, monkeypatch):
    from mmrec.data.prepare import build

    server.faults["/3.png"] = [503] * 3
    checked = build.verified_source

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "verified_source", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(shop, fetcher, {})
    monkeypatch.setattr(build, "verified_source", checked)
    server.files["/3.png"] = server.files["/2.png"]
    manifest = check_folder(prepare_folder(shop, fetcher, {}))
    assert manifest["modalities"]["image"]["missing"] == 0
