"""A run of a model of sequences, from training to recommendations."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from mmrec.commands.evaluate import evaluate
from mmrec.commands.recommend import recommend
from mmrec.commands.run import main
from mmrec.data.corpus import together
from mmrec.training.open_run import open_run

WORDS = (
    "model=sasrec",
    "data=planted",
    "data.world.users=80",
    "data.world.items=60",
    "data.split=leave_one_out",
    "data.batch_size=16",
    "model.dim=16",
    "model.inner=16",
    "model.max_length=5",
    "trainer=cpu",
    "trainer.max_epochs=3",
    "trainer.enable_progress_bar=false",
)


@pytest.fixture(scope="module")
def run(run_words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sasrec"
    run_words(folder, *WORDS)
    return open_run(folder)


def test_it_says_its_protocol_and_gives_the_same_numbers_again(run):
    card = run.result["data_card"]
    assert (card["seen"], card["history"]) == ("none", "train+val")
    assert run.config["evaluation"]["history"] == "train+val"
    assert evaluate(run=run.folder)["differences"] == {}
    shorter = evaluate(run=run.folder, history="train")
    assert shorter["differences"] is None
    assert shorter["metrics"] != run.result["metrics"]


def test_lists_follow_from_the_history_that_is_asked_for(run, tmp_path):
    """By scoring one user alone, with the history cut by hand."""
    corpus, user = run.corpus, 7
    parts = {"train": [corpus.train], "train+val": [corpus.train, corpus.val]}
    parts["all"] = [corpus.train, corpus.val, corpus.test]
    found = {}
    for known, several in parts.items():
        path = recommend(
            run=run.folder, output=str(tmp_path / "r.parquet"), k=5, seen="none", history=known
        )
        listed = pl.read_parquet(path).filter(pl.col("user") == user)
        rows = torch.cat([part.item[part.user == user] for part in several])[-5:]
        with torch.no_grad():
            states = run.model.transformer(run.model.item(rows), torch.tensor([len(rows)]))
            scores = states[-1] @ run.model.item.weight.T
        torch.testing.assert_close(
            torch.tensor(listed["score"].to_list()), scores.topk(5).values, atol=1e-5, rtol=1e-5
        )
        found[known] = listed["item"].to_list()
    assert len({tuple(items) for items in found.values()}) > 1


@pytest.mark.parametrize("seen", ["train+val", "none"])
def test_the_history_of_a_known_user_gives_the_users_list(run, tmp_path, seen):
    corpus = run.corpus
    start, item, time = together(corpus.train, corpus.val).by_user(corpus.n_users)
    user = torch.arange(corpus.n_users).repeat_interleave(start.diff())
    frame = pl.DataFrame({"user": user.numpy(), "item": item.numpy(), "timestamp": time.numpy()})
    order = torch.randperm(len(frame), generator=torch.Generator().manual_seed(0))
    frame[order.tolist()].write_csv(tmp_path / "histories.csv")
    lists = [
        pl.read_parquet(recommend(run=run.folder, output=str(tmp_path / name), seen=seen, **given))
        for name, given in (
            ("known.parquet", {}),
            ("given.parquet", {"history": tmp_path / "histories.csv"}),
        )
    ]
    known, given = lists[0], lists[1].with_columns(pl.col("user_id").cast(pl.Int64).alias("user"))
    assert len(known) == 20 * corpus.n_users
    assert given.sort("user", "rank").select(known.columns).equals(known)


def test_seen_items_are_masked_on_request(run, tmp_path):
    path = recommend(run=run.folder, output=str(tmp_path / "r.parquet"), k=10, seen="all")
    listed = pl.read_parquet(path)
    corpus = run.corpus
    known = {
        pair
        for part in (corpus.train, corpus.val, corpus.test)
        for pair in zip(part.user.tolist(), part.item.tolist(), strict=True)
    }
    assert not known & {*zip(listed["user"], listed["item"], strict=True)}


def test_a_general_model_may_be_placed_under_the_same_protocol(in_process, tmp_path):
    words = [w for w in WORDS if not w.startswith(("model", "data.batch_size"))]
    protocol = ("evaluation.seen=none", "evaluation.history=train+val")
    assert in_process(main, "model=most_pop", *words, *protocol, "run_dir=pop") is None
    card = open_run(tmp_path / "pop").result["data_card"]
    assert (card["seen"], card["history"]) == ("none", "train+val")
