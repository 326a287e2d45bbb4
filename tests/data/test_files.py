"""Features as memory maps, and hashes of files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmrec.config.paths import cache_dir
from mmrec.data import files
from mmrec.data.corpus import DataError, Modality
from mmrec.data.files import digests, read_modality


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
def test_a_second_read_neither_scans_nor_converts(folder, monkeypatch, dtype):
    array = values(dtype)
    array[1] = np.nan
    path = saved(folder, array)
    first = read(path)
    for step in ("_scan", "_convert"):
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


@pytest.mark.parametrize("kept", [0, 40, -4])
@pytest.mark.parametrize("kind", ["npy", "present.npy"])
def test_a_damaged_copy_is_made_again(folder, caplog, kept, kind):
    array = values("float16")
    array[2] = np.nan
    path = saved(folder, array)
    first = read(path)
    copy = cache_dir() / "features" / f"{first.digest}.{kind}"
    content = copy.read_bytes()[:kept]
    copy.unlink()  # what is mapped stays
    copy.write_bytes(content)
    again = read(path)
    assert torch.equal(again.features, first.features)
    assert torch.equal(again.present, first.present)
    assert f"{copy} is damaged" in caplog.text


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_content_replaced_at_the_same_size_and_time_is_read_again(folder, dtype):
    path = saved(folder, values(dtype))
    before, first = path.stat(), read(path)
    content = bytearray(path.read_bytes())
    content[-values(dtype).nbytes :] = (values(dtype) + 1).tobytes()
    with path.open("r+b") as file:  # the inode stays
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after, second = path.stat(), read(path)
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    assert second.digest != first.digest
    torch.testing.assert_close(second.features, torch.tensor(values(dtype) + 1).float())


def test_digest_follows_content_not_name_or_time(folder):
    first, second = saved(folder, values()), saved(folder, values(), "text_feat.npy")
    found = digests([first, second])
    assert found[first] == found[second]
    os.utime(first, ns=(1, 1))
    assert digests([first])[first] == found[second]
    saved(folder, values() + 1)
    assert digests([first])[first] != found[second]


@pytest.mark.parametrize(
    ("row", "column", "value"), [(3, 2, np.inf), (0, 4, -np.inf), (6, 0, np.nan), (5, 1, 1e300)]
)
def test_a_bad_value_names_row_and_column_and_nothing_is_kept(folder, row, column, value):
    array = values("float64")
    array[1] = np.nan
    array[row, column] = value
    with pytest.raises(DataError) as error:
        read(saved(folder, array))
    place = (error.value.file, error.value.row, error.value.column, error.value.found)
    assert place == ("toys/image_feat.npy", row, column, f"{value:g}")
    assert "a row of NaN for a missing image" in error.value.expected
    assert copies() == []


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 2), dtype=int), "int64 of shape [3, 2]"),
        (np.zeros((3, 2), dtype=bool), "bool"),
        (np.zeros((3, 2), dtype=np.longdouble), "float128"),
        (np.zeros((3, 2), dtype=complex), "complex128"),
        (np.zeros(3), "float64 of shape [3]"),
        (np.zeros((3, 2, 2)), "float64 of shape [3, 2, 2]"),
        (np.zeros((0, 2)), "it has no values, its shape is [0, 2]"),
        (np.zeros((3, 0)), "it has no values, its shape is [3, 0]"),
        (np.array([{"a": 1}]), "cannot be read (Array can't be memory-mapped"),
    ],
)
def test_an_array_that_is_not_features_is_refused(folder, array, said):
    with pytest.raises(DataError) as error:
        read(saved(folder, array))
    assert error.value.file == "toys/image_feat.npy"
    assert (error.value.found or error.value.problem).startswith(said)


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:0], lambda raw: raw[:40], lambda raw: raw[:-9], lambda raw: b"PK" + raw],
    ids=["empty", "cut in the header", "cut in the values", "another format"],
)
def test_a_damaged_feature_file_is_named(folder, damage):
    path = saved(folder, values())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as error:
        read(path)
    assert error.value.file == "toys/image_feat.npy"
    assert error.value.problem.startswith("cannot be read (")
    assert error.value.hint.startswith("check that the file is complete")


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
    with pytest.raises(DataError) as error:
        read(path)
    assert error.value.problem.startswith("cannot write ")
    assert "MMREC_CACHE" in error.value.hint


def test_a_conversion_that_fails_leaves_no_file_behind(folder, monkeypatch):
    path = saved(folder, values("float16"))
    digest = digests([path])[path]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "where", full)
    with pytest.raises(DataError) as error:
        read_modality(path, digest)
    assert error.value.problem.startswith("cannot write 0.0 MB (No space left")
    assert copies() == [f"{digest}.present.npy"]


def test_a_full_disk_names_folder_and_sizes_before_anything_is_written(folder, monkeypatch):
    path = saved(folder, np.ones((1000, 500), dtype="float16"))
    digest = digests([path])[path]
    written = []

    def full(descriptor: int, _: int, size: int) -> None:
        written.append(os.fstat(descriptor).st_size)
        if size > 1000:  # the mask has room
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(DataError) as error:
        read_modality(path, digest)
    assert error.value.file == str(cache_dir() / "features")
    assert error.value.problem.startswith("cannot write 2.0 MB (No space left")
    assert " MB free" in error.value.problem
    assert "MMREC_CACHE" in error.value.hint
    assert written == [0, 0]
    assert copies() == [f"{digest}.present.npy"]


@pytest.mark.parametrize("code", [22, 38, 95])
def test_a_file_system_without_reservations_will_do(folder, monkeypatch, code):
    def unknown(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", unknown, raising=False)
    array = values("float16")
    expected = torch.tensor(array.astype("float32"))
    torch.testing.assert_close(read(saved(folder, array)).features, expected, rtol=0, atol=0)


WITHOUT_ROOM = """
import os, resource, sys
from pathlib import Path
from mmrec.data import DataError
from mmrec.data.files import digests, read_modality
path = Path(sys.argv[1])
if sys.argv[2] == "False":
    del os.posix_fallocate
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    read_modality(path, digests([path])[path])
except DataError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no limits of resources")
@pytest.mark.parametrize("reserves", [True, False])
def test_a_write_beyond_the_space_is_one_line(folder, reserves):
    path = saved(folder, np.ones((1000, 500), dtype="float16"))
    words = [sys.executable, "-c", WITHOUT_ROOM, str(path), str(reserves)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{cache_dir() / 'features'}: cannot write 2.0 MB (File too large")
    assert [name for name in copies() if "present" not in name] == []


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "I/O")])
def test_a_file_that_cannot_be_opened_is_named(folder, monkeypatch, error):
    path = saved(folder, values())

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError) as refused:
        digests([path])
    assert refused.value.file == "toys/image_feat.npy"
    assert refused.value.problem == f"cannot be read ({error.strerror})"


def test_the_same_file_twice_has_one_digest(folder):
    path = saved(folder, values())
    assert len(digests([path, path])) == 1


def test_a_damaged_header_is_an_error_that_names_the_file(folder):
    path = saved(folder, values())
    whole, refused = path.read_bytes(), []
    for place in range(80):
        for byte in b"(]}'\x00\xff":
            damaged = bytearray(whole)
            damaged[place] = byte
            path.write_bytes(damaged)
            try:
                read(path)
            except DataError as error:
                refused.append(str(error))
    assert len(refused) > 10
    assert all(path.name in message and message.isprintable() for message in refused)
