"""What a run is: the folder it leaves, the numbers it reports, and how it is started."""

from __future__ import annotations

import logging

import polars as pl
import pytest
import torch
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

import mmrec.commands.run
from mmrec.commands.run import run
from mmrec.config.errors import SettingError
from mmrec.config.schema import conf_dir
from mmrec.evaluation import RankingMetric
from mmrec.models import Recommender
from mmrec.training.build import build, check_config, warn_of_early_peaks
from mmrec.training.results import read_result

TINY = (
    "model=bpr",
    "data=planted",
    "data.world.users=120",
    "data.world.items=80",
    "data.batch_size=256",
    "model.dim=8",
    "optimizer.lr=0.02",
    "trainer=cpu",
    "trainer.max_epochs=4",
    "trainer.enable_progress_bar=false",
)
CLOSED_FORM = ("model=most_pop", *(word for word in TINY if not word.startswith("model")))


@pytest.fixture(scope="module")
def go(run_words):
    """`go(folder, *words)`: a tiny run in this process."""
    return lambda folder, *words, base=TINY: run_words(folder, *base, *words)


@pytest.fixture(scope="module")
def done(go, tmp_path_factory):
    """The folder of an ordinary run."""
    folder = tmp_path_factory.mktemp("done") / "run"
    go(folder)
    return folder


def epochs(folder):
    return pl.read_csv(folder / "metrics.csv")


def losses(folder):
    return epochs(folder)["train/loss"].to_list()


def test_a_run_leaves_these_files_and_no_other(done):
    files = {str(path.relative_to(done)) for path in done.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml",
        "overrides.yaml",
        "metrics.csv",
        "learning_curve.png",
        "per_user.parquet",
        "result.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }


def test_the_result_says_what_was_run_and_how_it_went(done):
    result = read_result(done)
    assert result["status"] == "completed"
    assert (result["model"], result["data"], result["seed"]) == ("bpr", "planted", 0)
    assert result["overrides"] == list(TINY) == OmegaConf.load(done / "overrides.yaml")
    assert result["parameters"] == (120 + 80) * 8
    assert result["epochs"] == 4
    assert result["data_card"]["users"] == 120
    assert all(seconds > 0 for seconds in result["seconds"].values())
    for split in ("val", "test"):
        assert {f"{split}/{m}@{k}" for m in ("recall", "ndcg") for k in (5, 10, 20, 50)} <= set(
            result["metrics"]
        )
    assert {"test/coverage@20", "test/tail/recall@20"} <= set(result["metrics"])


def test_the_table_has_a_row_an_epoch_and_nothing_of_test(done):
    table = epochs(done)
    assert table["epoch"].to_list() == [0, 1, 2, 3]
    assert not any(name.startswith("test/") for name in table.columns)
    assert {"train/bpr", "train/l2", "train/loss", "val/recall@20", "time/train_epoch"} <= set(
        table.columns
    )
    assert table.drop_nulls().height == 4
    assert (table["train/bpr"] + table["train/l2"] - table["train/loss"]).abs().max() < 1e-6


def test_validation_in_the_result_is_the_row_of_the_best_epoch(done):
    result, table = read_result(done), epochs(done)
    assert result["best_epoch"] == table["val/recall@20"].arg_max()
    row = table.row(result["best_epoch"], named=True)
    in_result = {k: v for k, v in result["metrics"].items() if k.startswith("val/")}
    assert in_result == {k: v for k, v in row.items() if k.startswith("val/")}
    assert result["best_value"] == row["val/recall@20"]


def test_metrics_of_users_have_the_mean_that_the_result_reports(done):
    users, metrics = pl.read_parquet(done / "per_user.parquet"), read_result(done)["metrics"]
    assert users["user"].is_unique().all()
    assert len(users.columns) == 1 + 6 * 4
    for name in users.columns[1:]:
        assert users[name].mean() == pytest.approx(metrics[f"test/{name}"], abs=1e-6)


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_checkpoint_holds_tensors_and_plain_types_only(done, name):
    content = torch.load(done / f"checkpoints/{name}.ckpt", weights_only=True)
    assert content["mmrec"]["model"] == "BPR"
    assert set(content["state_dict"]) == {"user.weight", "item.weight"}


def test_the_written_configuration_alone_gives_the_same_numbers(done, tmp_path):
    config = OmegaConf.load(done / "config.yaml")
    config.run_dir = str(tmp_path / "again")
    config.logger.csv.path = str(tmp_path / "again" / "metrics.csv")
    again = run(config, [])
    assert again["metrics"] == read_result(done)["metrics"]
    assert again["config_hash"] == read_result(done)["config_hash"]
    assert losses(tmp_path / "again") == losses(done)


def test_another_seed_gives_other_numbers_on_the_same_split(done, go, tmp_path):
    other = go(tmp_path / "other", "seed=1")
    assert losses(tmp_path / "other")[0] != losses(done)[0]
    assert other["metrics"] != read_result(done)["metrics"]
    assert other["data_card"] == read_result(done)["data_card"]


def test_the_evaluation_batch_changes_no_number(done, go, tmp_path):
    assert go(tmp_path / "run", "data.eval_batch_size=7")["metrics"] == read_result(done)["metrics"]


def test_early_stopping_keeps_the_best_epoch_and_tests_it(go, tmp_path):
    words = ("callbacks.early_stopping.patience=3", "optimizer.lr=0.1", "trainer.max_epochs=60")
    result = go(tmp_path, *words)
    values = epochs(tmp_path)["val/recall@20"]
    assert len(values) == result["epochs"] == result["best_epoch"] + 1 + 3 < 60
    assert result["best_value"] == values.max()

    def test_metrics(name):
        data, model = build(OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")))
        path = tmp_path / f"checkpoints/{name}.ckpt"
        model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        ranking = RankingMetric(data.corpus, "test", model.evaluation, detailed=True)
        for queries in data.test_dataloader():
            ranking.update(queries.user, model.score(model.encode(), queries))
        return {f"test/{k}": float(v) for k, v in ranking.compute().items()}

    reported = {k: v for k, v in result["metrics"].items() if k.startswith("test/")}
    assert reported == test_metrics("best")
    assert reported != test_metrics("last")


def test_test_is_looked_at_once_and_after_training(go, tmp_path, monkeypatch):
    events = []
    for event in ("on_train_epoch_end", "on_validation_epoch_end", "on_test_epoch_end"):
        original = getattr(Recommender, event)
        monkeypatch.setattr(
            Recommender, event, lambda self, o=original, e=event: (events.append(e), o(self))[1]
        )
    go(tmp_path / "run", "trainer.max_epochs=2")
    one_epoch = ["on_validation_epoch_end", "on_train_epoch_end"]
    assert events == [*one_epoch, *one_epoch, "on_test_epoch_end"]


def test_a_run_shorter_than_the_time_between_validations_is_validated_once(go, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="mmrec"):
        result = go(tmp_path, "trainer.max_epochs=2", "trainer.check_val_every_n_epoch=9")
    assert result["best_epoch"] == 1
    assert (
        "validating only after the last epoch, because trainer.check_val_every_n_epoch=9"
        in caplog.text
    )


def test_data_with_cold_items_train_without_callbacks_and_in_the_short_trial(go, tmp_path):
    words = ("model=content_bpr", "data=planted_cold", "evaluation.cutoffs=[10]")
    assert go(tmp_path / "a", *words, "callbacks=none")["status"] == "completed"
    assert go(tmp_path / "b", *words, "trainer=debug")["status"] == "completed"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data=planted", "data.split=item_cold"], True),
        (["data=planted_cold"], False),
        (["data=planted_cold", "callbacks.early_stopping.patience=3"], True),
        (["data=planted", "data.split=item_cold", "callbacks=none"], False),
        (["data=planted_cold", "callbacks=none", "trainer.check_val_every_n_epoch=1"], False),
        (["data=planted_cold", "callbacks.early_stopping=null"], False),
        (["data=planted"], False),
        (["data=tiktok", "data.split=item_cold", "trainer.max_epochs=21"], False),
        (["data=tiktok", "data.split=item_cold", "trainer.max_epochs=22"], True),
    ],
)
def test_cold_items_without_patience_are_warned_of(composed, caplog, words, told):
    warn_of_early_peaks(check_config(composed(*words)))
    assert ("may end the run at an early peak" in caplog.text) == told


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("+callbacks.stop={patience: 3}", "stop"),
        ("~callbacks.early_stopping._target_", "early_stopping"),
    ],
)
def test_a_callback_without_a_class_is_refused(composed, word, name):
    with pytest.raises(SettingError) as error:
        check_config(composed("data=planted_cold", word))
    assert error.value.setting == f"callbacks.{name}"
    assert error.value.problem == "it has no _target_"


def test_a_run_without_a_validated_epoch_says_so(go, tmp_path):
    with pytest.raises(SettingError) as error:
        go(tmp_path / "run", "+trainer.max_time={seconds: 0}")
    assert error.value.setting == "trainer.max_epochs"
    assert "trainer.check_val_every_n_epoch" in error.value.hint
    assert read_result(tmp_path / "run")["status"] == "failed"


def test_a_run_that_another_process_writes_is_left_alone(go, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lock = folder / ".running"
    with FileLock(lock).acquire(), pytest.raises(SettingError) as error:
        go(folder)
    assert (error.value.setting, error.value.value) == ("run_dir", folder)
    assert error.value.problem == "another process is writing to this run folder"
    assert [*folder.iterdir()] == [lock]
    assert go(folder)["status"] == "completed"  # what a dead process leaves holds nobody up
    assert not lock.exists()


def test_a_run_that_ended_before_its_first_checkpoint_cannot_go_on(go, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(SettingError) as error:
        go(tmp_path, "ckpt=last")
    assert (error.value.setting, error.value.value) == ("ckpt", "last")
    assert error.value.hint.startswith("the run was stopped before its first checkpoint")


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("~model._partial_", "model._partial_"),
        ("~model._target_", "model"),
        ("~optimizer._target_", "optimizer"),
    ],
)
def test_a_group_that_names_nothing_is_refused(composed, word, setting):
    with pytest.raises(SettingError) as error:
        check_config(composed(word))
    assert error.value.setting == setting


def test_epochs_between_validations_are_never_the_best(go, tmp_path):
    result = go(tmp_path, "trainer.check_val_every_n_epoch=2")
    assert result["best_epoch"] in (1, 3)
    assert [v is None for v in epochs(tmp_path)["val/recall@20"]] == [True, False, True, False]


def test_a_routed_model_says_which_experts_its_data_leave_it(run_words, tmp_path, caplog):
    small = ["model=magnet", *TINY[1:], "model.neighbours=3", "data.modalities=[visual]"]
    with caplog.at_level(logging.INFO, "mmrec"):
        run_words(tmp_path / "run", *small, "trainer.max_epochs=1")
    roles = "dominant/behaviour, dominant/visual, balanced/behaviour+visual"
    assert f"experts: {roles}, complementary/behaviour, complementary/visual" in caplog.messages


def test_a_run_on_cold_items_says_what_is_cold_and_what_chance_gives(run_words, tmp_path, caplog):
    words = ["model=content_bpr", *TINY[1:], "data=planted_cold", "data.world.cold_items=0.5"]
    with caplog.at_level(logging.INFO, "mmrec"):
        run_words(tmp_path / "run", *words, "evaluation.cutoffs=[5,10]", "monitor=val/recall@10")
    items = read_result(tmp_path / "run")["data_card"]["items"]
    assert (
        f"cold-start items: {items // 4} for validation, {items // 4} for test; a random ranking "
        f"of the {items // 2} test candidates has recall@10 {20 / items:.3f}"
    ) in caplog.messages


def test_planted_cold_without_cold_items_is_refused(run_words, tmp_path):
    with pytest.raises(SettingError) as error:
        run_words(tmp_path / "run", "data=planted_cold", "data.world.cold_items=0")
    assert (error.value.setting, error.value.value) == ("data.cold_items", "given")
    assert "data.world.cold_items" in error.value.hint


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (["model=bpr"], True),
        (["model=ease"], True),
        (["model=ease", "model.content_weight=1"], False),
        (["model=item_knn"], False),
    ],
)
def test_a_model_that_reads_no_content_says_so_of_cold_items(
    words, warned, run_words, tmp_path, caplog
):
    world = [word for word in TINY if word.startswith("data.world")]
    cold = ["data=planted_cold", *world, "trainer=cpu", "trainer.fast_dev_run=true"]
    with caplog.at_level(logging.WARNING, "mmrec"):
        run_words(tmp_path / "run", *words, *cold, "evaluation.cutoffs=[10]")
    name = words[0].removeprefix("model=")
    told = f"{name} does not use item content" in caplog.text
    assert told is warned


def test_a_closed_form_is_ranked_as_it_is(go, tmp_path):
    result = go(tmp_path, base=CLOSED_FORM)
    assert (result["status"], result["epochs"], result["best_epoch"]) == ("completed", 0, None)
    assert result["seconds"]["fit"] is None
    assert result["best_value"] == result["metrics"]["val/recall@20"] > 0
    assert pl.read_parquet(tmp_path / "per_user.parquet").height > 0
    content = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert content["mmrec"]["model"] == "MostPop"
    assert epochs(tmp_path)["val/recall@20"].to_list() == [result["best_value"]]


@pytest.mark.parametrize("base", [TINY, CLOSED_FORM], ids=["trained", "closed form"])
def test_a_trial_batch_runs_all_and_keeps_no_checkpoint(go, tmp_path, base):
    result = go(tmp_path / "run", "trainer.fast_dev_run=true", base=base)
    assert result["status"] == "completed"
    assert result["best_epoch"] is None
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_debug_trainer_stops_after_two_short_epochs(go, tmp_path):
    short = [word for word in TINY if not word.startswith("trainer")]
    result = go(tmp_path, "trainer=debug", "trainer.enable_progress_bar=false", base=short)
    assert (result["status"], result["epochs"]) == ("completed", 2)


def test_clipping_bends_the_trajectory(go, tmp_path):
    sgd = ("optimizer._target_=torch.optim.SGD", "optimizer.lr=5", "trainer.max_epochs=2")
    go(tmp_path / "free", *sgd)
    go(tmp_path / "clipped", *sgd, "trainer.gradient_clip_val=0.001")
    assert losses(tmp_path / "free")[1] != losses(tmp_path / "clipped")[1]


def test_half_precision_trains_and_ranks(go, tmp_path):
    gated = ("model=gated_lightgcn", "model.dim=8")
    result = go(tmp_path / "half", *gated, "trainer.precision=bf16-mixed")
    assert losses(tmp_path / "half")[-1] < losses(tmp_path / "half")[0]
    assert 0 < result["best_value"] < 1
    go(tmp_path / "full", *gated, "trainer.max_epochs=1")
    assert losses(tmp_path / "half")[0] != losses(tmp_path / "full")[0]
    assert losses(tmp_path / "half")[0] == pytest.approx(losses(tmp_path / "full")[0], rel=0.01)


def test_no_logger_means_no_table(go, tmp_path):
    result = go(tmp_path, "logger=none")
    assert result["status"] == "completed"
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["tensorboard", "wandb", "[tensorboard,wandb]"])
def test_trackers_write_beside_the_table(go, done, tmp_path, monkeypatch, logger):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    go(tmp_path, f"logger={logger}")
    assert losses(tmp_path) == losses(done)
    assert any(tmp_path.rglob("events.out.tfevents.*")) == ("tensorboard" in logger)
    assert any(tmp_path.rglob("*.wandb")) == ("wandb" in logger)


def test_a_sweep_sees_the_best_validation_value_and_nothing_of_test(tmp_path, monkeypatch):
    outcome = {"status": "completed", "best_value": 0.25, "metrics": {"test/recall@20": 0.75}}
    monkeypatch.setattr(mmrec.commands.run, "run", lambda *_: outcome)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=["run_dir=unused"], return_hydra_config=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    assert mmrec.commands.run._main(config) == 0.25


@pytest.mark.slow
def test_the_command_says_what_it_does_once_and_warns_of_nothing(shell, tmp_path):
    words = [word for word in TINY if "progress_bar" not in word]
    finished = shell(*words, "run_dir=run", cwd=tmp_path)
    assert finished.stderr == ""
    lines = [line for line in finished.stdout.splitlines() if line.strip()]
    assert "\r" not in finished.stdout
    assert [line.split()[0] for line in lines[:3]] == ["data", "users", "items"]
    assert sum(line.startswith("epoch ") for line in lines) == 4
    assert [line.split()[0] for line in lines[-6:-2]] == [
        "val/recall",
        "val/ndcg",
        "test/recall",
        "test/ndcg",
    ]
    best = read_result(tmp_path / "run")["best_epoch"]
    assert lines[-2:] == [f"best epoch: {best} (epochs 0 to 3)", f"completed: {tmp_path / 'run'}"]
    assert len(lines) < 30


@pytest.mark.slow
def test_a_multirun_makes_a_folder_for_each_job(done, shell, tmp_path):
    shell("-m", *TINY, "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    results = [read_result(tmp_path / "sweep" / job) for job in "01"]
    assert [result["seed"] for result in results] == [0, 1]
    assert results[0]["metrics"] == read_result(done)["metrics"]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_multirun_ends_with_a_table_of_its_jobs_also_if_some_fail(shell, tmp_path):
    words = ("-m", *TINY, "evaluation.cutoffs=[20],[20,99]", "hydra.sweep.dir=sweep")
    finished = shell(*words, cwd=tmp_path, status=1)
    _, head, *rows = finished.stdout.splitlines()[-4:]
    result = read_result(tmp_path / "sweep/0")
    values = [f"{result['metrics'][f'{part}/recall@20']:.4f}" for part in ("val", "test")]
    assert head.split() == ["job", "status", "val/recall@20", "test/recall@20", "seconds", "folder"]
    assert rows[0].split()[:4] == ["evaluation.cutoffs=[20]", "completed", *values]
    assert rows[0].split()[-1] == "0"
    assert rows[1].split() == ["evaluation.cutoffs=[20,99]", "no", "result", *"----"]


@pytest.mark.slow
def test_a_multirun_tells_of_each_job_that_fails(shell, tmp_path):
    words = ("-m", *TINY, "seed=0,1", "evaluation.cutoffs=[20,99]")
    done = shell(*words, cwd=tmp_path, status=1)
    for job in range(2):
        said = f"#{job} failed: evaluation.cutoffs=[20, 99]: the cutoff 99 exceeds the"
        assert said in done.stdout
    assert "\nerror: evaluation.cutoffs=[20, 99]: the cutoff 99 exceeds" in done.stderr


@pytest.mark.slow
def test_two_processes_agree_with_one_that_ranks_their_checkpoint(shell, tmp_path):
    words = [word for word in TINY if not word.startswith(("model", "data.world.users"))]
    several = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    odd = ("model=lightgcn", "data.world.users=121", *several)  # 121 users do not divide
    finished = shell(*words, *odd, "run_dir=run", cwd=tmp_path)
    assert finished.stderr == ""
    assert finished.stdout.count("run folder") == 1
    assert sum(line.startswith("epoch ") for line in finished.stdout.splitlines()) == 4

    folder = tmp_path / "run"
    result = read_result(folder)
    data, model = build(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    model.load_state_dict(best["state_dict"])
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        ranking = RankingMetric(data.corpus, split, model.evaluation, detailed=split == "test")
        model.eval()
        for queries in loader:
            ranking.update(queries.user, model.score(model.encode(), queries))
        for name, value in ranking.compute().items():
            assert result["metrics"][f"{split}/{name}"] == float(value)
    users = pl.read_parquet(folder / "per_user.parquet")["user"]
    assert users.to_list() == sorted(data.corpus.test.user.unique().tolist())
    assert epochs(folder).height == 4
