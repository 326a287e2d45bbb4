"""What cannot go well ends with one clear message, and never with a number."""

from __future__ import annotations

import sys

import pytest
import torch

from mmrec.commands.app import launch
from mmrec.commands.run import main
from mmrec.config.errors import SettingError
from mmrec.evaluation import NonFiniteScores
from mmrec.models import BPR
from mmrec.models.base import NonFiniteLoss
from mmrec.training.results import read_result

TINY = (
    "model=bpr",
    "data=planted",
    "data.world.users=60",
    "data.world.items=60",
    "data.batch_size=64",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
)


@pytest.fixture(scope="module")
def go(run_words):
    """`go(folder, *words)`: a tiny run in this process."""
    return lambda folder, *words, base=TINY: run_words(folder, *base, *words)


@pytest.fixture
def command(in_process, capfd):
    """`command(*words)`: what the command says in the end."""

    def call(*words):
        said = in_process(main, *words)
        assert capfd.readouterr().err == ""  # so the message is all that is said
        assert "\n" not in said
        return said

    return call


def test_a_loss_that_is_not_finite_names_term_epoch_and_step(go, tmp_path, monkeypatch):
    original = BPR.losses

    def losses(self, batch):
        terms = original(self, batch)
        if self.trainer.global_step == 8:  # batches an epoch: 7
            terms["l2"] = terms["l2"] * torch.nan
        return terms

    monkeypatch.setattr(BPR, "losses", losses)
    with pytest.raises(NonFiniteLoss, match=r"epoch 1, step \d: bpr=0\.\d+, l2=nan; lower"):
        go(tmp_path)
    result = read_result(tmp_path)
    assert result["status"] == "failed"
    assert result["error"].startswith("the loss is not finite at epoch 1")
    assert result["best_epoch"] == 0  # what was reached is kept
    assert not any(name.startswith("test/") for name in result["metrics"])


def test_training_that_diverges_by_itself_stops(go, tmp_path):
    sgd = ("optimizer._target_=torch.optim.SGD", "optimizer.lr=1e30", "trainer.max_epochs=20")
    with pytest.raises(ArithmeticError, match="not finite at epoch"):
        go(tmp_path, *sgd)
    assert read_result(tmp_path)["status"] == "failed"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_score_that_is_not_finite_is_no_rank(value, go, tmp_path, monkeypatch):
    def score(_, encoded, queries):
        scores = encoded.users[queries.user] @ encoded.items.T
        scores[-1, 7] = value
        return scores

    monkeypatch.setattr(BPR, "score", score)
    with pytest.raises(
        NonFiniteScores, match=rf"BPR, epoch 0: the score of user \d+ for item 7 is {value}"
    ):
        go(tmp_path)
    result = read_result(tmp_path)
    assert (result["status"], result["metrics"], result["best_value"]) == ("failed", {}, None)


@pytest.fixture
def greedy(tmp_path):
    """A folder of data in which user 0 has every item, all but two in train."""
    folder = tmp_path / "sets" / "greedy"
    folder.mkdir(parents=True)
    rows = [(0, item, 0) for item in range(6)]
    rows += [(user, (user + step) % 6, step) for user in range(1, 5) for step in range(3)]
    lines = ["userID\titemID\tx_label", *("\t".join(map(str, row)) for row in rows)]
    (folder / "greedy.inter").write_text("\n".join(lines) + "\n")
    return (
        "data=folder",
        "data.name=greedy",
        f"data.root={tmp_path / 'sets'}",
        "evaluation.cutoffs=[2]",
        "monitor=val/recall@2",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
    )


def test_a_user_who_has_everything_cannot_be_trained_on(greedy, go, tmp_path):
    with pytest.raises(SettingError) as error:
        go(tmp_path / "run", "model=bpr", base=greedy)
    assert error.value.setting == "data.distribution"
    assert error.value.problem.startswith("user 0 has every item")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["most_pop", "ease", "random"])
def test_a_user_who_has_everything_does_not_trouble_a_closed_form(model, greedy, go, tmp_path):
    assert go(tmp_path / "run", f"model={model}", base=greedy)["status"] == "completed"


def test_an_ablation_of_another_model_is_one_line(command, tmp_path):
    message = command(*TINY, "ablation=mamex/mean_fusion", f"run_dir={tmp_path / 'run'}")
    assert (
        "ablation=mamex/mean_fusion: it is an ablation of model=mamex; remove model=bpr" in message
    )
    assert not (tmp_path / "run").exists()


def test_a_setting_of_another_group_is_named_whole(command, tmp_path):
    message = command("model=mamex", "model.top_k=3", f"run_dir={tmp_path / 'run'}")
    assert "model.top_k: no such setting; did you mean router_schedule.top_k" in message


def test_a_folder_of_data_without_a_name_is_one_line(command, tmp_path):
    message = command("model=bpr", "data=folder", f"run_dir={tmp_path / 'run'}")
    assert "data.name: a value is required; add data.name=" in message


@pytest.mark.parametrize("below", ["a_file/run", "a_file/deep/er/run"])
def test_a_folder_that_cannot_be_made_is_one_line(below, command, tmp_path):
    (tmp_path / "a_file").write_text("precious")
    message = command(*TINY, f"run_dir={tmp_path / below}")
    assert message.startswith("error: ")
    assert "a_file" in message
    assert (tmp_path / "a_file").read_text() == "precious"


@pytest.mark.skipif(sys.platform != "linux", reason="a folder where nobody may write")
def test_a_folder_without_write_permission_is_one_line(command):
    message = command(*TINY, "run_dir=/sys/mmrec")
    assert message.startswith("error: ")
    assert "/sys/mmrec" in message


def test_an_empty_folder_of_the_user_is_left_alone(command, tmp_path):
    (tmp_path / "kept").mkdir()
    command(*TINY, "seed=-1", f"run_dir={tmp_path / 'kept' / 'run'}")
    assert list(tmp_path.iterdir()) == [tmp_path / "kept"]
    assert not any((tmp_path / "kept").iterdir())


def test_a_run_that_is_there_already_is_one_line(command, go, tmp_path):
    go(tmp_path / "run", "model=most_pop", base=TINY[1:])
    message = command(*TINY, f"run_dir={tmp_path / 'run'}")
    assert "it already contains a run; use another run_dir" in message  # a closed form


def test_an_error_in_training_is_one_line_too(command, monkeypatch, tmp_path):
    monkeypatch.setattr(BPR, "losses", lambda self, _: {"bpr": self.user.weight.sum() * torch.nan})
    message = command(*TINY, f"run_dir={tmp_path / 'run'}")
    assert "the loss is not finite at epoch 0, step 0: bpr=nan" in message


def test_an_interruption_before_anything_has_begun_has_status_130():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        launch(interrupted, "config")
    assert stopped.value.code == 130


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(BPR, "losses", lambda *_: len(5))
    monkeypatch.setattr(sys, "argv", ["mmrec", *TINY, f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(TypeError, match=r"has no len\(\)"):
        main()
    assert read_result(tmp_path / "run")["error"] == "object of type 'int' has no len()"


def test_who_asks_for_a_traceback_gets_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["mmrec", *TINY, "seed=-1", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(ValueError, match="seed=-1") as raised:
        main()
    assert raised.traceback[-1].path.name == "build.py"
