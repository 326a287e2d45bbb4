"""The table at the end of a multirun."""

from __future__ import annotations

import json

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from mmrec.config.schema import conf_dir
from mmrec.search import jobs as module
from mmrec.search.jobs import Job, MultirunTable, aligned, job_table


@pytest.fixture
def ran(tmp_path):
    """`ran(place, *words, ...)`: a job whose folder holds a result."""

    def make(place, *words, value=0.25, test=0.125, monitor="val/recall@20", status="completed"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        metrics = {monitor: value, monitor.replace("val", "test"): test}
        result = {
            "status": status,
            "model": "bpr",
            "data": "planted",
            "seed": 0,
            "overrides": list(words),
            "config_hash": "0123456789abcdef",
            "git_commit": None,
            "versions": {},
            "data_card": {
                **dict.fromkeys(("users", "items", "train", "val", "test"), 1),
                "name": "planted",
                "fingerprint": "f" * 64,
                "modalities": {},
                "split": "official",
                "seen": "train",
            },
            "metrics": {name: number for name, number in metrics.items() if number is not None},
            "monitor": monitor,
            "best_epoch": None,
            "epochs": 0,
            "best_value": value,
            "seconds": {"setup": 1.0, "fit": 2.5, "train_epoch": 9.0, "val": None, "test": None},
            "peak_rss_mib": 1.0,
            "peak_gpu_mib": None,
            "parameters": 0,
        }
        (folder / "result.json").write_text(json.dumps(result))
        return Job(words, folder, "no result")

    return make


def cells(table):
    return [line.split() for line in table.splitlines()[1:]]


def test_a_row_has_what_differs_and_what_came_of_it(ran, tmp_path):
    jobs = [
        ran("0", "model=bpr", "data=planted", "seed=0"),
        ran("1", "model=bpr", "data=planted", "seed=1", value=0.5, test=None, status="interrupted"),
        Job(("model=bpr", "data=planted", "seed=2"), None, "failed"),
    ]
    assert cells(job_table(jobs, tmp_path)) == [
        ["job", "status", "val/recall@20", "test/recall@20", "seconds", "folder"],
        ["seed=0", "completed", "0.2500", "0.1250", "3.5", "0"],
        ["seed=1", "interrupted", "0.5000", "-", "3.5", "1"],
        ["seed=2", "failed", "-", "-", "-", "-"],
    ]


def test_metrics_are_named_in_each_row_if_jobs_monitor_different_ones(ran, tmp_path):
    jobs = [ran("0", "seed=0"), ran("1", "seed=1", monitor="val/ndcg@10")]
    head, one, two = cells(job_table(jobs, tmp_path))
    assert head[2:4] == ["validation", "test"]
    assert one[2:6] == ["val/recall@20", "0.2500", "test/recall@20", "0.1250"]
    assert two[2:6] == ["val/ndcg@10", "0.2500", "test/ndcg@10", "0.1250"]


def test_a_single_job_shows_all_its_words(ran, tmp_path):
    assert cells(job_table([ran("0", "model=bpr", "seed=0")], tmp_path))[1][:2] == [
        "model=bpr",
        "seed=0",
    ]


def test_columns_are_aligned():
    text = aligned(["a", "n"], [["long name", "1"], ["b", "200"]], right=[1])
    assert text.splitlines() == ["a            n", "long name    1", "b          200"]


@pytest.fixture
def begun(tmp_path):
    """`begun(*words)`: a multirun with these words has begun."""

    def begin(*words):
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("config", overrides=list(words[:1]), return_hydra_config=True)
        with open_dict(config):
            config.hydra.sweep.dir = str(tmp_path)
            config.hydra.overrides.task = list(words)
        MultirunTable().on_multirun_start(config)

    yield begin
    module.AT_END.pop_all()


def test_jobs_are_found_by_their_overrides_wherever_their_folders_are(ran, begun, caplog):
    ran("earlier", "trainer=cpu", "seed=1")  # of a multirun before this one
    begun("trainer=cpu", "seed=0,1,2")
    ran("b", "trainer=cpu", "seed=2")
    ran("a/deeper", "trainer=cpu", "seed=0")
    with caplog.at_level("INFO", "mmrec"):
        module.AT_END.close()
    _, *rows = cells(caplog.messages[-1])
    assert [(row[0], row[-1]) for row in rows] == [
        ("seed=0", "a/deeper"),
        ("seed=1", "-"),
        ("seed=2", "b"),
    ]
    module.AT_END.close()
    assert len(caplog.messages) == 1  # once


def test_no_table_where_no_job_has_a_result(begun, caplog):
    begun("trainer=cpu", "seed=0,1")
    with caplog.at_level("INFO", "mmrec"):
        module.AT_END.close()
    assert not caplog.messages


@pytest.mark.parametrize("word", ["grid=runs", "sweep=bpr"])
def test_a_grid_or_a_search_has_its_own_table(ran, begun, caplog, word):
    begun(word, "seed=0,1")
    ran("0", word, "seed=0")
    with caplog.at_level("INFO", "mmrec"):
        module.AT_END.close()
    assert not caplog.messages
