"""Data from memory: the same as from files, with mistakes named by column and row label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from torch_geometric.data.hetero_data import HeteroData

from mmrec.config.errors import DataError, SettingError
from mmrec.data import Columns, Corpus, FolderData, FrameData, Modality, read_frames

ITEMS = pl.DataFrame(
    {
        "itemID": [f"i{n}" for n in range(12)],
        "title": [f"Title {n}" for n in range(12)],
        "categories": ["a|b", "b", "", None, *["c"] * 8],
        "cold_label": [0] * 8 + [1, 1, 2, 2],
    }
)
RNG = np.random.default_rng(0)
FEATURES = {
    "image": RNG.normal(size=(12, 4)).astype(np.float32),
    "text": RNG.normal(size=(12, 3)),
}
FEATURES["text"][[2, 5]] = np.nan
PAIRS = pl.DataFrame({"userID": [f"u{n}" for n in range(20)]}).join(
    ITEMS.select("itemID"), how="cross"
)
TABLE = PAIRS.sample(150, seed=0, shuffle=True).with_columns(
    timestamp=pl.Series(RNG.integers(1_600_000_000, 1_700_000_000, 150)),
    rating=pl.Series(RNG.integers(1, 6, 150)),
)
LABELLED = TABLE.to_pandas().set_index(pd.Index([f"row {n}" for n in range(150)]))
KINDS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars": lambda frame: frame,
    "pandas": pl.DataFrame.to_pandas,
    "pyarrow": pl.DataFrame.to_arrow,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "toys").mkdir()
    TABLE.write_parquet(tmp_path / "toys" / "toys.parquet")
    ITEMS.drop("cold_label").write_csv(tmp_path / "toys" / "items.csv")
    ITEMS.select("itemID", "cold_label").write_csv(tmp_path / "toys" / "cold_items.csv")
    for kind, rows in FEATURES.items():
        np.save(tmp_path / "toys" / f"{kind}_feat.npy", rows)
    return tmp_path


def assert_same(first: Any, second: Any) -> None:
    """Equal values, whatever holds them."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, pl.Series):
        assert first.to_list() == second.to_list()
    elif isinstance(first, dict):
        assert [*first] == [*second]
        for key, value in first.items():
            assert_same(value, second[key])
    elif isinstance(first, tuple):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif hasattr(first, "__dataclass_fields__"):
        left_out = {"fingerprint", "digest"}  # of files here, of tensors there
        for name in {each.name for each in fields(first)} - left_out:
            assert_same(getattr(first, name), getattr(second, name))
    else:
        assert first == second


@pytest.mark.parametrize(
    "settings",
    [
        {"split": "random_per_user", "split_seed": 3},
        {"split": "leave_one_out"},
        {"split": "item_cold"},
        {"split": "temporal", "columns": {"rating": "rating"}, "min_rating": 2, "k_core": 2},
    ],
    ids=lambda settings: settings["split"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_a_folder_with_the_same_tables_are_the_same_corpus(folder, kind, settings):
    make = KINDS[kind]
    found = Corpus.from_frames(make(TABLE), make(ITEMS), FEATURES, name="toys", **settings)
    if "columns" in settings:
        settings = {**settings, "columns": Columns(**settings["columns"])}
    assert_same(found, FolderData("toys", folder, **settings).corpus)


def test_fingerprints_tell_data_apart():
    first = read_frames(TABLE, ITEMS, FEATURES)
    assert first.fingerprint == read_frames(LABELLED, ITEMS, FEATURES).fingerprint
    other = {**FEATURES, "image": FEATURES["image"] + 1}
    titled = ITEMS.with_columns(title=pl.col("title").str.reverse())
    changed = [
        read_frames(TABLE[1:], ITEMS, FEATURES),
        read_frames(TABLE, ITEMS, other),
        read_frames(TABLE, titled, FEATURES),
    ]
    assert len({first.fingerprint, *(source.fingerprint for source in changed)}) == 4


def test_features_with_ids_may_come_in_any_order():
    order = RNG.permutation(12)
    given = {
        kind: {"ids": ITEMS["itemID"].gather(order), "rows": rows[order]}
        for kind, rows in FEATURES.items()
    }
    assert_same(
        read_frames(TABLE, ITEMS, given).modalities, read_frames(TABLE, ITEMS, FEATURES).modalities
    )


def test_items_without_features_lack_the_modality():
    ids = [*ITEMS["itemID"][3:], "unseen"]
    rows = np.ones((10, 2))
    source = read_frames(TABLE, None, {"image": {"ids": ids, "rows": rows}})
    assert source.item_ids.to_list() == [*ids, "i0", "i1", "i2"]
    assert source.modalities["image"].present.tolist() == [True] * 10 + [False] * 3


def test_integer_ids_stay_integers():
    table = pd.DataFrame({"userID": [7.0, 7, 9, np.nan], "itemID": [30, 10, 30, 10]})[:3]
    items = pd.DataFrame({"itemID": [30, 20, 10]})
    source = read_frames(table, items, {"image": np.eye(3)})
    assert source.user_ids.to_list() == [7, 9]
    assert source.item_ids.to_list() == [30, 20, 10]
    assert source.interactions.item.tolist() == [0, 2, 0]


def test_a_sparse_matrix_has_users_and_items_without_entries():
    matrix = sparse.csr_array(([3.0, 0.0, 1.0], ([0, 1, 2], [1, 1, 3])), shape=(5, 6))
    source = read_frames(matrix, None, {"image": np.eye(6)})
    assert (source.n_users, source.n_items) == (5, 6)
    assert (source.user_ids, source.item_ids) == (None, None)
    assert source.interactions.user.tolist() == [0, 2]  # an entry of 0 is none
    assert source.interactions.item.tolist() == [1, 3]
    named = read_frames(matrix, ITEMS[:6], {"image": np.eye(6)})
    assert named.item_ids.to_list() == ITEMS["itemID"][:6].to_list()
    assert torch.equal(named.interactions.item, source.interactions.item)
    rated = read_frames(matrix, columns={"rating": "rating"}, min_rating=2)
    assert rated.interactions.item.tolist() == [1]


def test_times_of_pandas_in_another_zone_are_seconds():
    zoned = LABELLED.assign(
        timestamp=pd.to_datetime(LABELLED["timestamp"], unit="s", utc=True).dt.tz_convert("CET")
    )
    assert torch.equal(read_frames(zoned).interactions.time, read_frames(TABLE).interactions.time)


def test_pandas_without_pyarrow_is_read_the_same(monkeypatch):
    expected = read_frames(LABELLED, ITEMS)

    def refuse(_):
        raise ImportError("pyarrow is required")

    monkeypatch.setattr(nw.Series, "to_polars", refuse)
    assert_same(read_frames(LABELLED, ITEMS), expected)


def test_ordered_keeps_repeated_pairs():
    again = pl.concat([TABLE, TABLE.with_columns(pl.col("timestamp") + 5)])
    count = {
        ordered: len(Corpus.from_frames(again, split="leave_one_out", ordered=ordered).train)
        for ordered in (False, True)
    }
    assert count[True] > count[False]


def test_frame_data_makes_batches():
    data = FrameData(TABLE, ITEMS, FEATURES, split="leave_one_out", batch_size=16)
    batch = next(iter(data.train_dataloader()))
    assert len(batch.user) == 16
    assert "frames" in str(data)


@pytest.mark.parametrize(
    ("table", "fields"),
    [
        (LABELLED.drop(columns="userID"), {"expected": "a column userID"}),
        (
            LABELLED.assign(itemID=LABELLED["itemID"].where(LABELLED.index != "row 7")),
            {"row": "row 7", "column": "itemID", "found": "empty"},
        ),
        (
            LABELLED.assign(timestamp=[[1]] * 150),
            {"column": "timestamp", "hint": "convert the column"},
        ),
        (
            LABELLED.assign(timestamp=[*["2024-01-01"] * 149, "soon"]),
            {"row": "row 149", "column": "timestamp", "found": "soon"},
        ),
        (
            LABELLED.assign(x_label=[*["train"] * 140, *["dev"] * 10]),
            {"row": "row 140", "column": "x_label", "found": "dev"},
        ),
        (
            LABELLED.assign(itemID=["other", *LABELLED["itemID"][1:]]),
            {"row": "row 0", "column": "itemID", "found": "other"},
        ),
        (LABELLED[:0], {"problem": "no interaction below the header"}),
    ],
    ids=["column", "null", "type", "time", "label", "unknown", "empty"],
)
def test_mistakes_in_interactions_are_named_by_column_and_label(table, fields):
    with pytest.raises(DataError) as caught:
        read_frames(table, ITEMS, FEATURES)
    assert caught.value.file == "interactions"
    for name, value in fields.items():
        assert getattr(caught.value, name) == value


TWICE = ITEMS.to_pandas().set_index("title", drop=False).assign(itemID=["i0", "i0", *range(10)])


@pytest.mark.parametrize(
    ("items", "features", "fields"),
    [
        (TWICE, {}, {"file": "items", "row": "Title 0", "column": "itemID", "found": "i0"}),
        (ITEMS.drop("itemID"), {}, {"file": "items", "expected": "a column itemID"}),
        (
            ITEMS,
            {"image": np.ones((11, 2))},
            {"file": 'features["image"]', "found": "11 rows", "expected": "12, one for each item"},
        ),
        (
            ITEMS,
            {"image": np.ones((12, 2), dtype=int)},
            {"found": "int64 of shape [12, 2]"},
        ),
        (
            ITEMS,
            {"image": np.where(np.arange(24).reshape(12, 2) == 9, np.inf, 1.0)},
            {"file": 'features["image"]', "row": 4, "column": 1, "found": "inf"},
        ),
        (
            ITEMS,
            {"image": {"ids": ["i1", "i2", "i1"], "rows": np.ones((3, 2))}},
            {"row": 0, "column": "ids", "found": "i1"},
        ),
        (
            ITEMS,
            {"image": {"ids": ["i1", "zz"], "rows": np.ones((2, 2))}},
            {"row": 1, "column": "ids", "found": "zz"},
        ),
        (
            ITEMS,
            {"image": {"ids": ["i1"], "rows": np.ones((2, 2))}},
            {"found": "1 ids", "expected": "2, one for each row"},
        ),
        (ITEMS, {"image": {"id": ["i1"]}}, {"file": 'features["image"]', "found": "id"}),
        (None, {"image": np.ones((12, 2))}, {"file": "interactions", "column": "itemID"}),
        (
            None,
            {"image": np.ones((12, 2)), "text": {"ids": ["i1"], "rows": np.ones((1, 2))}},
            {"file": 'features["image"]', "problem": "it has no ids, and other features have"},
        ),
    ],
    ids=["twice", "no id", "rows", "integers", "infinite", "id twice", "id unknown", "fewer ids",
         "keys", "names beside an array", "both"],
)  # fmt: skip
def test_mistakes_in_items_and_features_are_named(items, features, fields):
    with pytest.raises(DataError) as caught:
        read_frames(TABLE, items, features)
    for name, value in fields.items():
        assert getattr(caught.value, name) == value


def test_rows_that_could_count_from_one_are_refused_until_it_is_said():
    table = pl.DataFrame({"userID": [0, 1, 1], "itemID": [1, 2, 3]})
    with pytest.raises(DataError, match="set ids=rows or ids=names"):
        read_frames(table, None, {"image": np.ones((3, 2))})
    source = read_frames(table, None, {"image": np.ones((3, 2))}, ids="names")
    assert source.interactions.item.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="itemID is 4, expected below 3"):
        read_frames(table.with_columns(itemID=pl.Series([1, 2, 4])), None, {"image": np.eye(3)})


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        ({"interactions": TABLE.lazy()}, "interactions"),
        ({"interactions": [1, 2]}, "interactions"),
        ({"columns": {"users": "x"}}, "columns.users"),
        ({"columns": {"rating": "rating"}}, "columns.rating"),
        ({"columns": {"user": "itemID"}}, "columns.item"),
        ({"split": "temporal", "temporal_cutoffs": (0.9, 0.8)}, "temporal_cutoffs"),
        ({"k_core": -1}, "k_core"),
        ({"category_separator": ""}, "category_separator"),
    ],
)
def test_wrong_arguments_are_named(arguments, setting):
    with pytest.raises(SettingError) as caught:
        Corpus.from_frames(**{"interactions": TABLE, **arguments})
    assert caught.value.setting == setting


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="splits"):
        Corpus.from_frames(TABLE, splits="temporal")


def test_a_matrix_and_its_items_must_agree():
    matrix = sparse.coo_array(np.eye(4))
    with pytest.raises(DataError) as caught:
        read_frames(matrix, ITEMS)
    assert (caught.value.file, caught.value.found) == ("items", "12 rows")


def test_arrays_of_the_caller_are_neither_changed_nor_kept():
    image = np.ones((12, 2), dtype=np.float32)
    image[3] = np.nan
    modality = read_frames(TABLE, ITEMS, {"image": image}).modalities["image"]
    assert np.isnan(image[3]).all()
    image[:] = 5
    assert isinstance(modality, Modality)
    assert modality.features.sum() == 22


def test_a_graph_is_a_corpus():
    graph = HeteroData()
    graph["user"].num_nodes, graph["movie"].num_nodes = 4, 6
    user = torch.arange(4).repeat_interleave(4)
    item = torch.cat([torch.randperm(6)[:4] for _ in range(4)])
    graph["user", "rates", "movie"].edge_index = torch.stack([user, item])
    corpus = Corpus.from_pyg(graph, item="movie")
    assert (corpus.n_users, corpus.n_items, len(corpus.test)) == (4, 6, 4)
