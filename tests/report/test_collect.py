"""Runs are found, grouped over their seeds, chosen by validation, and never mixed."""

from __future__ import annotations

import json
import os

import polars as pl
import pytest
import yaml

from mmrec.config.errors import SettingError
from mmrec.report.collect import by_protocol, chosen, collect, methods
from mmrec.training.provenance import config_hash


def test_seeds_of_one_setting_are_one_method(write_run, tmp_path):
    for seed in (2, 0, 1):
        write_run(f"bpr/{seed}", seed=seed)
    write_run("bpr/other", l2=0.2)
    write_run("lightgcn", model="lightgcn")
    found = methods(collect(str(tmp_path / "outputs")).runs)
    sizes = {(m.model, m.settings["model.l2"]): [r.result["seed"] for r in m.runs] for m in found}
    assert sizes == {("bpr", 0.1): [0, 1, 2], ("bpr", 0.2): [0], ("lightgcn", 0.1): [0]}


@pytest.mark.parametrize("pattern", ["outputs", "outputs/**", "outputs/*", "outputs/a/result.json"])
def test_folders_and_patterns_name_runs(pattern, write_run, tmp_path, monkeypatch):
    folder = write_run("a")
    monkeypatch.chdir(tmp_path)
    assert [run.folder.resolve() for run in collect(pattern).runs] == [folder]
    assert len(collect([pattern, "outputs"]).runs) == 1


def test_runs_on_part_of_the_data_are_left_out_with_the_setting(write_run, tmp_path):
    write_run("whole")
    folder = write_run("short", l2=0.2)
    result = json.loads((folder / "result.json").read_text())
    result["partial"] = ["trainer.limit_train_batches=3"]
    (folder / "result.json").write_text(json.dumps(result))
    found = collect(str(tmp_path / "outputs"))
    assert [run.folder.name for run in found.runs] == ["whole"]
    assert found.left_out == {folder: "partial: trainer.limit_train_batches=3"}


def test_the_settings_with_most_seeds_and_then_validation_are_chosen(write_run, tmp_path):
    for seed in (0, 1):
        write_run(f"low{seed}", seed=seed, gain=0.1)
        write_run(f"high{seed}", seed=seed, gain=0.2, l2=0.2)
    write_run("once", gain=0.4, l2=0.3)
    (best,) = chosen(methods(collect(str(tmp_path)).runs), "recall@20")
    assert best.settings["model.l2"] == 0.2
    assert best.tried == 3


def test_a_better_test_value_chooses_nothing(write_run, tmp_path):
    write_run("a", gain=0.1)
    other = write_run("b", l2=0.2)
    text = (other / "result.json").read_text()
    assert '"test/recall@20"' in text
    value = text.partition('"test/recall@20": ')[2].partition(",")[0]
    (other / "result.json").write_text(text.replace(f'20": {value}', '20": 1.0', 1))
    (best,) = chosen(methods(collect(str(tmp_path)).runs), "recall@20")
    assert best.settings["model.l2"] == 0.1


def test_ablations_are_methods_of_their_own(write_run, tmp_path):
    write_run("base")
    write_run("sum", ablation="sum")
    found = chosen(methods(collect(str(tmp_path)).runs), "recall@20")
    assert {m.name for m in found} == {"bpr", "bpr, sum"}


@pytest.mark.parametrize(
    "what",
    [
        {"split": "temporal"},
        {"seen": "none"},
        {"history": "train+val"},
        {"fingerprint": "b" * 64},
    ],
)
def test_other_data_splits_masks_or_histories_are_another_protocol(what, write_run, tmp_path):
    write_run("a")
    write_run("b", seed=1, **what)
    found = by_protocol(collect(str(tmp_path)).runs)
    assert [len(runs) for runs in found.values()] == [1, 1]


def test_what_is_no_completed_run_is_listed_with_its_reason(write_run, tmp_path, monkeypatch):
    write_run("whole")
    write_run("failed", status="failed", l2=0.2)
    write_run("pruned", status="pruned", l2=0.3)
    (write_run("running", l2=0.4) / "result.json").unlink()
    cut = write_run("cut", l2=0.5) / "result.json"
    cut.write_text(cut.read_text()[:99])
    (write_run("no_config", l2=0.6) / "config.yaml").unlink()
    (write_run("no_users", l2=0.8) / "per_user.parquet").unlink()
    (write_run("bad_users", l2=0.9) / "per_user.parquet").write_bytes(b"")
    foreign = write_run("panics", l2=1.0) / "per_user.parquet"
    scan = pl.scan_parquet

    def panic(path, **settings):
        if path == foreign:
            raise pl.exceptions.PanicException("index out of bounds")
        return scan(path, **settings)

    monkeypatch.setattr(pl, "scan_parquet", panic)
    (write_run("bad_config", l2=0.7) / "config.yaml").write_text("a: [")
    found = collect(str(tmp_path))
    assert [run.folder.name for run in found.runs] == ["whole"]
    reasons = {folder.name: reason for folder, reason in found.left_out.items()}
    assert reasons["failed"] == "failed: the loss is not finite"
    assert reasons["pruned"] == "pruned"
    assert reasons["running"] == "no result: the run is still running or was killed"
    assert "truncated" in reasons["cut"]
    assert reasons["no_config"] == "config.yaml is missing"
    assert reasons["no_users"] == "per_user.parquet is missing"
    assert reasons["bad_users"].startswith("per_user.parquet cannot be read")
    assert reasons["panics"].startswith("per_user.parquet cannot be read (index out of bounds")
    assert "config.yaml cannot be read" in reasons["bad_config"]


def test_of_the_same_run_twice_the_newer_counts(write_run, tmp_path):
    old, new = write_run("old"), write_run("new")
    os.utime(old / "result.json", (1, 1))
    found = collect(str(tmp_path))
    assert [run.folder for run in found.runs] == [new]
    assert found.left_out == {old: f"same settings, seed and data as the newer {new}"}


def test_a_seed_counts_once_though_it_also_ran_on_another_device(write_run, tmp_path):
    old, new = write_run("old"), write_run("new")
    config = yaml.safe_load((old / "config.yaml").read_text())
    config["trainer"] = {"accelerator": "gpu", "enable_progress_bar": False}
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    result = json.loads((old / "result.json").read_text())
    result["config_hash"] = config_hash(config)
    (old / "result.json").write_text(json.dumps(result))
    os.utime(old / "result.json", (1, 1))
    found = collect(str(tmp_path))
    assert [run.folder for run in found.runs] == [new]
    assert found.left_out == {old: f"same settings, seed and data as the newer {new}"}


def test_nothing_to_tell_of_is_an_error(write_run, tmp_path):
    def refused(folder):
        with pytest.raises(SettingError) as error:
            collect(str(folder))
        assert (error.value.setting, error.value.value) == ("runs", str(folder))
        return error.value

    assert refused(tmp_path / "nowhere").problem == "no such folder"
    assert refused(tmp_path).problem == "no completed run was found"
    assert refused(tmp_path).hint.startswith("give the folders of runs")
    write_run("failed", status="failed")
    assert "failed: the loss" in refused(tmp_path).problem
