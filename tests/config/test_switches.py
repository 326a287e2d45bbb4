"""Each setting of Lightning's trainer works, or is refused by its name before anything is built."""

from __future__ import annotations

import inspect
import shutil

import pytest
from lightning import Trainer

from mmrec.commands.evaluate import evaluate
from mmrec.commands.run import run
from mmrec.config.errors import SettingError
from mmrec.config.switches import FIXED, partial, setting_error
from mmrec.models import Recommender
from mmrec.report.collect import collect
from mmrec.training.build import check_config
from mmrec.training.results import ResultError, read_result

TINY = (
    "model=bpr",
    "data.world.users=60",
    "data.world.items=60",
    "data.batch_size=64",
    "model.dim=8",
    "optimizer.lr=0.02",
    "evaluation.cutoffs=[5,20]",
    "trainer=cpu",
    "trainer.max_epochs=3",
    "trainer.enable_progress_bar=false",
)
# Words that leave every number as it is.
SAME = (
    "+trainer.accumulate_grad_batches=1",
    "+trainer.benchmark=false",
    "+trainer.detect_anomaly=true",
    "+trainer.inference_mode=false",
    "+trainer.max_time=01:00:00:00",
    "+trainer.min_epochs=2",
    "+trainer.profiler=simple",
    "+trainer.strategy=auto",
    "+trainer.sync_batchnorm=true",
    "trainer.enable_model_summary=true",
    "trainer.log_every_n_steps=3",
    "trainer.num_sanity_val_steps=-1",
    "trainer.num_sanity_val_steps=2",
)
# Words that change how a run is trained.
OTHER = (
    "+trainer.accumulate_grad_batches=3",
    "trainer.check_val_every_n_epoch=2",
    "trainer.gradient_clip_val=0.001",
    "trainer.gradient_clip_val=0.0001 +trainer.gradient_clip_algorithm=value",
    "trainer.limit_train_batches=2",
    "trainer.limit_train_batches=0.5",
    "trainer.max_epochs=2",
    "trainer.precision=bf16-mixed",
)
# Tested elsewhere: where a run is computed, and what it shows.
ELSEWHERE = {
    *("accelerator", "devices", "num_nodes", "deterministic", "fast_dev_run"),
    "enable_progress_bar",
}


def names(words):
    return {word.lstrip("+").partition("=")[0].removeprefix("trainer.") for word in words}


def test_each_parameter_of_the_trainer_is_refused_or_tested():
    known = set(FIXED) | names(" ".join((*SAME, *OTHER)).split()) | ELSEWHERE
    assert known == set(inspect.signature(Trainer).parameters) - {"self"}


@pytest.fixture(scope="module")
def go(run_words):
    """`go(folder, *words)`: a tiny run in this process."""
    return lambda folder, *words: run_words(folder, *TINY, *words)


@pytest.fixture(scope="module")
def whole(go, tmp_path_factory):
    """The result of a run with the trainer's defaults."""
    return go(tmp_path_factory.mktemp("whole") / "run")


def is_exact(folder):
    """Whether best.ckpt holds the weights that the validation metrics in result.json are of."""
    report = evaluate(run=folder, split="val", accelerator="cpu")
    noted = read_result(folder)["metrics"]
    assert report["metrics"] == {k: v for k, v in noted.items() if k.startswith("val/")}
    return report["differences"] == {}


@pytest.mark.parametrize("word", SAME)
def test_what_should_not_change_a_number_does_not(word, whole, go, tmp_path):
    result = go(tmp_path / "run", word)
    assert result["metrics"] == whole["metrics"]
    assert (result["best_epoch"], result["epochs"]) == (whole["best_epoch"], whole["epochs"])
    assert is_exact(tmp_path / "run")


@pytest.mark.parametrize("words", OTHER)
def test_what_changes_training_has_an_effect_and_an_exact_checkpoint(words, whole, go, tmp_path):
    result = go(tmp_path / "run", *words.split())
    found = [(r["metrics"], r["epochs"]) for r in (result, whole)]
    assert found[0] != found[1]
    assert is_exact(tmp_path / "run")


@pytest.mark.parametrize(
    "callback",
    [
        # It ends training within an epoch, which is then validated.
        "{_target_: lightning.pytorch.callbacks.Timer, duration: {microseconds: 1}}",
        # It keeps checkpoints of its own.
        "{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: own}",
    ],
)
def test_a_callback_of_the_user_leaves_the_checkpoint_exact(callback, go, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = go(tmp_path / "run", f"+callbacks.mine={callback}")
    assert result["status"] == "completed"
    assert result["best_epoch"] is not None
    assert is_exact(tmp_path / "run")


@pytest.mark.parametrize(
    "callback",
    [
        "{_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.5}",
        "{_target_: lightning.pytorch.callbacks.StochasticWeightAveraging, swa_lrs: 0.01}",
    ],
)
def test_validation_of_weights_that_no_checkpoint_holds_is_refused(callback, go, tmp_path):
    with pytest.raises(SettingError) as error:
        go(tmp_path / "run", f"+callbacks.mine={callback}")
    assert error.value.setting == "callbacks.mine"
    assert "Averaging" in error.value.problem


REFUSED = {
    "barebones": ["true"],
    "callbacks": ["[{_target_: lightning.pytorch.callbacks.Timer}]", "[]"],
    "default_root_dir": ["else"],
    "enable_autolog_hparams": ["false"],
    "enable_checkpointing": ["false"],
    "limit_predict_batches": ["1"],
    "limit_test_batches": ["1", "0.5", "0"],
    "limit_val_batches": ["1", "0.5", "0"],
    "logger": ["false", "true"],
    "max_steps": ["1", "1000"],
    "min_steps": ["1"],
    "model_registry": ["name"],
    "overfit_batches": ["1", "0.5"],
    "plugins": ["[]"],
    "reload_dataloaders_every_n_epochs": ["1"],
    "use_distributed_sampler": ["true"],
    "val_check_interval": ["4", "1", "0.5", "00:00:01:00", "{minutes: 1}"],
}


def test_each_refused_setting_is_tested():
    assert REFUSED.keys() == FIXED.keys()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values]
)
def test_what_is_refused_is_named_with_a_remedy(name, value, composed):
    with pytest.raises(SettingError) as error:
        check_config(composed(*TINY, f"++trainer.{name}={value}"))
    assert (error.value.setting, error.value.hint) == (f"trainer.{name}", FIXED[name][1])


@pytest.mark.parametrize("name", FIXED)
def test_null_and_what_holds_anyway_are_accepted(name, composed):
    default = inspect.signature(Trainer).parameters[name].default
    given = [*FIXED[name][0], *([None] if default is None else [])]
    for value in given:
        word = "null" if value is None else str(value).lower()
        check_config(composed(*TINY, f"++trainer.{name}={word}"))


@pytest.mark.parametrize(
    ("words", "setting", "value"),
    [
        (["+trainer.gradient_clip_algorithm=value"], "gradient_clip_algorithm", "value"),
        (["trainer.max_epochs=-1", "callbacks=none"], "max_epochs", -1),
        (["~trainer.max_epochs"], "max_epochs", None),
        (["trainer.check_val_every_n_epoch=null"], "check_val_every_n_epoch", None),
        (["+trainer.strategy=fsdp"], "strategy", "fsdp"),
    ],
)
def test_settings_that_could_not_select_an_epoch_are_refused(words, setting, value, composed):
    with pytest.raises(SettingError) as error:
        check_config(composed(*TINY, *words))
    assert (error.value.setting, error.value.value) == (f"trainer.{setting}", value)


@pytest.mark.parametrize("name", ["LIMIT_TEST_BATCHES", "MAX_STEPS", "PROFILER"])
def test_variables_that_lightning_reads_are_refused(name, composed, monkeypatch):
    monkeypatch.setenv(f"PL_TRAINER_{name}", "1")
    with pytest.raises(SettingError) as error:
        check_config(composed(*TINY))
    assert error.value.setting == f"PL_TRAINER_{name}"
    assert f"trainer.{name.lower()}=" in error.value.hint


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trainer.fast_dev_run=true"], ["trainer.fast_dev_run=true"]),
        (["trainer=debug"], ["trainer.limit_train_batches=3"]),
        (["trainer.limit_train_batches=1"], ["trainer.limit_train_batches=1"]),
        (["trainer.limit_train_batches=1.0"], []),
        (["trainer.limit_train_batches=null"], []),
    ],
)
def test_a_run_on_part_of_the_data_says_so(words, parts, composed, go, tmp_path):
    assert partial(check_config(composed(*TINY, *words))["trainer"]) == parts
    result = go(tmp_path / "run", *words, "trainer.enable_progress_bar=false")
    assert read_result(tmp_path / "run").get("partial", []) == parts == result.get("partial", [])


def test_time_ends_a_run_after_a_whole_epoch(go, tmp_path):
    result = go(tmp_path / "run", "+trainer.max_time={microseconds: 1}")
    assert (result["status"], result["epochs"]) == ("completed", 1)
    longer = go(tmp_path / "run", "+trainer.max_time={hours: 1}", "ckpt=last")
    assert longer["epochs"] == 3


def test_a_profile_is_written_to_the_run_folder(go, tmp_path):
    go(tmp_path / "run", "+trainer.profiler=simple")
    assert "run_training_batch" in (tmp_path / "run" / "fit-profile.txt").read_text()


@pytest.mark.parametrize("name", ["a[1]", "[!x]*?", "a::b", "{x}", "50%20#", "é ~ $x"])
def test_a_run_folder_may_have_any_name(name, composed, whole, tmp_path):
    config = composed(*TINY)
    config.run_dir = str(tmp_path / name / "run")
    result = run(config, [])
    assert result["metrics"] == whole["metrics"]
    assert evaluate(run=config.run_dir, accelerator="cpu")["differences"] == {}
    found = collect(str(tmp_path / name / "run")).runs
    assert [r.folder for r in found] == [tmp_path / name / "run"]


@pytest.mark.parametrize(
    ("model", "step"), [("bpr", "training_step"), ("bpr", "test_step"), ("most_pop", "test_step")]
)
def test_a_run_without_its_folder_is_not_completed(model, step, run_words, tmp_path, monkeypatch):
    original = getattr(Recommender, step)

    def remove(self, batch, batch_idx):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Recommender, step, remove)
    base = [word for word in TINY if not word.startswith("model.")]
    with pytest.raises(
        ResultError, match=r"run/config\.yaml no longer exists: the run folder was removed"
    ):
        run_words(tmp_path / "run", *base, f"model={model}")
    if (tmp_path / "run" / "result.json").exists():
        assert read_result(tmp_path / "run")["status"] == "failed"


@pytest.mark.parametrize("patience", [0, 1])
def test_the_smallest_patience_ends_at_the_first_validation_that_is_not_better(
    patience, go, tmp_path
):
    words = (f"callbacks.early_stopping.patience={patience}", "optimizer.lr=0")
    assert go(tmp_path / "run", *words)["epochs"] == 2


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("callbacks.early_stopping.mode", "min"),
        ("callbacks.early_stopping.mode", "x"),
        ("callbacks.early_stopping.monitor", "x"),
        ("trainer.limit_train_batches", 0.01),
        ("trainer.limit_train_batches", 2.5),
        ("trainer.devices", -1),
        ("trainer.max_time", "text"),
        ("trainer.devices", "text"),
        ("trainer.accelerator", "text"),
    ],
)
def test_what_lightning_refuses_is_a_setting_and_no_traceback(setting, value, go, tmp_path):
    with pytest.raises(SettingError) as error:
        go(tmp_path / "run", f"++{setting}={value}")
    assert (error.value.setting, error.value.value) == (setting, value)


def test_what_lightning_refuses_while_it_trains_names_the_group(go, tmp_path):
    with pytest.raises(SettingError) as error:
        go(tmp_path / "run", "callbacks.early_stopping.monitor=train/x")
    assert error.value.setting == "callbacks"
    assert "train/x" in error.value.problem


def test_what_lightning_refuses_of_several_settings_names_them_all():
    settings = {"accelerator": "cpu", "strategy": "fsdp"}
    with pytest.raises(ValueError, match="fsdp") as refused:
        Trainer(**settings, logger=False)
    error = setting_error(refused.value, {"max_epochs": 3, **settings})
    assert (error.setting, error.value) == ("trainer", settings)
    assert error.problem == str(refused.value)
    assert error.hint == "use trainer=auto to select available hardware"
