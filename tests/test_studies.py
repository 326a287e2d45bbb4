"""Contests search all models alike, and the study of missing content hides what it says."""

from pathlib import Path

import pytest
import torch

from experiments import contest as module
from experiments.contest import Contest
from experiments.missing.__main__ import hidden
from mmrec.models import ContentBPR


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
            best = folder / "experiment" / "bpr-planted-best.yaml"
            best.parent.mkdir(parents=True)
            best.write_text("# chosen\n")
        return "seed=9" not in words

    monkeypatch.setattr(module, "call", call)
    return made, calls


def run(contest, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["contest", *words])
    return contest.main("what it is")


def test_a_model_is_searched_once_and_repeated(contest, monkeypatch, tmp_path):
    made, calls = contest
    assert run(made, monkeypatch) == ["planted"]
    searched, repeated, plain = calls
    assert searched[:4] == ("sweep=bpr", "model=bpr", "data=planted", "data.batch_size=64")
    assert "sweep.n_trials=3" in searched
    assert repeated[:3] == ("grid=runs", "experiment=bpr-planted-best", "seed=0,1")
    assert repeated[-2:] == ("--config-dir", str(tmp_path / "conf"))
    assert plain[:3] == ("grid=runs", "model=random", "data=planted")  # nothing to search
    calls.clear()
    run(made, monkeypatch, "--models", "bpr", "--seeds", "4,5", "trainer=cpu")
    (again,) = calls
    assert again[:3] == ("grid=runs", "experiment=bpr-planted-best", "seed=4,5")
    assert "trainer=cpu" in again


def test_a_search_can_be_asked_for_again(contest, monkeypatch, tmp_path):
    made, calls = contest
    kept = tmp_path / "conf/experiment/bpr-planted-best.yaml"
    kept.parent.mkdir(parents=True)
    kept.write_text("# older\n")
    run(made, monkeypatch, "--models", "bpr", "--search", "--trials", "7", "--jobs", "2")
    assert [words[0] for words in calls] == ["sweep=bpr", "grid=runs"]
    assert {"sweep.n_trials=7", "sweep.n_jobs=2", "hydra/launcher=joblib"} <= set(calls[0])
    assert kept.read_text() == "# chosen\n"


def test_what_failed_is_named(contest, monkeypatch):
    with pytest.raises(SystemExit, match=r"failed: random on planted; the same command runs only"):
        run(contest[0], monkeypatch, "--models", "random", "--seeds", "9")


@torch.no_grad()
def test_hidden_items_rank_as_if_they_had_never_had_the_modality(checkerboard):
    model = ContentBPR(checkerboard(missing=8)).eval()
    before = model.encode().items
    items = torch.tensor([5, 17, 40])
    content = model.shelf()
    features = {n: x[items].clone() for n, x in zip(model.shelf.names, content.rows, strict=True)}
    features["visual"][:] = torch.nan
    expected = model.encode_items(features)
    with hidden(model.shelf, "visual", items):
        found = model.encode().items
    torch.testing.assert_close(found[items], expected)
    others = torch.ones(len(before), dtype=torch.bool)
    others[items] = False
    with_content = others & model.shelf.present.any(1)
    torch.testing.assert_close(found[with_content], before[with_content])
    assert torch.equal(model.encode().items, before)
