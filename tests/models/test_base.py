from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from mmrec.data import InteractionData, Queries
from mmrec.evaluation import NonFiniteScores
from mmrec.evaluation.protocol import Evaluation
from mmrec.models import VBPR, GatedLightGCN, Recommender
from mmrec.models.base import NonFiniteLoss


class Toy(Recommender):
    """Its loss in step n of an epoch is `values[n]`; its scores are all `level`."""

    def __init__(self, corpus, values=(1.0, 2.0, 6.0)):
        super().__init__(corpus)
        self.values = values
        self.level = 1.0
        self.encoded = 0
        self.step = 0
        self.weight = nn.Parameter(torch.ones(()))
        self.evaluation = Evaluation(cutoffs=(2,))

    def encode(self):
        self.encoded += 1

    def losses(self, batch):
        value = self.values[self.step % len(self.values)]
        self.step += 1
        return {"fit": 0 * self.weight + value, "size": 0 * self.weight + 0.5}

    def score(self, encoded, queries):
        return torch.full((len(queries.user), self.corpus.n_items), self.level)


@pytest.fixture
def fit(quiet_trainer, small_corpus):
    def run(model, epochs=1):
        data = InteractionData(batch_size=10, eval_batch_size=2)
        data.corpus = small_corpus()
        trainer = quiet_trainer(max_epochs=epochs)
        trainer.fit(model, data)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    return run


def test_each_term_and_their_sum_are_logged_as_means_over_the_epoch(fit, small_corpus):
    metrics = fit(Toy(small_corpus()), epochs=2)  # 28 pairs, 3 batches
    assert metrics["train/fit"] == pytest.approx(3.0)
    assert metrics["train/size"] == pytest.approx(0.5)
    assert metrics["train/loss"] == pytest.approx(3.5)


def test_the_catalogue_is_encoded_once_per_evaluation(fit, small_corpus):
    model = Toy(small_corpus())  # 7 users in 4 blocks
    fit(model, epochs=3)
    assert model.encoded == 3


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_names_term_epoch_and_step(fit, small_corpus, bad):
    message = rf"epoch 0, step 1: fit={bad}, size=0\.5; lower optimizer\.lr"
    with pytest.raises(NonFiniteLoss, match=message):
        fit(Toy(small_corpus(), values=(1.0, bad, 1.0)))


def test_scores_that_are_not_finite_name_model_and_epoch(fit, small_corpus):
    model = Toy(small_corpus())
    model.level = torch.nan
    with pytest.raises(NonFiniteScores, match="Toy, epoch 0: "):
        fit(model)


def test_what_a_model_must_define_is_said(small_corpus):
    model = Recommender(small_corpus())
    with pytest.raises(TypeError, match=r"Recommender .* cannot be trained"):
        model.losses(None)
    with pytest.raises(TypeError, match=r"Recommender\.encode\(\) returned NoneType"):
        model.score(None, None)
    assert model.item_weights() == {}


@pytest.mark.parametrize("kind", [VBPR, GatedLightGCN])
def test_parameters_that_an_earlier_version_named_otherwise_are_loaded(small_corpus, kind):
    corpus = small_corpus()
    saved, opened = kind(corpus, dim=4), kind(corpus, dim=4)
    checkpoint = {"state_dict": saved.state_dict()}
    saved.on_save_checkpoint(checkpoint)
    state = checkpoint["state_dict"]
    for name in [*state]:
        state[re.sub(r"^project\.(\d+)\.", r"project.each.\1.linear.", name)] = state.pop(name)
    assert "project.each.1.linear.weight" in state
    opened.on_load_checkpoint(checkpoint)
    opened.load_state_dict(checkpoint["state_dict"])
    queries = Queries(torch.arange(corpus.n_users))
    first, second = (m.eval().score(m.encode(), queries) for m in (saved, opened))
    assert torch.equal(first, second)


def test_a_trainer_without_a_data_module_is_named(small_corpus, quiet_trainer):
    batches = [torch.zeros(1)]
    with pytest.raises(TypeError, match=r"Toy needs an InteractionData module, found"):
        quiet_trainer(max_epochs=1).validate(Toy(small_corpus()), batches)
