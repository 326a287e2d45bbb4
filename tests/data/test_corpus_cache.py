"""A corpus from the cache is, bit by bit, the one that is read from files."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path
from threading import Thread

import numpy as np
import polars as pl
import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.data import Columns, Corpus, FolderData, Interactions, corpus_cache, datamodule
from mmrec.training.provenance import config_hash

USERS, ITEMS = 30, 16
REAL = {"beauty": "item_cold", "scientific": "leave_one_out", "tiktok": "official"}


def assert_same(left, right):
    """Equal values, types and order, however deep."""
    if not isinstance(left, Interactions):
        assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, pl.Series):
        assert left.name == right.name
        assert left.equals(right, check_dtypes=True)
    elif is_dataclass(left):
        for each in fields(left):
            assert_same(getattr(left, each.name), getattr(right, each.name))
    elif isinstance(left, dict):
        assert [*left] == [*right]
        for name in left:
            assert_same(left[name], right[name])
    elif isinstance(left, tuple) and left and isinstance(left[0], torch.Tensor):
        for pair in zip(left, right, strict=True):
            assert_same(*pair)
    else:
        assert left == right


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """`shop(**settings)`: text ids, times, ratings, repeats, titles, a gap in the features."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "sets" / "shop"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    rows = ["userID,itemID,timestamp,stars,x_label"]
    for user in range(USERS):
        for place in range(10):
            item, stars = draw.integers(ITEMS), draw.integers(1, 6)
            rows.append(
                f"u{user},B{item:02d},{1_700_000_000 + 50 * place},{stars},{(place % 5) // 3}"
            )
        rows.append(f"u{user},B{user % ITEMS:02d},1700000500,5,2")
    (folder / "shop.csv").write_text("\n".join(rows) + "\n")
    items = [f"B{item:02d},Thing {item},Home|Room {item % 3}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["itemID,title,categories", *items]) + "\n")
    features = draw.standard_normal((ITEMS, 3)).astype(np.float32)
    features[4] = np.nan
    np.save(folder / "image_feat.npy", features)

    def make(**settings):
        data = FolderData("shop", tmp_path / "sets", **{"cache": True, **settings})
        data.ordered = settings.get("keep_repeats") is True
        return data

    return make


@pytest.fixture
def entries(tmp_path):
    """The entries of the cache."""
    return lambda: sorted(path for path in (tmp_path / "cache/corpus").glob("*") if path.is_dir())


SETTINGS = [
    {"split": "official"},
    {"split": "random_per_user", "split_seed": 3},
    {"split": "leave_one_out"},
    {"split": "leave_one_out", "keep_repeats": True},
    {"split": "temporal", "temporal_cutoffs": [0.6, 0.8]},
    {"split": "item_cold", "cold_share": 0.3},
    {"split": "item_cold", "cold_items": "newest", "warm_test": False},
    {"columns": Columns(rating="stars"), "min_rating": 3, "k_core": 4, "split": "random_per_user"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: "-".join(map(str, each.values())))
def test_a_cached_corpus_is_the_one_of_the_files(shop, entries, settings):
    plain = shop(**settings, cache=False).corpus
    assert entries() == []
    for _ in ("made", "loaded"):
        assert_same(plain, shop(**settings).corpus)
        assert len(entries()) == 1


@pytest.mark.data
@pytest.mark.parametrize(("name", "split"), REAL.items())
def test_a_real_set_is_the_same(real_data, tmp_path, monkeypatch, name, split):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path))
    plain = FolderData(name, real_data, split=split, cache=False).corpus
    for _ in ("made", "loaded"):
        assert_same(plain, FolderData(name, real_data, split=split, cache=True).corpus)


def test_another_content_setting_or_code_is_another_entry(shop, entries, tmp_path, monkeypatch):
    shop().corpus  # noqa: B018
    for settings in ({"split_seed": 1}, {"split": "leave_one_out"}, {"modalities": []}):
        before = len(entries())
        shop(**{"split": "random_per_user", **settings}).corpus  # noqa: B018
        assert len(entries()) == before + 1
    shop(batch_size=7, seed=9, negatives=2).corpus  # noqa: B018
    assert len(entries()) == before + 1
    path = tmp_path / "sets/shop/shop.csv"
    stamp = path.stat()
    path.write_bytes(path.read_bytes().replace(b"u1,B00", b"u1,B01").replace(b"u2,", b"u9,", 1))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    changed = shop()
    assert_same(changed.corpus, shop(cache=False).corpus)
    assert len(entries()) == before + 2
    monkeypatch.setattr(corpus_cache, "_code", lambda: "another")
    assert shop().corpus.n_users == changed.corpus.n_users
    assert len(entries()) == before + 3


def test_the_second_load_reads_no_table_and_logs_the_same(shop, caplog, monkeypatch):
    caplog.set_level("INFO")
    shop(split="leave_one_out").corpus  # noqa: B018
    first = [(r.name, r.levelno, r.getMessage()) for r in caplog.records]
    assert any("merged" in text for _, _, text in first)
    assert any(level == logging.WARNING and "stars" in text for _, level, text in first)
    caplog.clear()
    monkeypatch.setattr(datamodule, "read_folder", None)
    shop(split="leave_one_out").corpus  # noqa: B018
    assert [(r.name, r.levelno, r.getMessage()) for r in caplog.records] == first


def test_tensors_are_mapped_and_a_write_reaches_no_file(shop, entries):
    corpus = shop().corpus
    [entry] = entries()
    assert f"{entry}/train.user.npy" in Path("/proc/self/maps").read_text()
    assert corpus.train.user.dtype == torch.int64
    before = corpus.train.user.clone()
    corpus.train.user[:] = 7
    assert torch.equal(shop().corpus.train.user, before)


def spoilt(entry, how):
    if how == "truncated":
        with (entry / "train.item.npy").open("r+b") as file:
            file.truncate(200)
    elif how == "missing":
        (entry / "val.user.npy").unlink()
    elif how == "ids":
        (entry / "item_ids.arrow").write_bytes(b"nothing")
    elif how == "shape":
        np.save(entry / "test.item.npy", np.zeros(3, dtype=np.int64))
    elif how == "pickle":
        np.save(entry / "test.item.npy", np.array([{}], dtype=object))
    else:
        (entry / "corpus.json").write_text("{")


@pytest.mark.parametrize("how", ["truncated", "missing", "ids", "shape", "pickle", "json"])
def test_a_damaged_entry_is_made_again(shop, entries, caplog, how):
    plain = shop(cache=False).corpus
    shop().corpus  # noqa: B018
    spoilt(entries()[0], how)
    assert_same(shop().corpus, plain)
    assert "is damaged" in caplog.text
    caplog.clear()
    assert_same(shop().corpus, plain)
    assert "is damaged" not in caplog.text


def test_of_several_that_ask_at_once_one_makes_it(shop, entries, monkeypatch):
    reads, real, found = [], datamodule.read_folder, []

    def counted(*words, **settings):
        reads.append(words)
        return real(*words, **settings)

    monkeypatch.setattr(datamodule, "read_folder", counted)
    threads = [Thread(target=lambda: found.append(shop().corpus)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(reads), len(found), len(entries())) == (1, 4, 1)


def test_what_a_killed_process_left_is_removed(shop, entries):
    shop().corpus  # noqa: B018
    [entry] = entries()
    left = entry.with_name(f".{entry.name}.1.part")
    entry.rename(left)
    assert shop().corpus.n_items == ITEMS
    assert entries() == [entry]


def test_where_the_cache_cannot_be_written_the_corpus_is_still_made(
    shop, entries, monkeypatch, caplog
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(corpus_cache, "reserve_space", full)
    assert_same(shop().corpus, shop(cache=False).corpus)
    assert "No space left on device" in caplog.text
    assert "data.cache=false" in caplog.text
    assert entries() == []


def test_an_error_is_not_kept(shop, entries):
    for _ in range(2):
        with pytest.raises(SettingError):
            shop(split="item_cold", cold_share=2.0).corpus  # noqa: B018
    assert entries() == []


def test_only_large_tables_are_cached_by_default(shop, entries, monkeypatch):
    shop(cache=None).corpus  # noqa: B018
    assert entries() == []
    monkeypatch.setattr(datamodule, "LARGE", 1000)
    shop(cache=None).corpus  # noqa: B018
    assert len(entries()) == 1


def test_indices_are_checked_before_they_are_kept():
    rows = Interactions(torch.tensor([0, 9]), torch.tensor([0, 0]))
    parts = {"train": rows, "val": rows, "test": rows, "split": "x", "fingerprint": "x"}
    with pytest.raises(ValueError, match="outside"):
        Corpus(name="x", n_users=2, n_items=1, **parts)


def test_the_setting_is_no_part_of_what_a_run_computes():
    plain = {"data": {"name": "shop"}, "seed": 0}
    for value in (None, True, False):
        assert config_hash({**plain, "data": {"name": "shop", "cache": value}}) == config_hash(
            plain
        )


def test_an_entry_is_plain_files(shop, entries):
    shop().corpus  # noqa: B018
    [entry] = entries()
    assert {path.suffix for path in entry.iterdir()} == {".npy", ".json", ".arrow"}
    assert json.loads((entry / "corpus.json").read_text())["plain"]["n_items"] == ITEMS
    shutil.rmtree(entry)  # may be deleted at any time
    assert shop().corpus.n_items == ITEMS
