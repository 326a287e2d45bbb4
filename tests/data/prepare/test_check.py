"""A folder without a manifest is read as a run reads it, and every error names its place."""

from __future__ import annotations

import numpy as np
import pytest

from mmrec.config.errors import DataError
from mmrec.data.prepare import Fetcher, Tables, inspect_folder, prepare_folder

ROWS = [
    (user, item, label) for user in range(6) for item, label in ((0, 0), (1, 0), (2, 1), (3, 2))
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "toys"
    folder.mkdir()
    write(folder, ROWS)
    np.save(folder / "image_feat.npy", np.ones((4, 3), dtype=np.float32))
    return folder


def write(folder, rows):
    lines = ["userID\titemID\tx_label", *("\t".join(map(str, row)) for row in rows)]
    (folder / "toys.inter").write_text("\n".join(lines) + "\n")


def test_a_valid_folder(folder):
    source, manifest = inspect_folder(folder)
    assert manifest is None
    assert len(source.interactions) == len(ROWS)


def test_the_file_may_be_named_otherwise_than_the_folder(folder):
    source, _ = inspect_folder(folder.rename(folder.with_name("downloaded")))
    assert (source.name, len(source.interactions)) == ("downloaded", len(ROWS))


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        (lambda rows, _: rows.append((1, -2, 0)), {"column": "itemID"}),
        (lambda rows, _: rows.append((1, 1, 7)), {"column": "x_label", "line": 26}),
        (lambda _, features: features.__setitem__((2, 1), np.inf), {"row": 2, "column": 1}),
        (lambda _, features: features.__setitem__((2, 1), np.nan), {"row": 2, "column": 1}),
        (lambda rows, _: rows.append((1, 9, 0)), {"column": "itemID", "line": 26}),
        (lambda rows, _: rows.__setitem__(slice(None), [(*r[:2], 0) for r in rows]), {}),
    ],
    ids=["negative id", "label", "infinite", "part of a row", "no features", "no test"],
)
def test_an_error_names_its_place(folder, damage, place):
    rows, features = [*ROWS], np.ones((4, 3), dtype=np.float32)
    damage(rows, features)
    write(folder, rows)
    np.save(folder / "image_feat.npy", features)
    with pytest.raises(DataError) as error:
        inspect_folder(folder)
    assert {name: getattr(error.value, name) for name in place} == place


def test_an_array_of_another_shape_is_refused(folder):
    np.save(folder / "image_feat.npy", np.ones(4, dtype=np.float32))
    with pytest.raises(DataError) as error:
        inspect_folder(folder)
    assert error.value.found == "float32 of shape [4]"


def test_features_that_are_not_in_the_manifest_are_read_as_a_run_reads_them(tmp_path, caplog):
    table = tmp_path / "t.csv"
    table.write_text(
        "userID,itemID\n" + "".join(f"u{u},i{i}\n" for u in range(6) for i in range(4))
    )
    shop = Tables(name="shop", root=str(tmp_path), interactions=str(table))
    folder = prepare_folder(shop, Fetcher(tmp_path / "downloads"), {})
    np.save(folder / "audio_feat.npy", np.ones((4, 2), dtype=np.float32))
    source, manifest = inspect_folder(folder)
    assert manifest is not None
    assert [*source.modalities] == ["audio"]
    assert "audio_feat.npy" in caplog.text
    np.save(folder / "audio_feat.npy", np.full((4, 2), np.inf, dtype=np.float32))
    with pytest.raises(DataError):
        inspect_folder(folder)
