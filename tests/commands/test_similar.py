"""Similar items are those that a naive loop over cosines finds."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch

from mmrec.commands.similar import similar
from mmrec.config.errors import SettingError
from mmrec.evaluation import NonFiniteScores
from mmrec.training.open_run import open_run
from mmrec.training.ranked_lists import similar_lists

ITEMS = 50


def naive(vectors, item, k):
    """The k nearest by cosine, by sorting."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit[item]
    others = [other for other in range(len(vectors)) if other != item]
    return sorted(others, key=lambda other: -cosine[other])[:k], cosine


@pytest.mark.parametrize("block", [1, 7, 512])
def test_the_lists_are_those_of_a_naive_loop(run_of, tmp_path, block):
    folder = run_of("bpr")
    path = similar(run=folder, output=str(tmp_path / "s.parquet"), k=4, block=block)
    frame = pl.read_parquet(path)
    assert frame.columns == ["item", "similar", "rank", "similarity"]
    vectors = open_run(folder).model.item.weight.detach().numpy()
    for item in range(ITEMS):
        best, cosine = naive(vectors, item, 4)
        of_item = frame.filter(pl.col("item") == item)
        assert of_item["similar"].to_list() == best
        assert of_item["rank"].to_list() == [1, 2, 3, 4]
        np.testing.assert_allclose(of_item["similarity"], cosine[best], atol=1e-6)


def test_vectors_of_several_experts_are_compared_side_by_side(run_of):
    opened = open_run(run_of("magnet"))
    with torch.no_grad():
        vectors = opened.model.encode().items  # [E, I, D]
    joined = torch.cat(list(vectors), dim=1).numpy()
    [frame] = similar_lists(opened, torch.tensor([3]), 5)
    assert frame["similar"].to_list() == naive(joined, 3, 5)[0]


@pytest.mark.parametrize(
    "model",
    [
        *("clcrec", "content_bpr", "dropoutnet", "gated_lightgcn"),
        *("lightgcn", "mamex", "vbpr", "ease"),
    ],
)
@pytest.mark.slow
def test_models_with_vectors_or_weights_have_similar_items(model, run_of):
    [frame] = similar_lists(open_run(run_of(model)), torch.tensor([0, 9]), 3)
    assert frame["item"].to_list() == [0, 0, 0, 9, 9, 9]
    assert not (frame["item"] == frame["similar"]).any()
    assert frame["similarity"].is_finite().all()


def test_ease_compares_items_by_what_it_has_learned(run_of):
    opened = open_run(run_of("ease"))
    [frame] = similar_lists(opened, torch.tensor([5]), 3)
    row = opened.model.weights[5].tolist()
    expected = sorted((n for n in range(ITEMS) if n != 5), key=lambda n: -row[n])[:3]
    assert frame["similar"].to_list() == expected


def test_item_knn_lists_neighbours_only(run_of):
    opened = open_run(run_of("item_knn"))
    [frame] = similar_lists(opened, torch.tensor([5]), ITEMS)
    row = opened.model.similarity.to_dense()[:, 5]
    row[5] = 0
    assert {*frame["similar"]} == {*row.nonzero().flatten().tolist()}
    np.testing.assert_allclose(frame["similarity"], row[frame["similar"].to_list()], atol=1e-6)


def test_a_model_without_item_vectors_says_so(run_of, tmp_path):
    folder = run_of("most_pop")
    with pytest.raises(SettingError) as error:
        similar(run=folder, items=[0], output=str(tmp_path / "s.csv"))
    assert (error.value.setting, error.value.value) == ("run", folder)
    assert error.value.problem == "MostPop has no item vectors"
    assert not any(tmp_path.iterdir())


def test_items_are_named_by_their_ids_and_titles(shop_run, tmp_path):
    path = similar(run=shop_run, items=["3_0"], output=str(tmp_path / "s.csv"), k=2)
    frame = pl.read_csv(path)
    assert frame.columns[4:] == ["item_id", "similar_id", "title", "similar_title"]
    assert frame["item_id"].to_list() == ["3_0", "3_0"]
    assert frame["title"].to_list() == ["'@book 3", "'@book 3"]  # no formula in a spreadsheet
    for name, title in zip(frame["similar_id"], frame["similar_title"], strict=True):
        assert title == f"'@book {name[0]}"


def test_the_list_of_an_item_may_be_narrowed(shop_run, tmp_path):
    output = str(tmp_path / "s.csv")
    path = similar(run=shop_run, items="3_0", output=output, only=["1_0", "3_0", "5_0", "7_0"])
    assert {*pl.read_csv(path)["similar_id"]} == {"1_0", "5_0", "7_0"}
    path = similar(run=shop_run, items="3_0", output=output, exclude=["1_0", "2_0"])
    assert {*pl.read_csv(path)["similar_id"]} == {"0_0", "4_0", "5_0", "6_0", "7_0"}


def test_without_output_a_few_lists_are_printed(shop_run, caplog):
    with caplog.at_level(logging.INFO):
        assert similar(run=shop_run, k=1) is None
    rows = [line.split() for line in caplog.text.splitlines() if "@book" in line]
    assert [row[0] for row in rows] == ["0_0", "1_0", "2_0"]
    assert "3 of 8 items" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("items", "wanted.csv", "there is no such file"),
        ("k", 0, "1 or more"),
        ("block", 0, "1 or more"),
        ("output", "s.txt", "a file name that ends in"),
    ],
)
def test_a_wrong_setting_is_named(shop_run, name, value, said):
    with pytest.raises(SettingError) as error:
        similar(run=shop_run, **{name: value})
    assert (error.value.setting, error.value.value) == (name, value)
    assert (error.value.problem or error.value.expected).startswith(said)


def test_an_unknown_item_is_answered_with_the_nearest(shop_run):
    with pytest.raises(SettingError) as error:
        similar(run=shop_run, items=["3_"])
    assert (error.value.setting, error.value.value) == ("items", "3_")
    assert "did you mean 3_0" in error.value.problem


def test_vectors_that_are_not_numbers_are_an_error_and_no_file(run_of, tmp_path):
    folder = shutil.copytree(run_of("bpr"), tmp_path / "copy")
    path = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["item.weight"][4] = np.nan
    torch.save(checkpoint, path)
    with pytest.raises(NonFiniteScores, match=r"best\.ckpt: .* diverged"):
        similar(run=folder, output=str(tmp_path / "s.csv"))
    assert [file.name for file in tmp_path.iterdir()] == ["copy"]


@pytest.mark.slow
def test_the_command_reads_ids_as_text(shop_run, tmp_path):
    words = [f"run={shop_run}", "output=s.jsonl", "items=[3_0]", "k=2"]
    line = [sys.executable, "-m", "mmrec.similar", *words]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pl.read_ndjson(tmp_path / "s.jsonl")["item_id"].to_list() == ["3_0", "3_0"]
