"""Weights along sequences: those that the model reads, in order, and their means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from mmrec.data import Categories, History, InteractionData
from mmrec.data.corpus import together
from mmrec.models import CAMMSR, GatedLightGCN, SASRec
from mmrec.report.sequences import along_sequences, categories_of, every_user, weights_in_train
from mmrec.training.open_run import OpenRun


@pytest.fixture(scope="module")
def opened(small_corpus):
    """`opened(kind)`: a run whose model has learned nothing; user 6 has no interactions."""
    corpus = small_corpus()
    labels = Categories(torch.tensor([0, 2, 2]), torch.tensor([0, 1, 0]), ("red", "blue"))
    parts = {name: getattr(corpus, name) for name in ("train", "val", "test")}
    parts = {name: part.select(part.user < 6) for name, part in parts.items()}
    names = pl.Series([*"abcdefg"])
    corpus = replace(corpus, categories=labels, user_ids=names, **parts)

    def build(kind, **settings):
        torch.manual_seed(0)
        data = InteractionData()
        data.corpus = corpus
        model = kind(corpus, dim=4, **settings).eval().requires_grad_(requires_grad=False)
        return OpenRun(Path("run"), Path("run"), {}, {}, data, model)

    return build


def weighed_alone(run, items):
    """Weights [L, C] of one sequence, read by itself."""
    history = History(items, torch.tensor([len(items)]))
    found = run.model.sequence_weights(history, run.model.encode())
    return torch.stack([*found.values()], 1)


def test_train_is_weighed_as_sequences_have_it(opened):
    run = opened(CAMMSR, max_length=3)  # the oldest of four is not read
    found = weights_in_train(run)
    assert found.in_sequences
    assert "training sequences" in found.about
    train, values = run.corpus.train, torch.stack([*found.channels.values()], 1)
    for user in range(6):
        own = found.pairs.user == user
        items = train.item[train.user == user][-3:]
        assert found.pairs.item[own].tolist() == items.tolist()
        torch.testing.assert_close(values[own], weighed_alone(run, items))
    table = every_user(run.corpus, found)
    assert table.columns == ["user", "user_id", "items", *run.model.names]
    assert table["items"].to_list() == [3] * 6 + [0]
    means = torch.stack([values[found.pairs.user == user].mean(0) for user in range(6)])
    listed = table.select(run.model.names)
    assert listed.head(6).to_numpy() == pytest.approx(means.numpy(), abs=1e-6)
    assert listed.row(6) == (None,) * len(run.model.names)


def test_pairs_are_weighed_where_no_sequence_is_read(opened):
    run = opened(GatedLightGCN)
    train, found = run.corpus.train, weights_in_train(run)
    assert not found.in_sequences
    assert found.pairs is train
    expected = run.pair_weights(train.user, train.item)
    assert [*found.channels] == [*expected]
    assert all(torch.equal(found.channels[name], expected[name]) for name in expected)
    assert along_sequences(run, torch.tensor([1])) == []


def test_a_model_of_sequences_without_weights_shows_none(opened):
    run = opened(SASRec)
    assert not weights_in_train(run).channels
    assert along_sequences(run, torch.tensor([1])) == []


def test_a_page_shows_the_sequences_that_recommend_reads(opened):
    run = opened(CAMMSR)
    corpus = run.corpus
    (section,) = along_sequences(run, torch.tensor([4, 6, 2]))
    by_user, *tables = section.tables
    start, item, _ = together(corpus.train, corpus.val).by_user(corpus.n_users)
    assert [table.name for table in tables] == ["user-e-sequence", "user-c-sequence"]
    for user, table in zip((4, 2), tables, strict=True):
        items = item[start[user] : start[user + 1]]
        cells = [dict(zip(table.head, row, strict=True)) for row in table.rows]
        assert [cell["item"] for cell in cells] == [str(item) for item in items.tolist()]
        assert [cell["position"] for cell in cells] == [*"12345"]
        assert [cell["categories"] for cell in cells] == categories_of(corpus, items).to_list()
        values = weighed_alone(run, items)
        shown = [[cell[name].mean for name in run.model.names] for cell in cells]
        assert torch.tensor(shown).numpy() == pytest.approx(values.numpy(), abs=1e-6)
        row = next(row for row in by_user.rows if row[0] == corpus.user_ids[user])
        assert [cell.mean for cell in row[2:]] == pytest.approx(values.mean(0).tolist(), abs=1e-6)
    nobody = next(row for row in by_user.rows if row[0] == "g")
    assert [*nobody[1:]] == ["0", *["–"] * len(run.model.names)]
    axes = section.figures["weights"].axes
    assert [each.get_title() for each in axes] == ["User e", "User c"]
    assert [len(each.lines) for each in axes] == [len(run.model.names)] * 2


def test_items_name_the_categories_that_they_bear(opened):
    corpus = opened(CAMMSR).corpus
    assert categories_of(corpus, torch.tensor([2, 1, 0])).to_list() == ["blue, red", "", "red"]
