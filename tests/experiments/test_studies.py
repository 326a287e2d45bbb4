"""Contests search all models alike, and the study of missing content hides what it says."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from scipy import stats

from experiments import contest as module
from experiments.contest import Contest
from experiments.mamex import __main__ as cold
from experiments.missing import __main__ as missing
from experiments.missing.__main__ import lacking, ranked_without
from experiments.pages import without
from mmrec.commands.run import run as run_model
from mmrec.models import ContentBPR, ItemKNN
from mmrec.training.open_run import open_run


@pytest.fixture
def contest(tmp_path, monkeypatch):
    """A contest, and the multiruns that it asks for; a search writes what it has chosen."""
    made = Contest(
        chosen=tmp_path / "conf",
        outputs=tmp_path / "outputs",
        data={"planted": ("data=planted", "data.batch_size=64")},
        trials={"planted": 3},
        over="seed",
        values="0,1",
        models=("bpr", "random"),
    )
    calls = []

    def call(*words):
        calls.append(words)
        folder = next(Path(w.partition("=")[2]) for w in words if w.startswith("hydra.sweep.dir="))
        if words[0].startswith("sweep="):
            best = folder / "experiment" / f"{folder.name}-best.yaml"
            best.parent.mkdir(parents=True, exist_ok=True)
            best.write_text("# chosen\n")
        return "seed=9" not in words

    monkeypatch.setattr(module, "call", call)
    return made, calls


def run(contest, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["contest", *words])
    return list(contest.main("what it is"))


def test_a_study_of_no_draw_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["missing", "--draws", "0"])
    with pytest.raises(SystemExit):
        missing.main()
    assert "--draws 0: give 1 or more" in capsys.readouterr().err


def test_a_variant_is_searched_only_if_asked_for(contest, monkeypatch):
    made, calls = contest
    made = replace(made, models=("random", "bpr_wide"), variants={"bpr_wide": "bpr"})
    run(made, monkeypatch)
    assert [words[1] for words in calls] == ["model=random"]
    run(made, monkeypatch, "--models", "bpr_wide")
    assert calls[1][:2] == ("sweep=bpr", "model=bpr")
    calls.clear()
    run(made, monkeypatch)  # now its settings are on record
    assert [words[1] for words in calls] == ["model=random", "experiment=bpr_wide-planted-best"]


def test_a_model_is_searched_once_and_repeated(contest, monkeypatch, tmp_path):
    made, calls = contest
    assert run(made, monkeypatch) == ["planted"]
    searched, repeated, plain = calls
    assert searched[:4] == ("sweep=bpr", "model=bpr", "data=planted", "data.batch_size=64")
    assert "sweep.n_trials=3" in searched
    chosen = ("grid=runs", "experiment=bpr-planted-best", "data=planted", "data.batch_size=64")
    assert repeated[:5] == (*chosen, "seed=0,1")
    assert repeated[-2:] == ("--config-dir", str(tmp_path / "conf"))
    assert plain[:3] == ("grid=runs", "model=random", "data=planted")  # nothing to search
    calls.clear()
    run(made, monkeypatch, "--models", "bpr", "--seeds", "4,5", "trainer=cpu")
    (again,) = calls
    assert again[:5] == (*chosen, "seed=4,5")
    assert "trainer=cpu" in again


def test_a_model_may_have_fewer_trials(contest, monkeypatch):
    made, calls = contest
    made = replace(made, most={"bpr": 2, "random": 9})
    run(made, monkeypatch, "--models", "bpr")
    assert "sweep.n_trials=2" in calls[0]
    run(made, monkeypatch, "--models", "bpr", "--trials", "5", "--search")
    assert "sweep.n_trials=5" in calls[2]


def test_a_model_may_have_words_of_its_own(contest, monkeypatch):
    made, calls = contest
    made = replace(made, own={"bpr": ("data.batch_size=32", "trainer=cpu")})
    run(made, monkeypatch)
    searched, _, plain = calls
    assert searched[1:5] == ("model=bpr", "data=planted", "data.batch_size=32", "trainer=cpu")
    assert "data.batch_size=64" in plain
    assert made.repeats("bpr", "planted") != contest[0].repeats("bpr", "planted")
    assert made.repeats("random", "planted") == contest[0].repeats("random", "planted")


def test_a_model_with_words_of_its_own_is_an_entry_beside_it(contest, monkeypatch):
    made, calls = contest
    own = {"wide": ("model.dim=128",), "wide-planted": ("data.batch_size=32",)}
    made = replace(made, own=own, variants={"wide": "bpr"})
    run(made, monkeypatch, "--models", "bpr", "wide")
    plain, _, searched, repeated = calls
    words = ("sweep=bpr", "model=bpr", "data=planted", "data.batch_size=32", "model.dim=128")
    assert searched[:5] == words
    assert "model.dim=128" not in plain
    assert "sweep.study_name=wide-planted" in searched
    assert repeated[1] == "experiment=wide-planted-best"


def test_an_entry_is_searched_in_its_own_space_where_it_has_one(contest, monkeypatch):
    made, calls = contest
    own = {"lightgcn_softmax": ("model.loss=softmax",)}
    made = replace(made, own=own, variants={"lightgcn_softmax": "lightgcn"})
    run(made, monkeypatch, "--models", "lightgcn_softmax")
    assert calls[0][:2] == ("sweep=lightgcn_softmax", "model=lightgcn")
    assert "model.loss=softmax" in calls[0]


def test_a_model_of_few_settings_has_all_of_them_tried(contest, monkeypatch):
    made, calls = contest
    made = replace(made, least={"bpr": 5})
    run(made, monkeypatch, "--models", "bpr")
    assert "sweep.n_trials=5" in calls[0]
    calls.clear()
    run(made, monkeypatch, "--models", "bpr", "--search", "--trials", "7")
    assert "sweep.n_trials=7" in calls[0]


def test_a_search_can_be_asked_for_again(contest, monkeypatch, tmp_path):
    made, calls = contest
    kept = tmp_path / "conf/experiment/bpr-planted-best.yaml"
    kept.parent.mkdir(parents=True)
    kept.write_text("# older\n")
    stale = made.outputs / "search" / "bpr-planted" / "experiment"
    stale.mkdir(parents=True)
    (stale / "old.yaml").touch()
    before = made.repeats("bpr", "planted")
    run(made, monkeypatch, "--models", "bpr", "--search", "--trials", "7", "--jobs", "2")
    assert made.repeats("bpr", "planted") != before
    assert not (stale / "old.yaml").exists()
    assert [words[0] for words in calls] == ["sweep=bpr", "grid=runs"]
    assert {"sweep.n_trials=7", "sweep.n_jobs=2", "hydra/launcher=joblib"} <= set(calls[0])
    assert kept.read_text() == "# chosen\n"


def test_a_search_can_go_on_from_its_trials(contest, monkeypatch):
    made, calls = contest
    run(made, monkeypatch, "--models", "bpr")
    trial = made.outputs / "search" / "bpr-planted" / "0"
    trial.mkdir()
    made.best("bpr", "planted").write_text("# older\n")
    calls.clear()
    run(made, monkeypatch, "--models", "bpr", "--more", "--trials", "7")
    assert [words[0] for words in calls] == ["sweep=bpr", "grid=runs"]
    assert "sweep.n_trials=7" in calls[0]
    assert trial.exists()
    assert made.best("bpr", "planted").read_text() == "# chosen\n"


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """`drawn(model=[(split, value), ...])` are the runs that the page of cold items finds."""

    def build(**values):
        def collect(patterns):
            model = Path(patterns[0]).parent.name.split("-")[0]
            return SimpleNamespace(
                runs=[
                    SimpleNamespace(
                        result={"data_card": {"split": split}},
                        metrics={"val/ndcg@10": value, "test/recall@20": value},
                        folder=tmp_path / split,
                    )
                    for split, value in values[model]
                ]
            )

        monkeypatch.setattr(cold, "CONTEST", replace(cold.CONTEST, outputs=tmp_path))
        monkeypatch.setattr(cold, "collect", collect)
        for model in values:
            cold.CONTEST.repeats(model, "tiktok").mkdir(parents=True)
        return cold.entries("tiktok")

    return build


def test_models_are_compared_on_the_same_draws(drawn):
    ours, theirs = [0.3, 0.5, 0.4], [0.2, 0.45, 0.41]
    draws = ["a", "b", "c"]
    found = drawn(
        mamex=list(zip(draws, ours, strict=True)),
        clcrec=list(zip(reversed(draws), reversed(theirs), strict=True)),
        random=[("a", 0.01)],  # another draw, no comparison
    )
    assert [entry.model for entry in found] == ["mamex", "clcrec", "random"]
    (row,) = [line for line in cold.differences(found, "recall@20").splitlines() if "clc" in line]
    test = stats.ttest_rel(ours, theirs)
    bounds = test.confidence_interval(0.95)
    assert row == (
        f"| clcrec | +0.0467 | +13.2% | {bounds.low:+.4f} to {bounds.high:+.4f} | 2 of 3 "
        f"| {test.pvalue:.4f} | {test.pvalue:.4f} |"
    )


def test_roles_are_told_where_all_draws_know_them(drawn):
    one, two = drawn(mamex=[("a", 0.3), ("b", 0.5)], random=[("a", 0.1), ("b", 0.1)])
    assert cold.roles([one, two]) == []
    for run_, area in zip(one.runs.values(), (0.9, 0.7), strict=True):
        run_.result["recovery"] = {"auc": area}
    two.runs["a"].result["recovery"] = {"auc": 0.5}
    assert cold.roles([one, two])[4:] == ["| mamex | warm | 0.8000 ± 0.1414 |", ""]


def test_two_runs_of_a_draw_are_one_too_many(drawn):
    with pytest.raises(SystemExit, match=r"two runs of a: .* remove the one of older code"):
        drawn(mamex=[("a", 0.3), ("a", 0.4)])


def test_what_failed_is_named(contest, monkeypatch):
    with pytest.raises(SystemExit, match=r"failed: random on planted; the same command runs only"):
        run(contest[0], monkeypatch, "--models", "random", "--seeds", "9")


@pytest.fixture(scope="module")
def cold_run(composed, tmp_path_factory):
    """A MAMEX that hid half of the modalities in training."""
    folder = tmp_path_factory.mktemp("runs") / "mamex"
    words = ["model=mamex", "data=planted_cold", "model.modality_dropout=0.5", "model.dim=8"]
    words += ["data.world.users=120", "data.world.items=300", "trainer.max_epochs=2"]
    words += ["trainer.check_val_every_n_epoch=1"]
    words += ["trainer=cpu", "trainer.enable_progress_bar=false", f"run_dir={folder}"]
    run_model(composed(*words), [])
    return folder


def test_the_weights_of_a_run_are_those_of_its_model_and_not_of_its_training(cold_run):
    weights = open_run(cold_run).model.item_weights()
    table = pl.read_parquet(cold_run / "item_weights.parquet")
    for name, expected in weights.items():
        torch.testing.assert_close(table[name].to_torch(), expected, check_dtype=False)
    assert ((weights["visual"] > 0) & (weights["visual"] < 1)).float().mean() > 0.7


def test_with_nothing_hidden_the_study_finds_what_the_run_has_found(cold_run):
    opened = open_run(cold_run)
    whole = ranked_without(opened, "visual", 0.0)
    assert whole == pytest.approx(opened.result["metrics"]["test/recall@20"], abs=1e-6)
    assert ranked_without(opened, "visual", 1.0) != whole
    assert ranked_without(opened, "visual", 0.0) == whole


@torch.no_grad()
def test_items_that_lack_a_modality_rank_as_if_they_had_never_had_it(checkerboard):
    corpus = checkerboard(missing=8)
    model = ContentBPR(corpus).eval()
    before, items = model.encode().items, torch.tensor([5, 17, 40])
    content = model.item_features()
    features = {
        n: x[items].clone() for n, x in zip(model.item_features.names, content.rows, strict=True)
    }
    features["visual"][:] = torch.nan
    expected = model.encode_items(features)
    less = ContentBPR(lacking(corpus, "visual", items)).eval()
    less.load_state_dict(model.state_dict())
    found = less.encode().items
    torch.testing.assert_close(found[items], expected)
    others = torch.ones(len(before), dtype=torch.bool)
    others[items] = False
    with_content = others & model.item_features.present.any(1)
    torch.testing.assert_close(found[with_content], before[with_content])
    assert torch.equal(model.encode().items, before)


def test_neighbours_are_sought_anew_without_a_modality(checkerboard):
    corpus, items = checkerboard(), torch.tensor([5, 17, 40])
    less = ItemKNN(lacking(corpus, "visual", items)).similarity.to_dense()
    textual = {name: m for name, m in corpus.modalities.items() if name == "textual"}
    alone = ItemKNN(replace(corpus, modalities=textual)).similarity.to_dense()
    chosen = less[items] > 0  # those that look alike in text alone
    assert torch.equal(chosen, alone[items] > 0)
    assert (less[:, items] > 0).any()


def test_a_column_is_left_out_of_a_table_and_all_else_stays():
    table = "### T\n\n| a | tried | b |\n| --- | --: | --- |\n| 1 | 2 | 3 |\n\ntried: no column\n"
    expected = "### T\n\n| a | b |\n| --- | --- |\n| 1 | 3 |\n\ntried: no column\n"
    assert without(table, "tried") == expected
    assert without(expected, "tried") == expected
