"""The demo runs, and what it says of the gate is what a plain count says."""

import matplotlib.image
import polars as pl
import pytest
import torch

from experiments import demo as module
from experiments.demo import METRICS, MODELS, demo, gate_agreement
from mmrec.runs import open_run

TINY = ("data.world.users=80", "data.world.items=60", "trainer.max_epochs=2")
QUIET = "trainer.enable_progress_bar=false"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MODELS", ("most_pop", "gated_lightgcn"))
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
