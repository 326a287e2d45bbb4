"""A checkpoint gives the numbers that its run has noted, to the last bit."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from typing import get_type_hints

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mmrec.commands.evaluate import evaluate
from mmrec.commands.run import run
from mmrec.config.errors import SettingError
from mmrec.config.literals import Seen
from mmrec.evaluation.protocol import Candidates

TINY = ("trainer=cpu", "trainer.max_epochs=2", "trainer.enable_progress_bar=false")
WORLD = ("data.world.users=80", "data.world.items=70", "data.world.widths=4")
MODELS = {
    "magnet": ("model.dim=8", "router_schedule.earliest=1", "router_schedule.latest=1"),
    "lightgcn": ("model.dim=8",),
    "gated_lightgcn": ("model.dim=8", "trainer.precision=bf16-mixed"),
    "ease": (),
    "most_pop": (),
}


@pytest.fixture(scope="module")
def finished(composed, tmp_path_factory):
    """`finished(model)` is the folder of its run."""
    root, folders = tmp_path_factory.mktemp("runs"), {}

    def build(model):
        if model not in folders:
            folders[model] = root / model
            words = (f"model={model}", *MODELS[model], *WORLD, *TINY, f"run_dir={root / model}")
            run(composed(*words), [])
        return folders[model]

    return build


def noted(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_numbers_are_exactly_those_of_the_run(finished, model, split, caplog):
    caplog.set_level(logging.INFO)
    report = evaluate(run=finished(model), split=split, accelerator="cpu")
    expected = {k: v for k, v in noted(finished(model))["metrics"].items() if k.startswith(split)}
    assert len(expected) >= 24
    assert report["metrics"] == expected
    assert report["differences"] == {}
    assert f"all {len(expected)} metrics are equal to result.json" in caplog.text


def test_values_by_user_are_those_of_the_run(finished, tmp_path):
    folder, path = finished("lightgcn"), tmp_path / "users.parquet"
    evaluate(run=folder, per_user=str(path), accelerator="cpu")
    assert_frame_equal(pl.read_parquet(path), pl.read_parquet(folder / "per_user.parquet"))


def test_the_size_of_a_batch_changes_no_number(finished):
    one = evaluate(run=finished("most_pop"), eval_batch_size=1, accelerator="cpu")
    assert one["differences"] == {}


def test_cold_warm_and_all_items_are_those_of_the_run(composed, tmp_path):
    words = (
        "model=most_pop",
        *WORLD,
        *TINY,
        "data.split=item_cold",
        "evaluation.cutoffs=[5,10]",
        "monitor=val/recall@10",
    )
    result = run(composed(*words, f"run_dir={tmp_path / 'run'}"), [])
    parts = {"val", "test", "test_cold", "test_warm", "test_all"}
    assert {name.partition("/")[0] for name in result["metrics"]} == parts
    assert result["data_card"]["candidates"] == "cold"
    report = evaluate(run=tmp_path / "run", accelerator="cpu")
    assert report["differences"] == {}
    assert {name.partition("/")[0] for name in report["metrics"]} == parts - {"val"}
    named = evaluate(run=tmp_path / "run", candidates="cold", accelerator="cpu")
    assert named == report  # it says what holds anyway
    other = evaluate(run=tmp_path / "run", candidates="all", accelerator="cpu")
    assert other["data_card"]["candidates"] == "all"
    assert other["differences"] is None
    assert other["metrics"]["test/recall@5"] < report["metrics"]["test/recall@5"]


def test_other_cutoffs_agree_where_they_meet_those_of_the_run(finished):
    report = evaluate(run=finished("lightgcn"), cutoffs=[1, 10, 70], accelerator="cpu")
    expected = noted(finished("lightgcn"))["metrics"]
    assert report["metrics"]["test/recall@10"] == expected["test/recall@10"]
    assert report["metrics"]["test/recall@70"] == 1.0  # the whole catalogue
    assert report["differences"] == {}  # those of 10, which both have
    assert report["cutoffs"] == [1, 10, 70]


def test_fewer_candidates_leave_more_to_find(finished):
    found = [
        evaluate(run=finished("most_pop"), seen=seen, accelerator="cpu")["metrics"][
            "test/recall@20"
        ]
        for seen in ("none", "train", "train+val")
    ]
    assert found[0] < found[1] < found[2]
    assert found[1] == noted(finished("most_pop"))["metrics"]["test/recall@20"]


def test_the_file_says_what_was_evaluated(finished, tmp_path):
    folder, path = finished("lightgcn"), tmp_path / "numbers.json"
    report = evaluate(run=folder, seen="train+val", output=str(path), accelerator="cpu")
    written = json.loads(path.read_text())
    assert written == json.loads(json.dumps(report))
    assert written["data_card"] == noted(folder)["data_card"] | {"seen": "train+val"}
    weights = (folder / "checkpoints" / "best.ckpt").read_bytes()
    assert written["checkpoint_sha256"] == hashlib.sha256(weights).hexdigest()
    assert (written["split"], written["cutoffs"]) == ("test", [5, 10, 20, 50])
    assert [file.name for file in tmp_path.iterdir()] == ["numbers.json"]


def test_a_number_that_differs_is_shown(finished, tmp_path, caplog):
    folder = shutil.copytree(finished("most_pop"), tmp_path / "copy")
    result = noted(folder)
    truth = result["metrics"]["test/map@50"]
    result["metrics"]["test/map@50"] = truth + 1e-15
    (folder / "result.json").write_text(json.dumps(result))
    report = evaluate(run=folder, accelerator="cpu")
    assert report["differences"] == {"test/map@50": (truth + 1e-15, truth)}
    assert "1 of 92 metrics differ from result.json" in caplog.text


def test_the_last_checkpoint_is_not_compared_with_the_best_ones_numbers(finished):
    path = finished("lightgcn") / "checkpoints" / "last.ckpt"
    report = evaluate(run=path, split="val", accelerator="cpu")
    assert (report["checkpoint"], report["differences"]) == ("last.ckpt", None)


@pytest.mark.parametrize(
    ("settings", "setting", "value"),
    [
        ({"cutoffs": [10, 5]}, "cutoffs", [10, 5]),
        ({"cutoffs": [71]}, "evaluation.cutoffs", [71]),
        ({"seen": "val"}, "seen", "val"),
        ({"eval_batch_size": 0}, "eval_batch_size", 0),
        ({"output": "numbers.txt"}, "output", "numbers.txt"),
        ({"output": "no/such.json"}, "output", "no/such.json"),
        ({"per_user": "u.csv"}, "per_user", "u.csv"),
        ({"per_user": "u.parquet", "split": "val"}, "per_user", "u.parquet"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    finished, tmp_path, monkeypatch, settings, setting, value
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError) as error:
        evaluate(run=finished("most_pop"), accelerator="cpu", **settings)
    assert (error.value.setting, error.value.value) == (setting, value)
    assert not any(tmp_path.iterdir())


def command(*words, cwd):
    line = [sys.executable, "-m", "mmrec.evaluate", *map(str, words)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True)


def test_the_command_shows_numbers_side_by_side_and_writes_nothing_else(finished, tmp_path):
    done = command(f"run={finished('lightgcn')}", "accelerator=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    value = f"{noted(finished('lightgcn'))['metrics']['test/ndcg@20']:.6f}"
    assert f"test/ndcg@20                  {value}     {value}" in done.stdout
    assert "all 92 metrics are equal to result.json" in done.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "error: run: a value is required; add run=..."),
        (["run=x", "cutofs=[5]"], "error: cutofs: no such setting; did you mean cutoffs?"),
        (["run=x", "split=tset"], "error: split=tset: Input should be 'val' or 'test'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, said):
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_the_choices_are_those_of_the_protocol():
    hints = get_type_hints(evaluate)
    assert hints["seen"] == Seen | None
    assert hints["candidates"] == Candidates | None
