"""Exported vectors rank as the run does; a model without them says so."""

from __future__ import annotations

import json
import logging

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from mmrec.commands.export import export, main
from mmrec.commands.recommend import recommend
from mmrec.config.errors import SettingError
from mmrec.evaluation import NonFiniteScores
from mmrec.models import Embeddings, LightGCN
from mmrec.training.open_run import open_run
from mmrec.training.vectors import SCORES


@pytest.mark.parametrize("model", ["lightgcn", "vbpr", "content_bpr"])
def test_dot_products_of_vectors_give_the_lists_of_recommend(model, run_of, tmp_path):
    export(run=run_of(model), output=str(tmp_path / "vectors"))
    found = load_file(tmp_path / "vectors" / "vectors.safetensors")
    lists = recommend(run=run_of(model), output=str(tmp_path / "recs.parquet"), k=10, seen="none")
    ranked = pl.read_parquet(lists).sort("user", "rank")
    best = (found["users"] @ found["items"].T).topk(10)
    expected = ranked["score"].to_torch().view(60, 10)
    torch.testing.assert_close(best.values, expected)
    item = ranked["item"].to_torch().view(60, 10)
    apart = (expected[:, :-1] - expected[:, 1:]).min(1).values > 1e-6  # no two scores alike
    assert apart.sum() > 30
    assert torch.equal(best.indices[apart], item[apart])
    about = json.loads((tmp_path / "vectors" / "export.json").read_text())
    assert about["score"] == "dot product"
    assert (about["users"], about["items"], about["model"]) == (60, 50, model)


def test_names_and_titles_stand_beside_the_vectors(shop_run, tmp_path):
    export(run=shop_run, output=str(tmp_path / "vectors"))
    items = pl.read_parquet(tmp_path / "vectors" / "items.parquet")
    assert items.columns == ["item", "item_id", "title"]
    assert items["title"].to_list() == [f"@book {name[0]}" for name in items["item_id"]]
    users = pl.read_parquet(tmp_path / "vectors" / "users.parquet")
    assert users["user_id"].to_list() == [f"u{n}" for n in range(8)]
    assert not [path for path in tmp_path.iterdir() if path.name != "vectors"]


@pytest.mark.parametrize(("model", "score"), [("magnet", "pair"), ("sasrec", "state")])
def test_models_without_user_vectors_write_items_only_and_say_why(
    model, score, run_of, tmp_path, caplog
):
    with caplog.at_level(logging.WARNING):
        export(run=run_of(model), output=str(tmp_path / "vectors"))
    assert SCORES[score] in caplog.text
    found = load_file(tmp_path / "vectors" / "vectors.safetensors")
    assert [*found] == ["items"]
    assert len(found["items"]) == 50
    assert not (tmp_path / "vectors" / "users.parquet").exists()
    about = json.loads((tmp_path / "vectors" / "export.json").read_text())
    assert about["score"] == score


def test_the_vectors_of_a_sequential_model_score_its_states(run_of, tmp_path):
    export(run=run_of("sasrec"), output=str(tmp_path / "vectors"))
    items = load_file(tmp_path / "vectors" / "vectors.safetensors")["items"]
    opened = open_run(run_of("sasrec"))
    with torch.no_grad():
        encoded = opened.model.encode()
        [queries] = opened.queries(torch.arange(4), 4)
        scores = opened.model.score(encoded, queries)
    solved = torch.linalg.lstsq(items, scores.T)  # a state is one vector for all items
    torch.testing.assert_close(items @ solved.solution, scores.T, atol=1e-4, rtol=1e-4)


def test_an_index_finds_what_the_dot_products_find(run_of, tmp_path):
    faiss = pytest.importorskip("faiss")
    export(run=run_of("lightgcn"), output=str(tmp_path / "vectors"), index="faiss")
    found = load_file(tmp_path / "vectors" / "vectors.safetensors")
    index = faiss.read_index(str(tmp_path / "vectors" / "items.faiss"))
    score, item = index.search(found["users"].numpy(), 5)
    np.testing.assert_allclose(score, (found["users"] @ found["items"].T).topk(5).values, rtol=1e-5)
    assert item.shape == (60, 5)


def test_an_index_without_its_package_is_refused_first(monkeypatch, tmp_path):
    monkeypatch.setattr("mmrec.commands.export.find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"pip install 'mmrec\[faiss\]'"):
        export(run=tmp_path, output=str(tmp_path / "vectors"), index="faiss")


def test_a_model_without_vectors_is_refused(run_of, tmp_path):
    with pytest.raises(SettingError, match="EASE has no vectors of items"):
        export(run=run_of("ease"), output=str(tmp_path / "vectors"))
    assert not (tmp_path / "vectors").exists()


def test_a_diverged_model_leaves_nothing(run_of, tmp_path, monkeypatch):
    nowhere = Embeddings(torch.full((60, 2), torch.nan), torch.zeros(50, 2))
    monkeypatch.setattr(LightGCN, "encode", lambda _: nowhere)
    with pytest.raises(NonFiniteScores, match="a vector of users"):
        export(run=run_of("lightgcn"), output=str(tmp_path / "vectors"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_text("x"), "it is a file"),
        (lambda path: (path.mkdir(), (path / "notes").touch()), "the folder is not empty"),
        (lambda path: path.parent.rmdir(), "there is no folder"),
    ],
)
def test_what_is_there_is_not_overwritten(make, problem, tmp_path):
    path = tmp_path / "out" / "vectors"
    path.parent.mkdir()
    make(path)
    with pytest.raises(SettingError, match=problem):
        export(run=tmp_path, output=str(path))


def test_the_command_reads_its_settings(run_of, in_process, tmp_path):
    assert in_process(main, f"run={run_of('lightgcn')}", "output=vectors") is None
    assert (tmp_path / "vectors" / "export.json").is_file()
    said = in_process(main, f"run={run_of('lightgcn')}", "output=more", "index=annoy")
    assert "index=annoy" in said
    assert in_process(main, "output=more").startswith("error: run: a value is required")
