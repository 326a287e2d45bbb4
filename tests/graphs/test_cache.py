from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmrec
from mmrec.config.paths import cache_dir, data_root
from mmrec.graphs import cached

PRELUDE = """
import time, torch
from pathlib import Path
from mmrec.graphs import cached
"""

BUILD_SLOWLY = """
def build():
    with Path("builds").open("a") as file:
        file.write("x")
    time.sleep(1)
    return {"x": torch.arange(3)}
print("ready", flush=True)
input()
print(cached("slow", {"a": 1}, build)["x"].tolist())
"""

DIE_WHILE_WRITING = """
def save_half(value, file):
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
torch.save = save_half
cached("killed", {"a": 1}, lambda: {"x": torch.arange(3)})
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(script, folder):
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script],
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(mmrec.__file__).parents[1]),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ones():
    return {"x": torch.ones(2, 3), "index": torch.tensor([1, 2])}


def never():
    raise AssertionError("built although the cache holds it")


def entries(cache):
    return sorted(cache.rglob("*.pt"))


def test_the_second_call_reads_what_the_first_built():
    assert cached("thing", {"a": 1}, ones).keys() == ones().keys()
    found = cached("thing", {"a": 1}, never)
    assert all(torch.equal(found[name], value) for name, value in ones().items())


def test_the_order_of_a_key_does_not_matter():
    cached("thing", {"a": 1, "b": {"c": None, "d": [True]}}, ones)
    cached("thing", {"b": {"d": (True,), "c": None}, "a": 1}, never)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 0.1}, {"a": math.nextafter(0.1, 1)}),
        ({"a": 1e300}, {"a": math.inf}),
        ({"a": 0.0}, {"a": -0.0}),
        ({"a": 1}, {"a": "1"}),
        ({"a": None}, {}),
        ({"a": True}, {"a": 1}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
    ],
)
def test_keys_that_differ_share_no_entry(one, other, cache):
    cached("thing", one, ones)
    found = cached("thing", other, lambda: {"x": torch.zeros(1)})
    assert found["x"].tolist() == [0]
    assert len(entries(cache)) == 2


def test_a_key_of_something_else_than_plain_data_is_refused():
    with pytest.raises(TypeError, match="Tensor is not JSON serializable"):
        cached("thing", {"a": torch.ones(1)}, ones)


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda _: b"", lambda _: b"junk"])
def test_a_damaged_entry_is_built_again_and_said(damage, cache, caplog):
    cached("thing", {"a": 1}, ones)
    (entry,) = entries(cache)
    entry.write_bytes(damage(entry.read_bytes()))
    with caplog.at_level(logging.WARNING):
        found = cached("thing", {"a": 1}, ones)
    assert torch.equal(found["x"], ones()["x"])
    assert f"cannot read the cache entry {entry}" in caplog.text
    cached("thing", {"a": 1}, never)


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        found = cached("thing", {"a": 1}, ones)
    assert torch.equal(found["x"], ones()["x"])
    assert "not cached" in caplog.text
    assert "set MMREC_CACHE to a writable folder" in caplog.text
    assert str(tmp_path / "file" / "below" / "thing") in caplog.text


def test_a_failed_write_leaves_nothing_behind(cache, monkeypatch, caplog):
    def full(_, file):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cached("thing", {"a": 1}, ones)["x"], ones()["x"])
    assert "No space left on device" in caplog.text
    assert "(0.0 MB: " in caplog.text
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] in ([], [".lock"])


def test_a_full_disk_is_noticed_before_anything_is_written(cache, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(torch, "save", lambda *_: pytest.fail("written"))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cached("thing", {"a": 1}, ones)["x"], ones()["x"])
    assert f"{cache / 'thing'} (0.0 MB: No space left on device, " in caplog.text
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] in ([], [".lock"])


def test_tensors_that_share_memory_are_kept_in_less_space_than_they_show(cache):
    wide = torch.ones(1).expand(100_000)
    cached("thing", {"a": 1}, lambda: {"x": wide})
    assert torch.equal(cached("thing", {"a": 1}, never)["x"], wide)
    (entry,) = entries(cache)
    assert entry.stat().st_size < wide.nbytes


def test_an_error_of_the_builder_reaches_the_caller(cache):
    def broken():
        raise OSError("no such model")

    with pytest.raises(OSError, match="no such model"):
        cached("thing", {"a": 1}, broken)
    assert not entries(cache)


def test_of_two_processes_one_builds_and_both_read(tmp_path):
    processes = [start(BUILD_SLOWLY, tmp_path) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert output == "[0, 1, 2]\n"
    assert (tmp_path / "builds").read_text() == "x"


def test_a_process_killed_while_writing_leaves_no_entry(tmp_path, cache):
    process = start(DIE_WHILE_WRITING, tmp_path)
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.communicate(timeout=60)
    assert not entries(cache)
    assert [path.name for path in cache.rglob("*.part")]
    assert cached("killed", {"a": 1}, lambda: {"x": torch.ones(1)})["x"].tolist() == [1]
    assert not [*cache.rglob("*.part")]


def test_folders_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", "~/here")
    assert cache_dir() == Path.home() / "here"
    monkeypatch.setenv("MMREC_DATA", "/there")
    assert data_root() == Path("/there")
    monkeypatch.delenv("MMREC_CACHE")
    monkeypatch.delenv("MMREC_DATA")
    assert cache_dir() == Path.home() / ".cache" / "mmrec"
    assert data_root() == Path("data")
