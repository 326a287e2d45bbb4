"""A mistyped command is one line with the nearest names, exit status 1, and nothing on disk."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
from hydra.errors import MissingConfigException

from mmrec.commands.run import main
from mmrec.config.hydra_errors import explain_error
from mmrec.config.startup import forget_peak_memory
from mmrec.training.provenance import peak_rss_mib

TINY = ("trainer=cpu", "trainer.max_epochs=1", "data.world.users=60", "data.world.items=60")


@pytest.fixture
def command(in_process, capfd):
    """`command(*words)` runs in an empty folder and returns the one line that it says."""

    def call(*words):
        message = in_process(main, *words)  # Python prints it to stderr, and exits with status 1
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err == ""
        assert isinstance(message, str)
        assert "\n" not in message
        assert message.startswith("error: ")
        return message

    return call


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("model=lightgnc", ("model=lightgnc: there is no conf/model/lightgnc.yaml", "lightgcn")),
        ("modle=lightgcn", ("modle: no such setting", "model")),
        ("model.dimm=3", ("model.dimm: no such setting", "model.dim")),
        ("trainer.max_epoch=3", ("trainer.max_epoch: no such setting", "trainer.max_epochs")),
        ("optimizer.lrr=1", ("optimizer.lrr: no such setting", "optimizer.lr")),
        ("model.dim=abc", ("model.dim=abc:", "integer")),
        ("model.norm=sqared", ("model.norm=sqared:", "'squared' or 'frobenius'")),
        ("data.split=temporl", ("data.split=temporl:", "'temporal'")),
        ("data.batch_size=0", ("data.batch_size=0: expected a finite number of at least 1",)),
        (f"run_dir=here/{'a' * 300}", ("run_dir=here/aaa", "255 bytes")),
        ("seed=abc", ("seed=abc: expected an integer from 0 to 2^32 - 1",)),
        ("seed=99999999999", ("seed=99999999999: expected an integer from 0",)),
        ("evaluation.cutoffs=[0]", ("evaluation.cutoffs=[0]: expected positive integers",)),
        ("trainer.max_epochs=0", ("trainer.max_epochs=0: expected at least 1",)),
        (
            "trainer.limit_train_batches=0",
            ("trainer.limit_train_batches=0: Input should be greater than 0",),
        ),
        (
            "trainer.check_val_every_n_epoch=0",
            ("trainer.check_val_every_n_epoch=0: ", "greater than or equal to 1"),
        ),
        (
            "callbacks.early_stopping.patience=-1",
            ("callbacks.early_stopping.patience=-1: ", "greater than or equal to 0"),
        ),
        (
            "trainer.accelerator=mps",
            ("trainer.accelerator=mps: ", "; use trainer=auto to select available hardware"),
        ),
        ("seed=-1", ("seed=-1: expected an integer from 0 to 2^32 - 1",)),
        ("monitor=test/recall@20", ("monitor=test/recall@20:", "validation", "val/recall@20")),
        ("monitor=val/recal@20", ("monitor=val/recal@20:", "val/recall@20")),
        ("evaluation.cutoffs=[0,20]", ("cutoffs=[0, 20]:", "in ascending order")),
        (
            "evaluation.cutoffs=[20,99]",
            (
                "evaluation.cutoffs=[20, 99]: the cutoff 99 exceeds",
                "the 60 items of planted",
                "set evaluation.cutoffs=[20] monitor=val/recall@20 for a run",
            ),
        ),
        ("data=_base", ("data=_base: it is only used inside other files",)),
        ("data.cold_share=0.5", ("data.cold_share=0.5: it is for data.split=item_cold",)),
        ("data.warm_test=false", ("data.warm_test=false: it is for data.split=item_cold",)),
        (
            "data.temporal_cutoffs=[0.7,0.9]",
            ("data.temporal_cutoffs=[0.7, 0.9]: it is for data.split=temporal, not random_per",),
        ),
        ("data.corrupt={visual:0.2}", ("add a key with +, for example +data.corrupt.visual=",)),
        ("data.corrupt.visual=0.2", ("add a key with +, for example +data.corrupt.visual=0.2",)),
        ("data.where.event=buy", ("add a key with +, for example +data.where.event=",)),
        ("optimizer.lr=-1", ("optimizer.lr=-1: Input should be greater than or equal to 0",)),
        ("trainer.precision=foo", ("trainer.precision=foo:", "'32-true'")),
        ("model.dim=[", ("model.dim=[: a bracket is not closed",)),
        ("+model.foo=1", ("model.foo: no such setting", "dim")),
        ("trainer.max_epochs=x", ("trainer.max_epochs=x:", "integer")),
        (
            "callbacks.early_stopping.patience=x",
            ("callbacks.early_stopping.patience=x:", "integer"),
        ),
        (
            "experiment=bpr-planted-best",
            ("for the best trial of a search, add --config-dir multirun/bpr-planted",),
        ),
        ("logger=wandbb", ("; the choices are csv, mlflow, none, tensorboard, wandb",)),
        ("run_dir=", ("run_dir=: it is empty; give a folder, or omit it",)),
        ("model=bpr,vbpr", ("model=bpr,vbpr: several values need a multirun: add -m",)),
        ("++run_dir=", ("run_dir=: it is empty",)),
        ("evaluation.cutoffs=5,10", ("use brackets for a list, evaluation.cutoffs=[5,10]",)),
        ("model", ("model: expected setting=value, for example run=outputs/... or seed=1",)),
        ("ablation=stage_1", ("no conf/ablation/stage_1.yaml; did you mean magnet/stage_1",)),
        ("ckpt=nan", ("ckpt=nan: the checkpoint nan does not exist",)),
        ("~logger", ("~logger: a run requires this setting",)),
        ("~trainer.max_epochs", ("trainer.max_epochs=null: expected at least 1",)),
        ("+logger.wandb=5", ("logger.wandb: it has no _target_",)),
        ("evaluation=null", ("evaluation=",)),
        ("data._target_=mmrec.data.FolderData", ("data.world: no such setting",)),
        ("ckpt=nowhere.ckpt", ("ckpt=nowhere.ckpt: the checkpoint nowhere.ckpt does not exist",)),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy_and_leaves_nothing(
    word, expected, command, tmp_path
):
    message = command(*TINY, word)
    for part in expected:
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_one_run_is_none_of_many(command):
    message = command("-m", "model=bpr", "run_dir=here")
    assert message.startswith("error: run_dir=here: ")
    assert "hydra.sweep.dir" in message


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("-m", "+n_trials=5"), "n_trials"),
        (("-m", "n_trials=5"), "n_trials"),
        (("-m", "sweep.n_trials=5"), "sweep.n_trials"),
        (("-m", "+sweep.n_trials=5"), "sweep.n_trials"),
        (("-m", "hydra/sweeper=optuna", "+sweep.n_trials=5", "model.dim=2,4"), "sweep.n_trials"),
        (("-m", "hydra/sweeper=optuna", "+n_trials=5", "model.dim=2,4"), "n_trials"),
        (("-m", "hydra/sweeper=grid", "+grid.dry_run=true"), "grid.dry_run"),
        (("-m", "+dry_run=true"), "dry_run"),
        (("+sweep.n_trials=5",), "sweep.n_trials"),
    ],
)
def test_a_setting_of_a_search_that_is_not_chosen_names_the_right_key(words, key, in_process):
    said = in_process(main, *TINY, "model=bpr", *words)
    assert isinstance(said, str)
    assert said.startswith(f"error: {key}: no ")
    name = key.rpartition(".")[2]
    assert f"hydra.sweeper.{name}=" in said
    named = any(word.startswith("hydra/sweeper=") for word in words)
    assert ("sweep=<model>" in said) == (name == "n_trials" and not named)


@pytest.mark.parametrize(
    ("choice", "extra"), [("joblib", "joblib"), ("submitit_slurm", "slurm"), ("ray", "ray")]
)
def test_a_launcher_without_its_package_names_the_extra(choice, extra):
    error = MissingConfigException(f"Could not find 'hydra/launcher/{choice}'", choice)
    said = explain_error(error, "config")
    assert said == f"hydra/launcher={choice} requires a package: pip install 'mmrec[{extra}]'"


def test_tensorboard_without_its_package_names_the_extra(command, monkeypatch):
    monkeypatch.setattr("mmrec.training.trainer.find_spec", lambda _: None)
    assert "pip install 'mmrec[tensorboard]'" in command(*TINY, "model=bpr", "logger=tensorboard")


def test_null_in_a_nested_choice_is_answered_with_a_list(command):
    message = command("-m", "model=bpr", "model.dim=shuffle(choice(null,1))")
    assert message.startswith("error: model.dim: choice() does not accept null")
    assert "model.dim=null,1" in message


@pytest.mark.parametrize(("value", "shown"), [("0", False), ("", False), ("1", True)])
def test_full_errors_are_shown_as_in_hydra(value, shown, in_process, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", value)
    if shown:
        with pytest.raises(ValueError, match="seed=-1"):
            in_process(main, *TINY, "seed=-1")
    else:
        assert "seed=-1" in in_process(main, *TINY, "seed=-1")
    assert os.environ["HYDRA_FULL_ERROR"] == value


def test_a_broken_file_of_configuration_is_named(command, tmp_path):
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/own.yaml").write_text("dim: [\n")
    assert "mine/model/own.yaml" in command("--config-dir", "mine", "model=own")


def test_a_setting_that_one_of_several_models_lacks_is_no_unknown_one(command):
    message = command("-m", "model=lightgcn,bpr", "model.loss=softmax")
    assert "model.loss: some of the combined choices lack this setting" in message


def test_a_setting_that_a_model_of_ones_own_lacks_is_answered_with_this_model(command, tmp_path):
    group = tmp_path / "conf" / "model"
    group.mkdir(parents=True)
    (group / "own.yaml").write_text("_target_: mmrec.models.BPR\n_partial_: true\ndim: 8\n")
    message = command("--config-dir", f"{tmp_path / 'conf'}", "model=own", "model.layers=3")
    assert "model.layers: model=own has no such setting" in message


def test_a_model_that_needs_content_says_so_on_data_without(command, tmp_path):
    folder = tmp_path / "sets" / "bare"
    folder.mkdir(parents=True)
    rows = [f"{user},{user + step},{step % 3}" for user in range(8) for step in range(6)]
    (folder / "bare.csv").write_text("\n".join(["userID,itemID,x_label", *rows]) + "\n")
    message = command(
        "model=gated_lightgcn",
        "data=folder",
        "data.name=bare",
        "data.root=sets",
        "data.split=official",
        "trainer=cpu",
    )
    assert "bare: model gated_lightgcn needs item features, and it has none" in message
    assert "lightgcn" in message
    assert not (tmp_path / "outputs").exists()


def test_a_user_who_has_everything_is_told_only_where_negatives_are_drawn(
    command, run_words, tmp_path
):
    folder = tmp_path / "sets" / "full"
    folder.mkdir(parents=True)
    rows = [f"{user},{item},{max(item - 5, 0)}" for user in range(1, 5) for item in range(user, 8)]
    rows += [f"0,{item},0" for item in range(8)]
    (folder / "full.csv").write_text("\n".join(["userID,itemID,x_label", *rows]) + "\n")
    words = (
        *("model=lightgcn", "data=folder", "data.name=full", f"data.root={folder.parent}"),
        *("data.split=official", "trainer=cpu", "trainer.max_epochs=1"),
        *("evaluation.cutoffs=[2]", "monitor=val/recall@2"),
    )
    assert "user 0 has every item that could be drawn" in command(*words)
    result = run_words(tmp_path / "run", *words, "model.loss=softmax")
    assert result["status"] == "completed"


def test_an_infinite_feature_names_the_file(command, tmp_path):
    folder = tmp_path / "sets" / "bad"
    folder.mkdir(parents=True)
    rows = [f"{user},{user + step},{step % 3}" for user in range(8) for step in range(6)]
    (folder / "bad.csv").write_text("\n".join(["userID,itemID,x_label", *rows]) + "\n")
    features = np.ones((13, 2), dtype=np.float32)
    features[3, 1] = np.inf
    np.save(folder / "image_feat.npy", features)
    message = command("model=vbpr", "data=folder", "data.name=bad", "data.root=sets")
    assert "image_feat.npy, row 3" in message
    assert not (tmp_path / "outputs").exists()


def test_a_data_set_that_is_not_there_is_answered_with_those_that_are(command, tmp_path):
    (tmp_path / "sets" / "books").mkdir(parents=True)
    message = command("data=folder", "data.name=boks", "data.root=sets")
    assert "sets: no data set boks, found books; did you mean" in message


def test_the_shell_sees_one_line_on_stderr_and_status_1(shell, tmp_path):
    done = shell(*TINY, "data.negatives=0", cwd=tmp_path, status=1)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: data.negatives=0: expected a finite number of at least 1  "
        "(HYDRA_FULL_ERROR=1 shows where)"
    ]
    assert list(tmp_path.iterdir()) == []


def test_who_reads_may_leave_early(surroundings):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "mmrec.run", "--help"],
        env=surroundings,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux can forget a peak"
)
def test_a_run_of_many_in_one_process_has_its_own_peak():
    block = b"x" * (300 * 2**20)
    peak = peak_rss_mib()
    del block
    forget_peak_memory()
    assert peak_rss_mib() < peak - 250


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="only glibc has these settings"
)
def test_freed_memory_is_kept():
    script = """
import ctypes
from mmrec.config.startup import keep_freed_memory

c = ctypes.CDLL(None)
c.malloc.restype = c.sbrk.restype = ctypes.c_void_p
c.malloc.argtypes, c.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]

def returned():  # bytes that the heap shrinks by when three blocks of 20 MiB are freed
    blocks = [c.malloc(20 * 2**20) for _ in range(3)]
    end = c.sbrk(0)
    for block in blocks:
        c.free(block)
    return end - c.sbrk(0)

returned()  # glibc maps large blocks until the first of them is freed
print(returned())
keep_freed_memory()
print(returned())
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    by_default, kept = map(int, found.stdout.split())
    assert (by_default > 40 * 2**20, kept) == (True, 0)


@pytest.mark.parametrize("name", ["007", "2026_11_29"])
def test_a_run_in_a_folder_with_the_name_of_a_number(name, in_process, tmp_path):
    words = ("model=random", "data=planted", *TINY, "evaluation.cutoffs=[5]", "monitor=val/ndcg@5")
    assert in_process(main, *words, f"run_dir={name}") is None
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_mistake_beside_a_folder_of_configuration_is_one_line(command, tmp_path):
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/own.yaml").write_text("_target_: mmrec.models.BPR\n_partial_: true\n")
    message = command("model=own", "--config-dir", "mine", "modle=own")
    assert "modle: no such setting; did you mean model" in message
