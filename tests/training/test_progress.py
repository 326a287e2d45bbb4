"""A run logs a card, then one line per validation; a terminal shows the same in a bar."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import polars as pl
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import OmegaConf

from mmrec.evaluation.protocol import Evaluation
from mmrec.models import BPR, EASE, ItemKNN, MostPop, SASRec
from mmrec.training import progress
from mmrec.training.build import build
from mmrec.training.card import buffer_values, card
from mmrec.training.progress import Progress, Standing, one_process_speaks
from mmrec.training.results import read_result, validate_result

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
)
LINE = re.compile(
    r"epoch (?P<epoch>\d+) +loss (?P<loss>[\d.]+)  val/recall@20 (?P<value>[\d.]+)  "
    r"best (?P<best>[\d.]+) \((?P<when>this one|epoch \d+)\) +"
    r"(?P<stops>early stopping in \d+ epochs?|early stopping now|no early stopping|last epoch) +"
    r"[\d.]+ s"
)


def lines(caplog):
    return [found.groupdict() for found in map(LINE.fullmatch, caplog.messages) if found]


@pytest.fixture
def spoken(run_words, caplog):
    """`spoken(folder, *words)`: the lines of a tiny run."""

    def go(folder, *words):
        caplog.clear()
        with caplog.at_level(logging.INFO, "mmrec"):
            run_words(folder, *TINY, *words)
        return lines(caplog)

    return go


def test_each_validation_has_a_line_with_the_values_of_the_table(spoken, tmp_path):
    found = spoken(tmp_path)
    table = pl.read_csv(tmp_path / "metrics.csv")
    assert [int(line["epoch"]) for line in found] == table["epoch"].to_list() == [0, 1, 2, 3]
    for line, row in zip(found, table.iter_rows(named=True), strict=True):
        assert line["loss"] == f"{row['train/loss']:.4f}"
        assert line["value"] == f"{row['val/recall@20']:.4f}"
    best = table["val/recall@20"].cum_max()
    assert [line["best"] for line in found] == [f"{value:.4f}" for value in best]
    here = [a == b for a, b in zip(best, table["val/recall@20"], strict=True)]
    assert found[0]["when"] == "this one"
    assert all(
        is_best for line, is_best in zip(found, here, strict=True) if line["when"] == "this one"
    )
    assert found[-1]["stops"] == "last epoch"


def test_lines_count_down_the_epochs_until_early_stopping(spoken, tmp_path):
    words = ("optimizer.lr=1e-12", "callbacks.early_stopping.patience=3", "trainer.max_epochs=40")
    found = spoken(tmp_path / "one", *words)  # nothing gets better
    assert [line["stops"] for line in found] == [
        "early stopping in 3 epochs",
        "early stopping in 2 epochs",
        "early stopping in 1 epoch",
        "early stopping now",
    ]
    assert {line["when"] for line in found[1:]} == {"epoch 0"}
    found = spoken(tmp_path / "two", *words, "trainer.check_val_every_n_epoch=2")
    assert [line["epoch"] for line in found] == ["1", "3", "5", "7"]
    assert found[0]["stops"] == "early stopping in 6 epochs"


def test_without_early_stopping_the_line_says_so(spoken, tmp_path):
    found = spoken(tmp_path, "callbacks=none", "trainer.max_epochs=2")
    assert [line["stops"] for line in found] == ["no early stopping", "last epoch"]


def test_turning_the_bar_off_keeps_the_lines(spoken, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mmrec.config.bars.in_terminal", lambda: True)
    assert len(spoken(tmp_path / "on")) == 4
    assert "\r" in capsys.readouterr().err
    assert len(spoken(tmp_path / "off", "trainer.enable_progress_bar=false")) == 4
    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_what_the_line_says(spoken, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mmrec.config.bars.in_terminal", lambda: True)
    found = spoken(tmp_path)
    shown = capsys.readouterr().err.split("\r")
    assert any(
        part.startswith("epoch 1") and f"val/recall@20 {found[0]['value']}" in part
        for part in shown
    )
    assert any("early stopping in 20 epochs" in part and "loss 0." in part for part in shown)
    assert shown[-1].strip() == ""  # removed at the end


def test_a_redirected_log_has_no_carriage_return(spoken, tmp_path, capsys):
    spoken(tmp_path)
    out, err = capsys.readouterr()
    assert "\r" not in out + err
    assert "%" not in err


def test_a_bar_of_ones_own_takes_the_place_of_ours(spoken, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mmrec.config.bars.in_terminal", lambda: True)
    own = "+callbacks.bar._target_=lightning.pytorch.callbacks.TQDMProgressBar"
    assert len(spoken(tmp_path, own)) == 4
    shown = "".join(capsys.readouterr())
    assert "Epoch 3" in shown
    assert "epoch 3, validation" not in shown


def test_a_resumed_run_remembers_its_best(spoken, tmp_path):
    spoken(tmp_path, "trainer.max_epochs=2")
    best = read_result(tmp_path)["best_value"]
    found = spoken(tmp_path, "trainer.max_epochs=3", "ckpt=last", "optimizer.lr=0.02")
    assert [line["epoch"] for line in found] == ["2"]
    assert float(found[0]["best"]) >= round(best, 4)


class Mute(LightningModule):
    """A module with nothing but a parameter, whose validations are set by hand."""

    def __init__(self, values):
        super().__init__()
        self.values, self.weight = iter(values), torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight**2 + batch.mean()

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log("val/recall@20", next(self.values))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.arange(4.0))

    val_dataloader = train_dataloader


@pytest.fixture
def fit(caplog):
    """`fit(values, **options)`: the lines of a training with the given validation values."""

    def go(values, *more, **options):
        trainer = Trainer(
            accelerator="cpu",
            callbacks=[*more, Progress("val/recall@20")],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )
        with caplog.at_level(logging.INFO, "mmrec"):
            trainer.fit(Mute(values))
        return lines(caplog)

    return go


pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|sync_dist)")


def test_validations_within_an_epoch_have_a_line_each(fit):
    values = [0.1, 0.3, 0.2, 0.25]
    found = fit(values, max_epochs=2, val_check_interval=2)
    assert [line["epoch"] for line in found] == ["0", "0", "1", "1"]
    assert [float(line["value"]) for line in found] == values
    assert [float(line["loss"]) for line in found] == [0.5, 1.5, 0.5, 1.5]  # of the steps so far
    assert [line["when"] for line in found[2:]] == ["epoch 0"] * 2


def test_early_stopping_has_counted_when_the_line_is_written(fit):
    stopping = EarlyStopping("val/recall@20", mode="max", patience=2)
    found = fit([0.3, 0.2, 0.4, 0.4, 0.1], stopping, max_epochs=9)
    assert [line["stops"] for line in found] == [
        "early stopping in 2 epochs",
        "early stopping in 1 epoch",
        "early stopping in 2 epochs",
        "early stopping in 1 epoch",
        "early stopping now",
    ]


def test_only_the_first_process_speaks(monkeypatch):
    logger = logging.getLogger("mmrec")
    monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(progress.rank_zero_only, "rank", 0)
    one_process_speaks()
    assert logger.isEnabledFor(logging.WARNING)
    monkeypatch.setattr(progress.rank_zero_only, "rank", 1)
    one_process_speaks()
    assert not logger.isEnabledFor(logging.WARNING)
    assert logger.isEnabledFor(logging.ERROR)
    logger.setLevel(logging.NOTSET)


def test_a_line_is_aligned_whatever_its_epoch():
    first = Standing(0, 0.5, "val/recall@20", 0.1, 0.1, 0, 20, 999, 1.0)
    later = Standing(123, 0.5, "val/recall@20", 0.1, 0.2, 99, 4, 876, 1.0)
    for text in ("loss", "val/", "best", "early", "1.0 s"):
        assert first.line().index(text) == later.line().index(text)


# The card


def rows(text):
    """The rows of a card by their labels; a row without one belongs to the row above."""
    found, label = {}, ""
    for line in text.splitlines():
        label = line[:14].strip() or label
        found.setdefault(label, []).append(line[14:])
    return found


@pytest.fixture
def described(composed, quiet_trainer):
    def build_card(model, corpus, *words, **options):
        plain = OmegaConf.to_container(composed(*words), resolve=True)
        return rows(card(model, corpus, plain, "outputs/here", quiet_trainer(**options)))

    return build_card


def test_the_card_says_what_is_trained_on_what(checkerboard, described):
    corpus = checkerboard(missing=8)
    found = described(BPR(corpus, dim=4), corpus, "seed=7", max_epochs=50)
    assert (found["users"], found["items"]) == (["102"], ["96"])
    assert found["interactions"] == ["816 train, 204 validation, 204 test"]
    assert found["modalities"] == [
        "visual: 8 features, 91.6 % of items",
        "textual: 9 features, 91.6 % of items",
    ]
    assert found["model"] == ["bpr, mmrec.models.bpr.BPR"]
    assert found["parameters"] == ["792"]
    assert found["seed"] == ["7"]
    assert found["device"] == ["cpu"]
    assert found["run folder"] == ["outputs/here"]
    (selection,) = found["selection"]
    assert "val/recall@20" in selection
    assert "at most 50 epochs" in selection


def test_the_card_says_what_is_ranked(checkerboard, described):
    corpus = checkerboard()
    expected = "all items are ranked, except the user's training items, cutoffs 5, 10, 20, 50"
    assert described(BPR(corpus, dim=4), corpus)["evaluation"] == [expected]
    model = BPR(corpus, dim=4)
    model.evaluation = Evaluation(seen="none", cutoffs=(3,))
    assert described(model, corpus)["evaluation"] == ["all items are ranked, cutoffs 3"]
    cold = replace(corpus, cold=torch.arange(corpus.n_items) % 3, warm=corpus.test)
    (found,) = described(MostPop(cold), cold)["evaluation"]
    assert found.startswith("the cold-start items are ranked")
    model = SASRec(corpus, dim=8, heads=1, layers=1, max_length=5)
    (found,) = described(model, corpus)["evaluation"]
    assert found.endswith("test histories from train and validation")


def test_the_card_names_content_that_was_replaced(checkerboard, described):
    corpus = checkerboard()
    found = described(BPR(corpus, dim=4), corpus, "+data.corrupt.visual=0.25")["modalities"]
    assert found[0].endswith("25 % of these replaced by noise")
    assert "replaced" not in found[1]
    words = ("+data.corrupt.textual=0.5", "data.corrupt_how=shuffle")
    found = described(BPR(corpus, dim=4), corpus, *words)["modalities"]
    assert found[1].endswith("50 % of these replaced by rows of other items")
    (found,) = described(BPR(corpus, dim=4), corpus, "+data.corrupt.categories=0.1")["categories"]
    assert found == "10 % of labelled items have those of other items"
    assert "categories" not in described(BPR(corpus, dim=4), corpus)


def test_one_epoch_is_in_the_singular(checkerboard, described):
    corpus = checkerboard()
    (selection,) = described(BPR(corpus, dim=4), corpus, max_epochs=1)["selection"]
    assert "at most 1 epoch," in f"{selection},"


def test_full_coverage_is_said_only_of_all_items(checkerboard, described):
    whole = checkerboard()
    assert described(MostPop(whole), whole)["modalities"][0].endswith("100 % of items")
    none = checkerboard(modalities=())
    assert described(MostPop(none), none)["modalities"] == ["none"]


def test_a_model_in_closed_form_has_no_parameters_and_its_true_size(checkerboard, described):
    corpus = checkerboard()
    found = described(EASE(corpus), corpus)
    assert found["parameters"] == ["0 (closed form, not trained)"]
    history = len(corpus.train) + corpus.n_users + 1
    assert found["buffers"][0].startswith(f"{corpus.n_items**2 + history:,} values")
    assert "not trained" in found["selection"][0]


def test_the_size_of_a_sparse_buffer_is_its_non_zeros(checkerboard):
    corpus = checkerboard()
    model = ItemKNN(corpus, k=3)
    entries = int((model.similarity.to_dense() != 0).sum())
    assert buffer_values(model) == entries + len(corpus.train) + corpus.n_users + 1
    wrapped = torch.nn.Module()
    wrapped.register_buffer("coo", torch.eye(5).to_sparse())
    wrapped.register_buffer("same", wrapped.coo)
    assert buffer_values(wrapped) == 5


def test_the_result_holds_the_size_and_older_results_stay_valid(run_words, tmp_path):
    result = run_words(tmp_path, "model=ease", *(w for w in TINY if not w.startswith("model")))
    assert result["parameters"] == 0
    assert result["buffers"] > result["data_card"]["items"] ** 2
    del result["buffers"]
    validate_result(result)


def test_the_card_of_cold_items_counts_the_test_of_warm_ones(run_words, tmp_path, caplog):
    words = ["model=most_pop", *(w for w in TINY if not w.startswith("model"))]
    with caplog.at_level(logging.INFO, "mmrec"):
        run_words(
            tmp_path,
            *words,
            "data=planted_cold",
            "evaluation.cutoffs=[10]",
            "monitor=val/recall@10",
        )
    (message,) = [text for text in caplog.messages if "run folder" in text]
    found = rows(message)
    config = OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml"))
    corpus = build(config)[0].corpus
    assert f"{len(corpus.warm):,} test of warm items" in found["interactions"][0]
    assert any("most_pop does not use item content" in message for message in caplog.messages)
