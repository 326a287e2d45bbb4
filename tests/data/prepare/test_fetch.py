"""Downloads from a server that fails in every way that servers do."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import random

import pytest

from mmrec.config.errors import DataError
from mmrec.data.prepare import Fetcher
from mmrec.data.prepare import fetch as fetch_module

PAGE = "http://example.org/links.html"
BODY = gzip.compress(random.Random(0).randbytes(3_000_000), mtime=0)
NAME = "raw.json.gz"


@pytest.fixture
def fetcher(tmp_path):
    return Fetcher(tmp_path / "raw", wait=0.01, attempts=3, timeout=(5, 0.3))


@pytest.fixture
def fetch(fetcher, server):
    server.files[f"/{NAME}"] = BODY

    def call(*folders, sha256=None, **changes):
        urls = [f"{server.url}{folder}/{NAME}" for folder in folders or [""]]
        chosen = Fetcher(**{**vars(fetcher), **changes})
        return chosen.fetch(NAME, urls, sha256, PAGE)

    return call


def test_a_file_is_downloaded_once_and_its_digest_recorded(fetch, server, fetcher):
    found = fetch()
    assert found.path.read_bytes() == BODY
    assert (found.url, found.sha256) == (f"{server.url}/{NAME}", hashlib.sha256(BODY).hexdigest())
    assert fetch() == found
    assert len(server.requests) == 1
    names = {path.name for path in fetcher.folder.iterdir() if not path.name.startswith(".")}
    assert names == {NAME, f"{NAME}.json"}


@pytest.mark.parametrize("fault", ["cut", "lie", "hang"])
def test_a_broken_download_goes_on_where_it_stopped(fetch, server, fault):
    server.faults[f"/{NAME}"] = [503, fault]
    assert fetch().path.read_bytes() == BODY
    [first, second, *rest] = server.requests
    assert first[1] is second[1] is None
    if fault != "lie":  # after which the file was whole, as its server says with 416 or no bytes
        [(_, asked)] = rest
        assert int(asked.removeprefix("bytes=").removesuffix("-")) > 0


def test_a_killed_download_goes_on_in_the_next_call(fetch, server):
    server.faults[f"/{NAME}"] = ["cut", 503, 503, 503]
    with pytest.raises(DataError):
        fetch(attempts=2)
    server.faults.clear()
    server.requests.clear()
    assert fetch().path.read_bytes() == BODY
    [(_, asked)] = server.requests
    assert asked is not None


def test_mirrors_are_tried_in_order(fetch, server):
    found = fetch("/dead", "/page", "")
    assert [path for path, _ in server.requests] == [f"/dead/{NAME}", f"/page/{NAME}", f"/{NAME}"]
    assert found.url == f"{server.url}/{NAME}"


def test_a_dead_link_names_the_page_to_visit(fetch, fetcher):
    with pytest.raises(DataError) as error:
        fetch("/dead")
    assert "404" in error.value.problem
    assert PAGE in error.value.hint
    assert str(fetcher.folder) in error.value.hint


def test_a_web_page_is_no_data(fetch, server, fetcher):
    server.faults[f"/{NAME}"] = ["page"]
    with pytest.raises(DataError) as error:
        fetch()
    assert "web page" in error.value.problem
    server.files[f"/{NAME}"] = b"\n<HTML>not found</HTML>"  # with a type that says nothing
    with pytest.raises(DataError) as error:
        fetch()
    assert "web page" in error.value.problem
    assert not (fetcher.folder / NAME).exists()
    (fetcher.folder / NAME).write_bytes(b"<html>saved by hand")
    with pytest.raises(DataError) as error:
        fetch()
    assert (error.value.file, error.value.problem) == (
        str(fetcher.folder / NAME),
        "it is a web page, not data",
    )


@pytest.mark.parametrize("name", ["raw.json.gz", "raw.zip", "raw.npy"])
def test_a_file_of_another_kind_than_its_name_is_no_data(fetcher, server, name):
    server.files[f"/{name}"] = b"some text"
    with pytest.raises(DataError) as error:
        fetcher.fetch(name, [f"{server.url}/{name}"], None, PAGE)
    assert "it is not " in error.value.problem
    assert not (fetcher.folder / name).exists()


def test_a_file_with_another_digest_is_refused(fetch):
    with pytest.raises(DataError) as error:
        fetch(sha256="0" * 64)
    assert "hash" in error.value.problem
    found = fetch()
    found.path.write_bytes(gzip.compress(b"changed"))
    with pytest.raises(DataError) as error:
        fetch()
    assert error.value.expected == f"{found.sha256}, as at its first use"


def test_offline_takes_what_is_there(fetch, server, fetcher):
    with pytest.raises(DataError) as error:
        fetch(offline=True)
    assert error.value.file == str(fetcher.folder / NAME)
    (fetcher.folder / NAME).write_bytes(BODY)
    assert fetch(offline=True).url is None
    assert server.requests == []
    known = json.loads((fetcher.folder / f"{NAME}.json").read_text())
    assert known["sha256"] == hashlib.sha256(BODY).hexdigest()


def unfinished(fetcher, server, body, tag='"one"'):
    """Leave a partial file as a killed download does."""
    fetcher.folder.mkdir(parents=True)
    (fetcher.folder / f"{NAME}.partial").write_bytes(body)
    record = {"url": f"{server.url}/{NAME}", "tag": tag}
    (fetcher.folder / f"{NAME}.partial.json").write_text(json.dumps(record))


@pytest.mark.parametrize("extra", [b"", b"more"], ids=["whole", "longer"])
def test_a_range_that_the_server_lacks_starts_the_download_again(fetch, server, fetcher, extra):
    unfinished(fetcher, server, BODY + extra)
    server.faults[f"/{NAME}"] = [416]
    assert fetch().path.read_bytes() == BODY
    assert [asked for _, asked in server.requests] == [f"bytes={len(BODY + extra)}-", None]
    assert not [*fetcher.folder.glob("*.partial*")]


def test_a_server_that_refuses_every_range_ends_the_download(fetch, server):
    server.faults[f"/{NAME}"] = [416] * 9
    with pytest.raises(DataError) as error:
        fetch()
    assert "416" in error.value.problem
    assert "into" in error.value.hint
    assert len(server.requests) == 3


def test_a_full_disk_says_so_and_the_download_goes_on(fetch, server, fetcher, monkeypatch):
    whole, failing = fetch_module._blocks, [True]

    def blocks(answer, file):
        for number, block in enumerate(whole(answer, file)):
            if number == 1 and failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield block

    monkeypatch.setattr(fetch_module, "_blocks", blocks)
    with pytest.raises(DataError) as error:
        fetch()
    assert error.value.file == str(fetcher.folder)
    assert error.value.problem.startswith(f"cannot write {NAME}.partial (No space left on device, ")
    assert "make room" in error.value.hint
    failing.clear()
    assert fetch().path.read_bytes() == BODY
    assert [asked for _, asked in server.requests] == [None, f"bytes={2**20}-"]
