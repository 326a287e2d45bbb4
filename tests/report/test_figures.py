"""Figures and tables of a run hold what the run found."""

from dataclasses import replace

import matplotlib.image
import polars as pl
import pytest
import torch

from mmrec.config.errors import DataError
from mmrec.data import Corpus, Interactions, Modality
from mmrec.report import figures
from mmrec.report.figures import learning_curve, write_item_weights

USERS, ITEMS = 6, 20


@pytest.fixture
def corpus():
    user = torch.arange(USERS).repeat_interleave(3)
    item = torch.arange(3 * USERS) % ITEMS
    present = torch.ones(ITEMS, dtype=torch.bool)
    present[4] = False
    features = torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(0))
    pair = Interactions(torch.tensor([0]), torch.tensor([19]))
    return Corpus(
        name="tiny",
        n_users=USERS,
        n_items=ITEMS,
        train=Interactions(user, item),
        val=pair,
        test=Interactions(torch.tensor([1]), torch.tensor([19])),
        split="given",
        fingerprint="0",
        modalities={"image": Modality(features * present[:, None], present, "0")},
    )


@pytest.fixture
def weights():
    image = torch.linspace(0, 1, ITEMS)
    return {"image": image, "text": 1 - image}


@pytest.fixture
def metrics_csv(tmp_path):
    """The validation metric is best at epoch 2, and was not computed at epoch 1."""
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,train/bpr,train/l2,val/recall@20\n"
        "0,0.7,0.01,0.1\n1,0.5,0.02,\n2,0.4,0.03,0.3\n3,0.3,0.04,0.2\n"
    )
    return path


def drawn(monkeypatch):
    """The figures that are saved."""
    found, save = [], figures._save
    monkeypatch.setattr(
        figures, "_save", lambda figure, path: (found.append(figure), save(figure, path))
    )
    return found


def test_the_table_has_a_row_an_item_and_a_column_a_channel(tmp_path, corpus, weights):
    write_item_weights(tmp_path, weights, corpus)
    table = pl.read_parquet(tmp_path / "item_weights.parquet")
    assert table.columns == ["item", "image", "text", "train_count"]
    assert table["item"].to_list() == list(range(ITEMS))
    assert table["image"].to_torch().equal(weights["image"])
    assert table["train_count"].to_list() == [1] * 18 + [0] * 2


def test_the_table_has_the_ids_of_the_data(tmp_path, corpus, weights):
    named = replace(corpus, item_ids=pl.Series([f"sku-{i}" for i in range(ITEMS)]))
    write_item_weights(tmp_path, weights, named)
    table = pl.read_parquet(tmp_path / "item_weights.parquet")
    assert table.columns[:2] == ["item", "item_id"]
    assert table["item_id"][7] == "sku-7"


def test_items_that_lack_a_modality_are_in_the_table_and_not_in_the_figure(
    tmp_path, corpus, weights, monkeypatch
):
    found = drawn(monkeypatch)
    write_item_weights(tmp_path, weights, corpus)
    assert "19 items" in found[0].get_suptitle()


def test_items_without_pairs_are_not_drawn_where_pairs_make_the_weights(
    tmp_path, corpus, weights, monkeypatch
):
    found = drawn(monkeypatch)
    write_item_weights(tmp_path, weights, corpus, of_pairs=True)
    assert "17 items" in found[0].get_suptitle()
    assert pl.read_parquet(tmp_path / "item_weights.parquet").height == ITEMS


@pytest.mark.parametrize("share", [0.5, 1 / 3])
def test_weights_that_are_equal_up_to_rounding_are_drawn(tmp_path, corpus, monkeypatch, share):
    found = drawn(monkeypatch)
    equal = torch.full((ITEMS,), share)
    equal[::2] += 1e-7
    write_item_weights(tmp_path, {"image": equal, "text": equal}, corpus)
    bars = found[0].axes[0].patches[0].get_xy()
    assert bars[:, 1].max() == 19


def test_no_item_with_every_modality_is_drawn_too(tmp_path, corpus, weights, monkeypatch):
    found = drawn(monkeypatch)
    image = corpus.modalities["image"]
    none = replace(image, present=torch.zeros_like(image.present))
    write_item_weights(tmp_path, weights, replace(corpus, modalities={"image": none}))
    assert "0 items" in found[0].get_suptitle()


def test_the_means_by_popularity_are_those_of_the_items(tmp_path, corpus, weights, monkeypatch):
    whole = replace(corpus, modalities={})
    found = drawn(monkeypatch)
    write_item_weights(tmp_path, weights, whole)
    # Items 18 and 19 have no train interaction and are the first decile; then pairs, in order.
    order = [18, 19, *range(18)]
    expected = weights["image"][order].reshape(10, 2).mean(1)
    line = found[0].axes[1].containers[0].lines[0]
    torch.testing.assert_close(torch.tensor(line.get_ydata()).float(), expected)


def test_figures_are_images_with_labelled_axes(tmp_path, corpus, weights, metrics_csv, monkeypatch):
    found = drawn(monkeypatch)
    write_item_weights(tmp_path, weights, corpus)
    learning_curve(metrics_csv, "val/recall@20", tmp_path / "curve.png")
    for name in ("item_weights.png", "curve.png"):
        assert matplotlib.image.imread(tmp_path / name).std() > 0
    assert "<svg" in (tmp_path / "item_weights.svg").read_text()
    for figure in found:
        assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


def test_the_learning_curve_marks_the_best_epoch(tmp_path, metrics_csv, monkeypatch):
    found = drawn(monkeypatch)
    learning_curve(metrics_csv, "val/recall@20", tmp_path / "curve.svg")
    training, validation = found[0].axes
    assert [line.get_label() for line in training.lines] == ["bpr", "l2"]
    assert list(validation.lines[0].get_xdata()) == [0, 2, 3]
    assert [list(xy) for xy in validation.lines[1].get_data()] == [[2], [0.3]]


def test_a_validation_after_a_hundred_epochs_is_drawn(tmp_path, monkeypatch):
    rows = [f"{epoch},{1 / (epoch + 1)},{0.25 if epoch == 119 else ''}" for epoch in range(130)]
    path = tmp_path / "metrics.csv"
    path.write_text("\n".join(["epoch,train/bpr,val/recall@20", *rows]) + "\n")
    found = drawn(monkeypatch)
    learning_curve(path, "val/recall@20", tmp_path / "curve.svg")
    assert found[0].axes[1].lines[1].get_label() == "best: 0.2500 at epoch 119"


def test_an_unknown_monitor_names_the_columns_there_are(tmp_path, metrics_csv):
    with pytest.raises(DataError) as error:
        learning_curve(metrics_csv, "val/ndcg@5", tmp_path / "curve.png")
    assert error.value.file == str(metrics_csv)
    assert error.value.expected == "a column val/ndcg@5"
    assert "val/recall@20" in error.value.found
    assert not (tmp_path / "curve.png").exists()


def test_the_files_are_whole_or_not_there(tmp_path, metrics_csv):
    with pytest.raises(ValueError, match="bmpp"):
        learning_curve(metrics_csv, "val/recall@20", tmp_path / "curve.bmpp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv"]
