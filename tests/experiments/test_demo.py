"""The demo runs until early stopping, explains its figures, and judges the gate by plain counts."""

import matplotlib.image
import polars as pl
import pytest
import torch

from experiments import demo as module
from experiments.demo import (
    METRICS,
    MODELS,
    SETTINGS,
    demo,
    explained,
    explained_gate,
    gate_agreement,
)
from mmrec.training.open_run import open_run

TINY = ("data.world.users=80", "data.world.items=60", "trainer.max_epochs=2")
QUIET = "trainer.enable_progress_bar=false"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        chosen = {name: MODELS[name] for name in ("most_pop", "gated_lightgcn")}
        patch.setattr(module, "MODELS", chosen)
        return folder, demo(folder, [*TINY, QUIET])


@pytest.mark.slow
def test_the_table_holds_the_numbers_of_the_runs(outcome):
    folder, results = outcome
    table = pl.read_csv(folder / "comparison.csv")
    assert table.columns == ["model", *METRICS]
    assert table["model"].to_list() == list(results)
    for row in table.iter_rows(named=True):
        assert row.pop("model") in MODELS
    assert table["test/recall@20"].to_list() == [
        result["metrics"]["test/recall@20"] for result in results.values()
    ]


@pytest.mark.slow
def test_it_leaves_figures_and_recommendations(outcome):
    folder, _ = outcome
    for name in ("comparison.png", "learning_curve.png"):
        assert matplotlib.image.imread(folder / name).std() > 0
    lists = pl.read_csv(folder / "recommendations.csv")
    assert lists.group_by("user").len()["len"].unique().to_list() == [10]


@pytest.mark.slow
def test_the_gate_is_judged_by_pairs_of_items(outcome):
    run = outcome[0] / "gated_lightgcn"
    opened = open_run(run)
    weights, truth = opened.model.item_weights(), opened.data.truth
    whole = torch.stack([m.present for m in opened.corpus.modalities.values()]).all(0)
    for name, other in (("visual", "textual"), ("textual", "visual")):
        own, rest = (
            weights[name][whole & (truth.role == truth.role_names.index(f"dominant/{role}"))]
            for role in (name, other)
        )
        pairs = own[:, None] - rest
        expected = ((pairs > 0).float() + (pairs == 0).float() / 2).mean()
        assert gate_agreement(run)[name] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.slow
def test_a_model_without_a_gate_has_no_agreement(outcome):
    assert gate_agreement(outcome[0] / "most_pop") == {}


def test_training_ends_by_early_stopping_alone(composed):
    config = composed(*SETTINGS)
    assert not any("max_epochs" in word for word in SETTINGS)
    assert config.trainer.max_epochs >= 1000
    assert 0 < config.callbacks.early_stopping.patience < 20


def result(epochs=0, best=None, value=0.25):
    return {
        "epochs": epochs,
        "best_epoch": best,
        "data_card": {"items": 2000},
        "metrics": {"test/recall@20": value},
    }


def test_each_figure_of_the_table_has_a_sentence():
    results = {"random": result(), "lightgcn": result(47, 36, 0.2570)}
    text = "\n".join(explained(results))
    for column in METRICS:
        for part in column.split("/"):
            assert part in text
    assert "about 0.010" in text  # 20 of 2,000
    assert "lightgcn trained for 47 epochs and was best in epoch 36" in text
    assert "random trained" not in text
    assert "worth" not in text  # nothing to compare


def test_what_content_is_worth_is_said_of_the_models_that_learn():
    results = {"a": result(), "b": result(9, 8, 0.25), "c": result(9, 8, 0.34)}
    assert "c has a test/recall@20 of 0.3400 and b of 0.2500" in explained(results)[-1]


def test_the_agreement_of_a_gate_is_explained_as_pairs():
    (sentence,) = explained_gate({"visual": 0.934})
    assert "visual" in sentence
    assert "0.934" in sentence
    assert "93%" in sentence
    assert explained_gate({}) == []
