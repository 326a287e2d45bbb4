from __future__ import annotations

import pytest

from mmrec.report.collect import by_protocol, collect
from mmrec.report.comparison import Options, comparison
from mmrec.report.costs import was_cut

OPTIONS = Options(metric="recall@20", metrics=["recall@20"], baseline=None, by=[], resamples=20)


@pytest.fixture
def compared(tmp_path):
    """`compared()`: the tables of all runs that were written, by the end of their names."""

    def compare():
        ((protocol, runs),) = by_protocol(collect(str(tmp_path / "outputs/*")).runs).items()
        (section, *_) = comparison(protocol, runs, OPTIONS, {})
        return {table.name.rpartition("-")[2]: table for table in section.tables}

    return compare


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"patience": 5, "max_epochs": 3}, True),
        ({"patience": 5, "max_epochs": 4}, False),  # interrupted, not cut by the setting
        ({"patience": 0, "max_epochs": 3}, False),  # early stopping in the last epoch
        ({}, False),  # without early stopping, the number of epochs is a choice
        ({"patience": 5, "max_epochs": 0, "epochs": 0}, False),  # closed form
    ],
)
def test_a_run_is_cut_if_early_stopping_had_not_come(settings, expected, write_run, tmp_path):
    write_run("one", **settings)
    (run,) = collect(str(tmp_path / "outputs/*")).runs
    assert was_cut(run) is expected


def test_runs_that_were_cut_are_named_below_the_results(write_run, compared):
    write_run("a", model="bpr", patience=5, max_epochs=3)
    write_run("b", model="vbpr", patience=5, max_epochs=9)
    (note,) = [n for n in compared()["results"].notes if "max_epochs" in n]
    assert "bpr" in note.split(":")[1]
    assert "vbpr" not in note


def test_seconds_of_upstream_runs_have_a_column_where_there_are_any(write_run, compared):
    write_run("a", model="bpr")
    assert "upstream, s" not in compared()["costs"].head
    write_run("b", model="egra", upstream=12.5)
    table = compared()["costs"]
    place = table.head.index("upstream, s")
    found = {str(row[0]): row[place] for row in table.rows}
    assert found["egra"].mean == 12.5
    assert found["bpr"] == "–"
