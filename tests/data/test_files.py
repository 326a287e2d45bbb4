"""Files: columns that know their lines, features as memory maps, hashes that are remembered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mmrec.data import files
from mmrec.data.corpus import DataError, Modality
from mmrec.data.files import digests, read_modality
from mmrec.paths import cache_dir


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "toys"
    made.mkdir()
    return made


def saved(folder: Path, array: np.ndarray, name: str = "image_feat.npy") -> Path:
    np.save(folder / name, array, allow_pickle=True)
    return folder / name


def read(path: Path) -> Modality:
    return read_modality(path, digests([path])[path])


def values(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(size=(7, 5)).astype(dtype)


def copies() -> list[str]:
    return sorted(path.name for path in (cache_dir() / "features").glob("*"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_features_are_the_float32_of_what_was_saved(folder, dtype, order):
    array = values(dtype)
    modality = read(saved(folder, np.asarray(array, order=order)))
    assert modality.features.dtype == torch.float32
    assert modality.features.is_contiguous()
    torch.testing.assert_close(
        modality.features, torch.tensor(array.astype("float32")), rtol=0, atol=0
    )
    assert modality.present.all()


def test_plain_float32_is_mapped_in_place_and_writing_to_it_leaves_the_file_alone(
    folder, monkeypatch
):
    maps = []
    opened = np.lib.format.open_memmap
    monkeypatch.setattr(
        np.lib.format, "open_memmap", lambda *a, **k: maps.append(opened(*a, **k)) or maps[-1]
    )
    path = saved(folder, values())
    before = path.read_bytes()
    modality = read(path)
    assert modality.features.data_ptr() == maps[0].ctypes.data
    assert maps[0].filename == path
    assert copies() == [f"{modality.digest}.present.npy"]
    modality.features.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_row_of_nan_is_a_missing_item_with_zero_features(folder, dtype):
    array = values(dtype)
    array[[2, 5]] = np.nan
    modality = read(saved(folder, array))
    assert modality.present.tolist() == [True, True, False, True, True, False, True]
    expected = torch.tensor(np.nan_to_num(array.astype("float32")))
    torch.testing.assert_close(modality.features, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_blocks_meet_without_gap_or_overlap(folder, monkeypatch, dtype):
    monkeypatch.setattr(files, "BLOCK", 10)
    array = values(dtype)
    array[6] = np.nan
    modality = read(saved(folder, array))
    expected = torch.tensor(np.nan_to_num(array.astype("float32")))
    torch.testing.assert_close(modality.features, expected, rtol=0, atol=0)
    assert modality.present.tolist() == [True] * 6 + [False]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_second_read_neither_hashes_nor_scans_nor_converts(folder, monkeypatch, dtype):
    array = values(dtype)
    array[1] = np.nan
    path = saved(folder, array)
    first = read(path)
    for step in ("_sha256", "_scan", "_convert"):
        monkeypatch.setattr(files, step, lambda *_: pytest.fail("read the content again"))
    second = read(path)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.present, second.present)
    assert first.digest == second.digest


def test_a_lost_copy_is_made_again(folder):
    path = saved(folder, values("float16"))
    first = read(path)
    (cache_dir() / "features" / f"{first.digest}.npy").unlink()
    assert torch.equal(read(path).features, first.features)


@pytest.mark.parametrize("damage", ["", "{", "[1, 2]", "null", b"\xff\xfe\x00"])
def test_a_damaged_memory_of_hashes_is_ignored_and_mended(folder, damage):
    path = saved(folder, values())
    expected = digests([path])
    store = cache_dir() / "digests.json"
    store.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    assert digests([path]) == expected
    assert list(json.loads(store.read_text()).values()) == [expected[path]]


def test_digest_follows_content_not_name_or_time(folder):
    first, second = saved(folder, values()), saved(folder, values(), "text_feat.npy")
    found = digests([first, second])
    assert found[first] == found[second]
    os.utime(first, ns=(1, 1))
    assert digests([first])[first] == found[second]
    saved(folder, values() + 1)
    assert digests([first])[first] != found[second]


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (3, 2, np.inf, r"toys/image_feat\.npy, row 3: infinite value \(column 2\); use a row of"),
        (0, 4, -np.inf, r"row 0: infinite value \(column 4\); .*NaN for a missing image"),
        (6, 0, np.nan, r"row 6: NaN in a part of the row \(column 0\); .*for a missing image"),
        (5, 1, 1e300, r"row 5: 1e\+300 is beyond float32 \(column 1\)"),
    ],
)
def test_a_bad_value_names_row_and_column_and_nothing_is_kept(folder, row, column, value, message):
    array = values("float64")
    array[1] = np.nan
    array[row, column] = value
    with pytest.raises(DataError, match=message):
        read(saved(folder, array))
    assert copies() == []


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2), dtype=int), r"expected float16, .* found int64 of shape \[3, 2\]"),
        (np.zeros((3, 2), dtype=bool), "found bool"),
        (np.zeros((3, 2), dtype=np.longdouble), "found float128"),
        (np.zeros((3, 2), dtype=complex), "found complex128"),
        (np.zeros(3), r"found float64 of shape \[3\]"),
        (np.zeros((3, 2, 2)), r"found float64 of shape \[3, 2, 2\]"),
        (np.zeros((0, 2)), r"feat\.npy: it has no values, its shape is \[0, 2\]"),
        (np.zeros((3, 0)), r"feat\.npy: it has no values, its shape is \[3, 0\]"),
        (np.array([{"a": 1}]), r"image_feat\.npy: cannot be read \(Array can't be memory-mapped"),
    ],
)
def test_an_array_that_is_not_features_is_refused(folder, array, message):
    with pytest.raises(DataError, match=message):
        read(saved(folder, array))


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:0], lambda raw: raw[:40], lambda raw: raw[:-9], lambda raw: b"PK" + raw],
    ids=["empty", "cut in the header", "cut in the values", "another format"],
)
def test_a_damaged_feature_file_is_named(folder, damage):
    path = saved(folder, values())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"toys/image_feat\.npy: cannot be read \(.+\); check that"):
        read(path)


@pytest.mark.parametrize("value", [0, np.nan])
def test_features_that_say_nothing_warn_on_every_read(folder, caplog, value):
    path = saved(folder, np.full((4, 3), value, dtype="float32"))
    for reads in (1, 2):
        read(path)
        assert caplog.text.count("image_feat.npy: every feature is zero") == reads


def test_zero_rows_are_counted_when_a_file_is_first_read(folder, caplog):
    array = values()
    array[[0, 2]] = 0
    path = saved(folder, array)
    for _ in range(2):
        read(path)
    (message,) = caplog.messages
    assert message.endswith(
        "image_feat.npy: 2 rows are zero, and count as content; a row of NaN says that it is "
        "missing"
    )


def test_a_cache_that_cannot_be_written_says_which_setting_moves_it(folder, monkeypatch):
    path = saved(folder, values())
    monkeypatch.setenv("MMREC_CACHE", str(path))
    with pytest.raises(DataError, match=r"cannot be written \(.+\); set MMREC_CACHE"):
        read(path)


def test_a_conversion_that_fails_leaves_no_file_behind(folder, monkeypatch):
    path = saved(folder, values("float16"))
    digest = digests([path])[path]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "where", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left"):
        read_modality(path, digest)
    assert copies() == [f"{digest}.present.npy"]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "I/O")])
def test_a_file_that_cannot_be_opened_is_named(folder, monkeypatch, error):
    path = folder / "toys.inter"
    path.write_text("userID\n")

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    message = rf"toys/toys\.inter: cannot be read \({error.strerror}\)"
    with pytest.raises(DataError, match=message):
        digests([path])
