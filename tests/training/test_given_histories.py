"""Histories that were not in training: what is read of a table or a list, and what is refused."""

from __future__ import annotations

import gzip
import logging
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from mmrec.commands import recommend as command
from mmrec.config.errors import SettingError
from mmrec.config.schema import conf_dir
from mmrec.data import Columns, DataError, InteractionData
from mmrec.models import CAMMSR, HM4SR, LightGCN, SASRec, UniSRec
from mmrec.training.given_histories import read_histories
from mmrec.training.open_run import OpenRun

SIZES = {"dim": 8, "heads": 2, "inner": 8, "max_length": 5}


@pytest.fixture(scope="module")
def corpus(checkerboard):
    """Items 0 to 9 have no content."""
    return checkerboard(modalities=("visual",), missing=10)


@pytest.fixture(scope="module")
def opened():
    """`opened(kind, corpus, columns=None)`: a run whose model has learned nothing."""

    def build(kind, corpus, columns=None, **settings):
        torch.manual_seed(0)
        sizes = {"dim": 8} if kind is LightGCN else SIZES
        model = kind(corpus, **sizes, **settings).eval()
        data = InteractionData()
        data.corpus = corpus
        if columns is not None:
            data.columns = columns
        return OpenRun(Path("run"), Path("run"), {"trainer": {}}, {}, data, model)

    return build


@pytest.fixture(scope="module")
def named(corpus):
    """The same corpus, whose items have names."""
    return replace(corpus, item_ids=pl.Series([f"b{n}" for n in range(corpus.n_items)]))


@pytest.fixture
def recommend(monkeypatch, tmp_path):
    """`recommend(run, rows, **settings)`: the lists of the command for a table of rows."""

    def call(run, rows, **settings):
        table = tmp_path / "sessions.csv"
        pl.DataFrame(rows).write_csv(table)
        monkeypatch.setattr(command, "locate_run", lambda _: None)
        monkeypatch.setattr("mmrec.training.open_run.open_run", lambda *_, **__: run)
        output = str(tmp_path / "lists.parquet")
        settings = {"history": table, "accelerator": "cpu", "output": output, **settings}
        return pl.read_parquet(command.recommend(run="run", **settings))

    return call


def write(path, text):
    path.write_text(text)
    return path


def items_of(given):
    """What is read of each user."""
    start, item, _ = given.read.by_user(len(given))
    names = given.ids.to_list()
    return {name: item[start[n] : start[n + 1]].tolist() for n, name in enumerate(names)}


def test_rows_are_ordered_by_time_then_position_then_row(opened, corpus, tmp_path):
    run = opened(SASRec, corpus)
    text = "user,item,timestamp,position\nb,1,20,0\na,2,5,1\nb,3,10,0\na,4,5,0\nb,5,10,0\na,6,4,9\n"
    given = read_histories(run, write(tmp_path / "h.csv", text))
    assert items_of(given) == {"b": [3, 5, 1], "a": [6, 4, 2]}
    assert given.read.time.tolist() == [10, 10, 20, 4, 5, 5]
    only = "user,item,position\nb,1,2\nb,3,0\nb,5,0\n"
    assert items_of(read_histories(run, write(tmp_path / "p.csv", only))) == {"b": [3, 5, 1]}
    iso = "user\titem\ttimestamp\na\t1\t2024-05-01T12:00:00.9Z\na\t2\t2024-05-01T12:00:00.1Z\n"
    assert items_of(read_histories(run, write(tmp_path / "i.tsv", iso))) == {"a": [2, 1]}


def test_tables_of_all_kinds_are_read(opened, corpus, tmp_path):
    run = opened(SASRec, corpus)
    frame = pl.DataFrame({"user_id": [7, 7, 3], "item": [1, 2, 3], "timestamp": [2, 1, 1]})
    frame.write_csv(tmp_path / "h.csv")
    frame.write_parquet(tmp_path / "h.parquet")
    frame.write_ndjson(tmp_path / "h.jsonl")
    packed = tmp_path / "h.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "h.csv").read_bytes()))
    for name in ("h.csv", "h.parquet", "h.jsonl", "h.csv.gz"):
        found = items_of(read_histories(run, tmp_path / name))
        assert {str(user): items for user, items in found.items()} == {"7": [2, 1], "3": [3]}


def test_columns_have_the_names_of_the_data_or_the_usual_ones(opened, named, tmp_path):
    columns = Columns(user="reader", item="book", time="when")
    run = opened(SASRec, named, columns)
    expected = {"ann": [4, 3]}
    for header in ("reader,book,when", "user_id,item_id,timestamp", "user,item,position"):
        path = write(tmp_path / "h.csv", f"{header}\nann,b3,2\nann,b4,1\n")
        assert items_of(read_histories(run, path)) == expected
    rows = "reader,book,when\nann,3,2\nann,4,1\n"
    assert items_of(read_histories(run, write(tmp_path / "rows.csv", rows))) == expected
    mixed = f"{rows}ann,b9,3\n"  # ids, of which two are unknown
    assert items_of(read_histories(run, write(tmp_path / "mixed.csv", mixed))) == {"ann": [9]}


def test_ids_that_are_also_row_numbers_are_never_guessed(opened, corpus, tmp_path):
    ids = pl.Series([str(n + 1) for n in range(corpus.n_items)])
    run = opened(SASRec, replace(corpus, item_ids=ids))
    known = write(tmp_path / "known.csv", "user,item,timestamp\na,1,1\na,96,2\n")
    assert items_of(read_histories(run, known)) == {"a": [0, 95]}
    unclear = write(tmp_path / "unclear.csv", "user,item,timestamp\na,7,1\na,0,2\n")
    with pytest.raises(DataError) as error:
        read_histories(run, unclear)
    assert "original ids and also row numbers, for example 7" in error.value.problem
    assert error.value.hint == "use original ids, and rename the column to item_id"
    clear = write(tmp_path / "clear.csv", unclear.read_text().replace("item", "item_id"))
    assert items_of(read_histories(run, clear)) == {"a": [6]}


def test_unknown_items_are_named_skipped_and_counted(opened, named, tmp_path, caplog):
    unknown = "".join(f"ann,x{n},{n}\nann,x{n},{n}\n" for n in range(7))
    text = f"user,item,timestamp\nbob,zz,1\nann,b1,1\n{unknown}"
    given = read_histories(opened(SASRec, named), write(tmp_path / "h.csv", text))
    assert items_of(given) == {"ann": [1]}
    first, second = caplog.messages
    assert "h.csv: 15 of 16 rows have unknown items of checkerboard and are skipped" in first
    assert "zz, x0, x1, x2, x3, ..." in first
    assert (
        "1 of 2 users have no item that SASRec can use, and get no recommendations: bob" in second
    )


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("user,item,timestamp\nann,x1,1\n", "found", "x1"),
        ("user,item,timestamp\nann,,1\n", "line", 2),
        ("user,item,timestamp\n,b1,1\n", "line", 2),
        ("user,item,timestamp\nann,b1,\n", "column", "timestamp"),
        ("user,item,position\nann,b1,x\n", "column", "position"),
        ("user,item,timestamp\n", "problem", "the table has no rows"),
        ("user,timestamp\nann,1\n", "expected", "a column item_id"),
        ("item,timestamp\nb1,1\n", "expected", "a column user_id"),
        ("user,item\nann,b1\n", "expected", "a column timestamp or position"),
        ("user,item,Date\nann,b1,3\n", "hint", "if it is Date, rename it to timestamp"),
    ],
)
def test_a_table_that_is_wrong_is_refused(opened, named, tmp_path, text, field, value):
    with pytest.raises(DataError) as error:
        read_histories(opened(SASRec, named), write(tmp_path / "h.csv", text))
    assert error.value.file.endswith("h.csv")
    assert getattr(error.value, field) == value


def test_a_model_of_times_needs_what_the_data_have(opened, corpus, tmp_path):
    time = write(tmp_path / "time.csv", "user,item,timestamp\na,1,100\n")
    position = write(tmp_path / "position.csv", "user,item,position\na,1,0\n")
    both = write(tmp_path / "both.csv", "user,item,timestamp,position\na,1,100,1\na,2,50,0\n")
    for kind, settings in ((HM4SR, {}), (CAMMSR, {"time": True})):
        run = opened(kind, corpus, **settings)
        assert read_histories(run, both).read.time.tolist() == [50, 100]
        with pytest.raises(DataError) as error:
            read_histories(run, position)
        assert error.value.problem == f"{kind.__name__} requires the time of each item"
        assert error.value.expected == "a column timestamp"
        ordinal = replace(run.corpus, clock=False)
        run = opened(kind, ordinal, **settings)
        assert read_histories(run, both).read.time.tolist() == [0, 1]
        with pytest.raises(DataError) as error:
            read_histories(run, time)
        assert error.value.expected == "a column position"
    assert len(read_histories(opened(CAMMSR, corpus), position)) == 1


def test_cold_items_are_read_by_models_of_content_only(opened, corpus, tmp_path, caplog):
    cold = torch.zeros(corpus.n_items, dtype=torch.int8)
    cold[[1, 2]] = 2
    split = replace(corpus, cold=cold)
    path = write(tmp_path / "h.csv", "user,item,timestamp\na,1,1\na,3,2\nb,2,1\n")
    assert items_of(read_histories(opened(UniSRec, split), path)) == {"a": [1, 3], "b": [2]}
    given = read_histories(opened(SASRec, split), path)
    assert items_of(given) == {"a": [3]}
    assert given.seen.item.tolist() == [1, 3]
    assert "2 rows have cold-start items" in caplog.text
    assert (
        "1 of 2 users have no item that SASRec can use, and get no recommendations: b"
        in caplog.text
    )
    with pytest.raises(DataError) as error:
        read_histories(opened(SASRec, split), write(path, "user,item,timestamp\na,1,1\n"))
    assert error.value.problem.startswith("all items are cold-start items")
    with pytest.raises(SettingError) as error:
        opened(SASRec, split).recommend_sequences([[3], [1, 2]])
    assert error.value.problem.startswith("sequence 1 has only cold-start items")


def test_a_model_that_reads_no_histories_names_those_that_do(opened, corpus, recommend):
    run = opened(LightGCN, corpus)
    rows = {"user": ["a"], "item": [1], "timestamp": [1]}
    with pytest.raises(SettingError) as error:
        recommend(run, rows)
    assert error.value.setting == "history"
    assert error.value.problem.startswith("LightGCN does not use histories")
    listed = error.value.hint.partition("(")[2].rstrip(")").split(", ")
    assert {"cammsr", "gru4rec", "hm4sr", "sasrec", "sasrecf", "unisrec"} <= {*listed}
    assert all((conf_dir() / "model" / f"{name}.yaml").is_file() for name in listed)
    with pytest.raises(SettingError) as error:
        run.recommend_sequences([[1]])
    assert error.value.hint.startswith("use a run of a sequential model")


def test_a_list_depends_on_nothing_but_its_history(opened, corpus, recommend):
    """Items without content have equal scores, so that ties count too."""
    run = opened(UniSRec, corpus)
    several = [[11, 3, 40], [11, 3, 40, 12, 50, 61, 70, 22], [9], [5, 80, 5, 81]]
    rows = [
        (f"s{n}", item, time) for n, items in enumerate(several) for time, item in enumerate(items)
    ]
    table = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    together = recommend(run, table, k=96, seen="none")
    for n, items in enumerate(several):
        expected = together.filter(pl.col("user_id") == f"s{n}")
        alone = recommend(run, table.filter(pl.col("user") == f"s{n}"), k=96, seen="none")
        listed = run.recommend_sequences([items], 96, seen="none")
        assert alone["item"].to_list() == expected["item"].to_list() == listed["item"].to_list()
        torch.testing.assert_close(alone["score"].to_torch(), expected["score"].to_torch())
    cut = run.recommend_sequences([several[1], several[1][-5:]], 96, seen="none")
    lists = cut.partition_by("user")
    assert lists[0]["item"].to_list() == lists[1]["item"].to_list()


def test_settings_apply_to_given_histories(opened, named, recommend, tmp_path):
    run = opened(SASRec, named)
    rows = {"user": ["b", "a", "b"], "item": ["b1", "b2", "b3"], "timestamp": [2, 1, 1]}
    whole = recommend(run, rows, k=96)
    assert whole.columns == ["user", "item", "rank", "score", "user_id", "item_id"]
    assert whole["user_id"].unique(maintain_order=True).to_list() == ["b", "a"]
    assert whole["user"].to_list() == [0] * 94 + [1] * 95
    of_b = {*whole.filter(pl.col("user_id") == "b")["item"]}
    assert of_b == {*range(96)} - {1, 3}
    assert len(recommend(run, rows, k=96, seen="none")) == 2 * 96
    chosen = recommend(run, rows, k=3, users=["a"], only=["b4", "b5", "b6"], exclude=["b5"])
    assert {*chosen["item_id"]} == {"b4", "b6"}
    assert {*chosen["user_id"]} == {"a"}
    with pytest.raises(SettingError) as error:
        recommend(run, rows, users=["c"])
    assert (error.value.setting, error.value.value) == ("users", "c")
    with pytest.raises(SettingError) as error:
        recommend(run, rows, history=str(tmp_path / "gone.csv"))
    assert (error.value.setting, error.value.problem) == ("history", "no such file")


def test_without_output_the_lists_of_three_are_printed(opened, named, recommend, caplog, tmp_path):
    run = opened(SASRec, named)
    rows = {"user": [*"stuvw"], "item": [f"b{n}" for n in range(5)], "timestamp": [1] * 5}
    recommend(run, rows)
    with caplog.at_level(logging.INFO):
        table = tmp_path / "sessions.csv"
        command.recommend(run="run", history=str(table), k=2, accelerator="cpu")
    lines = [line.split() for line in caplog.text.splitlines()]
    assert [line[0] for line in lines if len(line) == 4 and line[1] in "12"] == [*"ssttuu"]
    assert "3 of 5 users" in caplog.text


def test_sequences_are_rows_or_original_ids(opened, named):
    run = opened(SASRec, named)
    rows = run.recommend_sequences([[1, 2, 3], [4]], 5)
    assert rows.columns == ["user", "item", "rank", "score", "item_id"]
    assert rows["user"].to_list() == [0] * 5 + [1] * 5
    assert rows.equals(run.recommend_sequences([["b1", "b2", 3], torch.tensor([4])], 5))
    assert not {1, 2, 3} & {*rows.filter(pl.col("user") == 0)["item"]}


@pytest.mark.parametrize(
    ("sequences", "settings", "setting", "said"),
    [
        (
            [[1, 96, -1], ["b7", "zzz"]],
            {},
            "sequences",
            "no such items in checkerboard: 96, -1, zzz",
        ),
        ([[1], []], {}, "sequences", "sequence 1 is empty"),
        ([], {}, "sequences", "at least one sequence"),
        ([[1]], {"k": 0}, "k", "1 or more"),
        ([[1]], {"block": 0}, "block", "1 or more"),
        ([[1]], {"seen": "some"}, "recommend.seen", "one of train"),
        ([[1, 2]], {"times": [[3]]}, "times", "one list for each sequence, with a time for each"),
        ([[1], [1, 2]], {"times": [[1], [3, 2]]}, "times", "sequence 1 is not sorted by time"),
    ],
)
def test_sequences_that_are_wrong_are_refused(opened, named, sequences, settings, setting, said):
    with pytest.raises(SettingError) as error:
        opened(SASRec, named).recommend_sequences(sequences, **{"k": 3, **settings})
    assert error.value.setting == setting
    assert (error.value.problem or error.value.expected).startswith(said)


def test_times_of_sequences_are_those_of_a_table(opened, corpus, recommend):
    run = opened(HM4SR, corpus)
    with pytest.raises(SettingError) as error:
        run.recommend_sequences([[1, 2]])
    assert error.value.setting == "times"
    assert error.value.problem == "HM4SR requires the time of each item"
    assert "seconds since 1970" in error.value.expected
    rows = {"user": ["a", "a"], "item": [1, 2], "timestamp": [2, 5]}
    by_table = recommend(run, rows, k=10)
    given = run.recommend_sequences([[1, 2]], 10, times=[[2, 5]])
    assert given.drop("item_id").equals(by_table.drop("user_id"))
    assert given["item_id"].equals(given["item"].alias("item_id"))
    later = run.recommend_sequences([[1, 2]], 10, times=[[2, 7]])
    assert not later["score"].equals(by_table["score"])
