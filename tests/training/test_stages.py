"""A teacher is trained once, on train interactions, and its embeddings travel with the run."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import polars as pl
import pytest
import torch
from filelock import FileLock

from mmrec.commands.evaluate import evaluate
from mmrec.commands.recommend import recommend
from mmrec.config.errors import SettingError
from mmrec.data import DataError
from mmrec.models import Recommender
from mmrec.report.collect import collect
from mmrec.training import stages
from mmrec.training.build import check_config
from mmrec.training.open_run import open_run
from mmrec.training.provenance import config_hash
from mmrec.training.results import read_config, read_result

TINY = (
    "model=dropoutnet",
    "model.dim=8",
    "model.hidden=16",
    "model.rounds=3",
    "data.world.users=60",
    "data.world.items=60",
    "data.batch_size=64",
    "evaluation.cutoffs=[5,20]",
    "trainer=cpu",
    "trainer.max_epochs=3",
    "trainer.enable_progress_bar=false",
)
TRAINED = ("upstream=lightgcn", "upstream.model.dim=8", "upstream.optimizer.lr=0.02")


class Killed(BaseException):
    """Not an exception that a run handles."""


@pytest.fixture(scope="module")
def go(run_words):
    return lambda folder, *words: run_words(folder, *TINY, *words)


def numbers(folder):
    """What a run computed, without its clock."""
    result = read_result(folder)
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    table = folder / "metrics.csv"
    rows = pl.read_csv(table).drop(pl.selectors.starts_with("time/")).to_dicts()
    return {
        "metrics": result["metrics"],
        "epochs": rows,
        "weights": {name: value.tolist() for name, value in best.items()},
    }


def teachers(folder):
    return sorted(path for path in folder.glob("upstream/*") if path.name != ".locks")


@pytest.fixture(scope="module")
def whole(go, tmp_path_factory):
    """The folder of a DropoutNet with a solved teacher."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    go(folder)
    return folder


@pytest.fixture(scope="module")
def taught(go, tmp_path_factory):
    """The folder of a DropoutNet with a trained teacher."""
    folder = tmp_path_factory.mktemp("taught") / "run"
    go(folder, *TRAINED)
    return folder


@pytest.fixture
def copied(tmp_path):
    """A copy of a run and of its teacher."""

    def copy(folder):
        shutil.copytree(folder.parent, tmp_path / "copy")
        return tmp_path / "copy" / folder.name

    return copy


def test_a_solved_teacher_changes_no_number(whole, go, tmp_path):
    go(tmp_path / "run", "upstream=none")
    assert not teachers(tmp_path)
    assert "upstream" not in read_result(tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(whole)


def test_the_result_says_which_run_was_the_teacher_and_what_it_cost(whole):
    (teacher,) = teachers(whole.parent)
    result, other = read_result(whole), read_result(teacher)
    assert (other["status"], other["model"]) == ("completed", "wmf")
    record = result["upstream"]
    assert record["folder"] == str(teacher)
    assert record["config_hash"] == other["config_hash"]
    assert record["code"] == other["code"] != result["code"]
    assert record["seconds"] > 0
    assert json.loads((whole / "upstream.json").read_text()) == record


def test_a_teacher_sees_what_its_student_sees(taught):
    (teacher,) = teachers(taught.parent)
    assert read_result(teacher)["data_card"] == read_result(taught)["data_card"]
    cards = [open_run(folder).corpus.train for folder in (teacher, taught)]
    assert torch.equal(cards[0].item, cards[1].item)


def test_the_embeddings_are_those_of_the_teachers_best_epoch(taught):
    (teacher,) = teachers(taught.parent)
    with torch.no_grad():
        users, items = open_run(teacher).model.encode()
    model = open_run(taught).model
    assert torch.equal(model.user_factors, users)
    assert torch.equal(model.item_factors, items)


def test_runs_share_a_teacher_unless_its_settings_differ(whole, copied, go, caplog):
    run = copied(whole)
    with caplog.at_level("INFO"):
        go(run.with_name("another"), "seed=1", "model.dropout=0.3", "optimizer.lr=0.01")
    assert "upstream: reusing" in caplog.text
    assert len(teachers(run.parent)) == 1
    go(run.with_name("third"), "model.alpha=5")
    assert len(teachers(run.parent)) == 2
    found = [read_result(run.with_name(n))["upstream"]["folder"] for n in ("another", "third")]
    assert found[0] != found[1]


def test_a_multirun_keeps_its_teachers_in_one_folder(shell, tmp_path):
    shell("-m", *TINY, "seed=0,1", "hydra.sweep.dir=runs", cwd=tmp_path)
    assert len(teachers(tmp_path / "runs")) == 1
    assert len(collect(str(tmp_path / "runs")).runs) == 2
    assert len(collect(str(tmp_path / "runs" / "upstream")).runs) == 1


def test_a_run_opens_without_its_teacher(taught, copied):
    run = copied(taught)
    shutil.rmtree(run.parent / "upstream")
    assert evaluate(run=str(run))["differences"] == {}
    recommend(run=str(run), output=str(run / "top.parquet"), k=3)
    assert pl.read_parquet(run / "top.parquet").height == 3 * 60
    assert open_run(run).model.user_factors.any()


def test_a_run_folder_from_before_there_were_stages_opens(whole, copied):
    run = copied(whole)
    config = (run / "config.yaml").read_text()
    kept, _, rest = config.partition("upstream:\n")
    rest = rest.splitlines()
    while rest and rest[0].startswith(" "):
        rest = rest[1:]
    (run / "config.yaml").write_text(kept + "\n".join(rest) + "\n")
    assert "upstream" not in read_config(run)
    shutil.rmtree(run.parent / "upstream")
    assert torch.equal(open_run(run).model.item_factors, open_run(whole).model.item_factors)


def dying(monkeypatch, nth):
    """Let the n-th training step be the end."""
    calls, step = [], Recommender.training_step

    def die(self, *args):
        calls.append(1)
        if len(calls) == nth:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(Recommender, "training_step", die)


def test_a_killed_run_resumes_without_its_teacher(taught, go, tmp_path, monkeypatch):
    steps = 3 * 8
    with monkeypatch.context() as patch:
        dying(patch, steps + 12)
        with pytest.raises(Killed):
            go(tmp_path / "run", *TRAINED)
    record = read_result(tmp_path / "run")["upstream"]
    shutil.rmtree(tmp_path / "upstream")
    go(tmp_path / "run", *TRAINED, "ckpt=last")
    assert not teachers(tmp_path)
    assert numbers(tmp_path / "run") == numbers(taught)
    assert read_result(tmp_path / "run")["upstream"] == record


@pytest.mark.parametrize("leaves_result", [False, True])
def test_a_killed_teacher_is_resumed(leaves_result, taught, go, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        dying(patch, 12)
        with pytest.raises(Killed):
            go(tmp_path / "run", *TRAINED)
    assert not (tmp_path / "run" / "config.yaml").exists()
    (teacher,) = teachers(tmp_path)
    result = json.loads((teacher / "result.json").read_text())
    if leaves_result:
        result["status"] = "interrupted"
        del result["error"]
        (teacher / "result.json").write_text(json.dumps(result))
    else:
        (teacher / "result.json").unlink()
    with caplog.at_level("INFO"):
        go(tmp_path / "run", *TRAINED)
    assert "upstream: resuming" in caplog.text
    assert numbers(teacher) == numbers(teachers(taught.parent)[0])
    assert numbers(tmp_path / "run") == numbers(taught)


def fail(teacher):
    result = json.loads((teacher / "result.json").read_text())
    (teacher / "result.json").write_text(
        json.dumps(result | {"status": "failed", "error": "no memory"})
    )


def other_data(teacher):
    result = json.loads((teacher / "result.json").read_text())
    result["data_card"]["fingerprint"] = "0" * 64
    (teacher / "result.json").write_text(json.dumps(result))


def cut_short(teacher):
    (teacher / "result.json").unlink()
    last = teacher / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-500])


def cut_best(teacher):
    best = teacher / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:900])


def changed_best(teacher):
    best = teacher / "checkpoints" / "best.ckpt"
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.write_bytes(content)


def never_trained(teacher):
    (teacher / "result.json").unlink()
    shutil.rmtree(teacher / "checkpoints")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (fail, "it failed: no memory"),
        (other_data, "it has different data or code"),
        (cut_short, "is truncated"),
        (cut_best, "checkpoints/best.ckpt is missing or damaged"),
        (changed_best, "checkpoints/best.ckpt is missing or damaged"),
        (never_trained, "is not usable"),
    ],
)
def test_a_teacher_that_cannot_be_used_is_trained_again(spoil, reason, taught, copied, go, caplog):
    run = copied(taught)
    (teacher,) = teachers(run.parent)
    spoil(teacher)
    go(run.with_name("another"), *TRAINED)
    assert reason in caplog.text
    assert "training it again" in caplog.text
    assert teachers(run.parent) == [teacher]
    assert numbers(run.with_name("another")) == numbers(taught)


@pytest.mark.parametrize("change", ["code", "data"])
def test_other_code_or_data_need_another_teacher(change, taught, copied, go, caplog, monkeypatch):
    run, words = copied(taught), ["data.world.seed=1"] if change == "data" else []
    if change == "code":
        monkeypatch.setattr(stages, "code_digest", lambda _: "0" * 16)
    with caplog.at_level("INFO"):
        go(run.with_name("another"), *TRAINED, *words)
    assert "upstream: training" in caplog.text
    assert ("has different data or code" in caplog.text) is (change == "code")
    assert len(teachers(run.parent)) == 2


def test_a_second_process_waits_for_the_first(whole, copied, caplog):
    run = copied(whole)
    (teacher,) = teachers(run.parent)
    lock = FileLock(run.parent / "upstream" / ".locks" / f"{teacher.name}.lock")
    with caplog.at_level("INFO"), lock.acquire(timeout=0):
        waiting = threading.Event()
        log = stages.log.info

        def noted(message, *args):
            log(message, *args)
            if "another process" in message:
                waiting.set()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages.log, "info", noted)
            found = []
            corpus = open_run(run).corpus
            plain = read_config(run)
            thread = threading.Thread(
                target=lambda: found.append(stages.ensure_run(plain, corpus, run, None))
            )
            thread.start()
            assert waiting.wait(20)
            assert not found
            lock.release()
            thread.join(20)
    assert found == [teacher]


def test_an_interrupted_teacher_interrupts_its_student(go, tmp_path, monkeypatch, caplog):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(Recommender, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "run", *TRAINED)
    assert "repeat the command to resume it" in caplog.text
    assert not (tmp_path / "run").exists()


def test_a_finished_run_may_be_the_teacher(taught, go, tmp_path):
    (teacher,) = teachers(taught.parent)
    go(tmp_path / "run", "upstream=run", f"upstream.run={teacher}")
    assert numbers(tmp_path / "run") == numbers(taught)
    assert not teachers(tmp_path)
    assert read_result(tmp_path / "run")["upstream"]["folder"] == str(teacher)


@pytest.mark.parametrize(
    ("word", "column"), [("data.split_seed=1", "split"), ("data.world.seed=1", "fingerprint")]
)
def test_a_run_on_other_data_cannot_be_the_teacher(word, column, taught, go, tmp_path):
    (teacher,) = teachers(taught.parent)
    with pytest.raises(DataError) as error:
        go(tmp_path / "run", "upstream=run", f"upstream.run={teacher}", word)
    assert error.value.file == f"upstream.run={teacher}"
    assert error.value.column == column
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("word", "setting", "value"),
    [
        ("upstream.run=missing", "upstream.run", Path("missing")),
        ("model.dim=4", "model.dim", 4),
    ],
)
def test_a_run_that_cannot_be_the_teacher_is_refused(word, setting, value, taught, go, tmp_path):
    (teacher,) = teachers(taught.parent)
    with pytest.raises(SettingError) as error:
        go(tmp_path / "run", "upstream=run", f"upstream.run={teacher}", word)
    assert (error.value.setting, error.value.value) == (setting, value)
    assert not (tmp_path / "run").exists()


def test_a_trial_batch_has_a_teacher_of_a_batch(go, tmp_path):
    go(tmp_path / "run", *TRAINED, "trainer.fast_dev_run=true")
    (teacher,) = teachers(tmp_path)
    assert read_result(teacher)["partial"] == ["trainer.limit_train_batches=1"]


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ("model=bpr upstream=lightgcn", "upstream"),
        ("+upstream.data.split_seed=1", "upstream.data"),
        ("upstream.model.dim=text", "upstream.model.dim"),
        ("+upstream.model.dimm=8", "upstream.model.dimm"),
        ("upstream.seed=-1", "upstream.seed"),
        ("upstream.root=3", "upstream.root"),
        ("upstream=lightgcn upstream.optimizer.lr=-1", "upstream.optimizer.lr"),
        ("upstream.model._target_=mmrec.data.Corpus", "upstream.model._target_"),
        ("upstream.model._target_=mmrec.models.Missing", "upstream.model._target_"),
        ("+upstream.run=outputs", "upstream.model"),
    ],
)
def test_an_invalid_setting_is_named_as_it_is_typed(words, setting, composed):
    kept = [w for w in TINY if "model" not in w] if "model=bpr" in words else TINY
    with pytest.raises(SettingError) as error:
        check_config(composed(*kept, *words.split()))
    assert error.value.setting == setting


def test_a_mistake_of_the_teacher_is_named_below_upstream(go, tmp_path):
    with pytest.raises(SettingError) as error:
        go(tmp_path / "run", *TRAINED, "upstream.model.layers=-1")
    assert (error.value.setting, error.value.value) == ("upstream.model.layers", -1)
    assert not (tmp_path / "run").exists()


def test_where_teachers_live_changes_no_hash(composed):
    plain = [check_config(composed(*TINY, *words)) for words in ([], ["upstream.root=elsewhere"])]
    assert config_hash(plain[0]) == config_hash(plain[1])
    assert "upstream" not in check_config(composed("model=bpr"))
