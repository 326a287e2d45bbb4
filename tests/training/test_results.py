"""The result of a run as a file: whole or not at all, and checked both ways."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from mmrec.training import provenance
from mmrec.training.provenance import config_hash, git_commit, peak_rss_mib, versions
from mmrec.training.results import (
    ResultError,
    locate_run,
    metrics_table,
    read_result,
    to_continue,
    write_result,
)


@pytest.fixture
def result():
    """A result as a run writes it."""
    return {
        "status": "completed",
        "model": "bpr",
        "data": "planted",
        "seed": 0,
        "overrides": ["model=bpr"],
        "config_hash": "0123456789abcdef",
        "git_commit": None,
        "versions": {"torch": "2"},
        "data_card": {
            "name": "planted",
            "fingerprint": "f" * 64,
            "users": 2,
            "items": 3,
            "train": 4,
            "val": 1,
            "test": 1,
            "modalities": {"visual": 8},
            "split": "official",
            "seen": "train",
        },
        "metrics": {"val/recall@20": 0.1 + 0.2, "test/tail/ndcg@10": 0.0},
        "monitor": "val/recall@20",
        "best_epoch": 3,
        "epochs": 5,
        "best_value": 0.1 + 0.2,
        "seconds": {"setup": 1.0, "fit": 2.0, "train_epoch": 0.25, "val": None, "test": 0.5},
        "peak_rss_mib": 500.0,
        "peak_gpu_mib": None,
        "parameters": 40,
    }


def test_what_is_written_is_read(result, tmp_path):
    write_result(tmp_path, result)
    assert read_result(tmp_path) == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_result_cut_short_anywhere_is_refused(result, tmp_path):
    write_result(tmp_path, result)
    path = tmp_path / "result.json"
    text = path.read_text()
    for length in range(0, len(text) - 2, 7):
        path.write_text(text[:length])
        with pytest.raises(
            ResultError, match=r"result\.json is truncated or not JSON.*run it again"
        ):
            read_result(tmp_path)


def test_a_run_that_has_not_ended_is_told_from_no_run(tmp_path):
    with pytest.raises(ResultError, match=r"is not a run folder: it has no config\.yaml"):
        locate_run(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert locate_run(str(tmp_path)) == (tmp_path, tmp_path / "checkpoints/best.ckpt")
    with pytest.raises(ResultError, match=r"has not finished its first epoch, or was killed in it"):
        read_result(tmp_path)
    last = tmp_path / "checkpoints/last.ckpt"
    last.parent.mkdir()
    last.touch()
    assert locate_run(last) == (tmp_path, last)
    with pytest.raises(
        ResultError, match=r"has not finished; wait for it, or resume it with .*ckpt=last"
    ):
        read_result(tmp_path)
    words = ["model=bpr", "seed=1", "run_dir=elsewhere", "logger.name=${seed}"]
    (tmp_path / "overrides.yaml").write_text("\n".join(f"- {word}" for word in words))
    command = "python -m mmrec.run model=bpr seed=1 'logger.name=${seed}'"
    with pytest.raises(ResultError, match=re.escape(f"{command} run_dir={tmp_path} ckpt=last")):
        read_result(tmp_path)


def test_a_folder_without_a_result_is_no_run(tmp_path):
    with pytest.raises(ResultError, match=r"has no result\.json; expected a run folder"):
        read_result(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("status", "done", "status: 'done'"),
        ("metrics", {"train/loss": 0.5}, "metrics: 'train/loss'"),
        ("metrics", {"val/recall@20": "high"}, "metrics.val/recall@20: 'high'"),
        ("monitor", "test/recall@20", "monitor: 'test/recall@20'"),
        ("epochs", -1, "epochs: -1"),
        ("accuracy", 1.0, "top level: .*'accuracy' was unexpected"),
    ],
)
def test_a_result_that_is_none_is_neither_written_nor_read(key, value, place, result, tmp_path):
    wrong = result | {key: value}
    with pytest.raises(ResultError, match=place):
        write_result(tmp_path, wrong)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "result.json").write_text(json.dumps(wrong))
    with pytest.raises(ResultError, match=place):
        read_result(tmp_path)


def test_every_key_is_required(result, tmp_path):
    for key in result:
        with pytest.raises(ResultError, match=f"'{key}' is a required property"):
            write_result(tmp_path, {k: v for k, v in result.items() if k != key})


def test_a_number_that_json_does_not_have_leaves_the_former_result(result, tmp_path):
    write_result(tmp_path, result)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(tmp_path, result | {"metrics": {"val/recall@20": float("nan")}})
    assert read_result(tmp_path) == result
    assert len(list(tmp_path.iterdir())) == 1


def test_the_hash_is_of_what_is_computed_and_not_of_where():
    config = {"seed": 0, "model": {"dim": 8, "l2": 0.1}, "run_dir": "a", "ckpt": None, "logger": {}}
    same = {"model": {"l2": 0.1, "dim": 8}, "seed": 0, "run_dir": "b", "ckpt": "last", "logger": 1}
    assert config_hash(config) == config_hash(same)
    assert re.fullmatch("[0-9a-f]{16}", config_hash(config))
    assert config_hash(config) != config_hash(config | {"seed": 1})
    assert config_hash(config) != config_hash(config | {"model": {"dim": 8, "l2": 0.1 + 1e-16}})


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with our package in it; `checkout(*words)` calls git there."""
    (tmp_path / "mmrec").mkdir()
    (tmp_path / "mmrec" / "code.py").write_text("a = 1\n")
    monkeypatch.setattr(provenance, "files", lambda _: tmp_path / "mmrec")

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    return git


def test_the_commit_is_that_of_the_checkout_and_says_if_files_differ(checkout, tmp_path):
    commit = checkout("rev-parse", "HEAD")
    assert git_commit() == commit
    checkout("tag", "-a", "v1", "-m", "a tag is no commit")
    assert git_commit() == commit
    (tmp_path / "table.md").write_text("what a study has written\n")
    assert git_commit() == commit
    (tmp_path / "mmrec" / "new.py").write_text("b = 1\n")
    assert git_commit() == f"{commit}-dirty"
    (tmp_path / "mmrec" / "new.py").unlink()
    (tmp_path / "mmrec" / "code.py").write_text("a = 2\n")
    assert git_commit() == f"{commit}-dirty"


def test_an_installed_package_has_no_commit_even_inside_a_repository(
    checkout, tmp_path, monkeypatch
):
    assert checkout("rev-parse", "HEAD")
    installed = tmp_path / "venv" / "mmrec"
    installed.mkdir(parents=True)
    monkeypatch.setattr(provenance, "files", lambda _: installed)
    assert git_commit() is None


def test_a_machine_without_git_has_no_commit(checkout, monkeypatch):
    assert checkout("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_versions_and_memory_are_of_this_process():
    import torch

    assert versions()["torch"] == torch.__version__
    before = peak_rss_mib()
    ballast = torch.ones(64, 1024, 1024, dtype=torch.uint8)
    assert peak_rss_mib() >= before
    assert 50 < peak_rss_mib() < 1024**2
    assert ballast.all()


def test_the_table_shows_splits_metrics_and_cutoffs_in_order():
    metrics = {"test/recall@10": 0.5, "val/recall@10": 0.25, "val/recall@5": 0.125}
    metrics |= {"test/recall@5": 0.0625, "val/map@5": 1.0, "val/map@10": 1.0}
    assert metrics_table(metrics).splitlines() == [
        "                         @5      @10",
        "val/recall           0.1250   0.2500",
        "test/recall          0.0625   0.5000",
    ]


def test_the_table_shows_cold_warm_and_all_items():
    metrics = {"test/ndcg@5": 0.5, "test_cold/ndcg@5": 0.5, "test_warm/ndcg@5": 0.2}
    assert metrics_table(metrics | {"test_all/ndcg@5": 0.1}).splitlines()[1:] == [
        "test/ndcg            0.5000",
        "test_warm/ndcg       0.2000",
        "test_all/ndcg        0.1000",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested more than 40 levels"),
        ('{"a":' * 50 + "1" + "}" * 50, "nested more than 40 levels"),
        ('{"peak_rss_mib": NaN}', "NaN is not a finite number"),
        ('{"peak_rss_mib": -Infinity}', "-Infinity is not a finite number"),
        ('{"peak_rss_mib": 1e999}', "1e999 is not a finite number"),
        ('{"parameters": ' + "9" * 5000 + "}", "is too large"),
        (" " * (2**24 + 1), "larger than 16 MiB"),
        ("\xff", "truncated or not JSON|is not"),
        ('"' + "x" * 5000 + "\x1b[31m", "truncated or not JSON"),
        ('"' + "x" * 5000 + '"', "top level"),
    ],
)
def test_a_hostile_result_is_one_short_line(text, said, tmp_path):
    (tmp_path / "result.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ResultError, match=said) as refused:
        read_result(tmp_path)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 800


def test_a_command_to_continue_holds_no_escapes(tmp_path):
    (tmp_path / "overrides.yaml").write_text('- "model=\\e[31mbpr"\n')
    assert "\x1b" not in to_continue(tmp_path)
    for text in ("a: 1", "- &a x\n- *a", "[" * 9999, "7"):
        (tmp_path / "overrides.yaml").write_text(text)
        assert to_continue(tmp_path).endswith("and ckpt=last")
