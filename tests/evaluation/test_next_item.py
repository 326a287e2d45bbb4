"""The next-item protocol: what test queries know, what is masked, and where it is written down."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.data import DataError, Interactions, PlantedData, Source, split_corpus
from mmrec.data.corpus import together
from mmrec.data.splits import needed_roles
from mmrec.evaluation import RankingMetric
from mmrec.evaluation.protocol import Evaluation
from mmrec.models import BPR, SASRec
from mmrec.training.build import check_config
from mmrec.training.provenance import config_hash


@pytest.mark.parametrize(
    ("needs", "seen", "history"), [(True, "none", "train+val"), (False, "train", "train")]
)
def test_what_is_left_open_follows_from_the_model(needs, seen, history):
    resolved = Evaluation().resolved(needs)
    assert (resolved.seen, resolved.history) == (seen, history)
    asked = Evaluation(seen="train+val", history="train").resolved(needs)
    assert (asked.seen, asked.history) == ("train+val", "train")


def test_a_model_resolves_the_evaluation_that_it_is_given(checkerboard):
    corpus = checkerboard()
    assert SASRec(corpus).evaluation.card(corpus) == {
        "seen": "none",
        "candidates": "all",
        "history": "train+val",
    }
    assert BPR(corpus).evaluation.card(corpus)["history"] == "train"


def test_the_configuration_of_a_run_says_what_was_chosen(composed):
    general = check_config(composed("model=lightgcn"))["evaluation"]
    assert general["seen"] == "train"
    assert "history" not in general
    sequential = check_config(composed("model=sasrec"))["evaluation"]
    assert (sequential["seen"], sequential["history"]) == ("none", "train+val")
    shorter = check_config(composed("model=sasrec", "evaluation.history=train"))["evaluation"]
    assert shorter["history"] == "train"
    compared = check_config(composed("model=lightgcn", "evaluation.history=train+val"))[
        "evaluation"
    ]
    assert compared["history"] == "train+val"


def test_runs_from_before_the_protocol_keep_their_hash(composed):
    now = check_config(composed("model=lightgcn"))
    before = {**now, "evaluation": {**now["evaluation"], "seen": "train"}}
    assert config_hash(now) == config_hash(before)


REPEATS = [(0, item, time) for time, item in enumerate([0, 1, 2, 3, 1, 2])]
OTHERS = [(1, item, time) for time, item in enumerate([3, 0, 1, 2])] + [(2, 0, 0), (2, 1, 1)]


def source():
    user, item, time = (torch.tensor(x) for x in zip(*REPEATS, *OTHERS, strict=True))
    return Source("shop", 3, 4, Interactions(user, item, time), "f" * 64)


def test_repeated_pairs_are_kept_for_sequences_and_merged_for_other_models(caplog):
    caplog.set_level(logging.INFO)
    kept = split_corpus(source(), split="leave_one_out", keep_repeats=True)
    assert kept.train.select(kept.train.user == 0).item.tolist() == [0, 1, 2, 3]
    assert kept.val.select(kept.val.user == 0).item.tolist() == [1]
    assert kept.test.select(kept.test.user == 0).item.tolist() == [2]
    assert any("kept 2 repeated" in message for message in caplog.messages)
    assert any("1 users with fewer than three" in message for message in caplog.messages)
    caplog.clear()
    merged = split_corpus(source(), split="leave_one_out")
    parts = merged.train, merged.val, merged.test
    assert [p.select(p.user == 0).item.tolist() for p in parts] == [[0, 1], [2], [3]]
    assert any("merged 2 repeated" in message for message in caplog.messages)
    assert kept.split != merged.split


def test_users_with_two_interactions_stay_in_train():
    corpus = split_corpus(source(), split="leave_one_out", keep_repeats=True)
    assert corpus.train.select(corpus.train.user == 2).item.tolist() == [0, 1]
    assert not (corpus.val.user == 2).any()


def test_equal_times_keep_the_order_of_the_file():
    user, item = torch.zeros(5, dtype=torch.int64), torch.tensor([3, 1, 0, 2, 4])
    data = Source("ties", 1, 5, Interactions(user, item, torch.zeros(5).long()), "f" * 64)
    corpus = split_corpus(data, split="leave_one_out", keep_repeats=True)
    grouped = corpus.train.by_user(1)
    assert (grouped.item.tolist(), corpus.val.item.tolist(), corpus.test.item.tolist()) == (
        [3, 1, 0],
        [2],
        [4],
    )


def test_a_held_out_item_counts_once_however_often_it_is_held_out():
    corpus = split_corpus(source(), split="leave_one_out", keep_repeats=True)
    twice = replace(corpus, test=together(corpus.test, corpus.test))
    scores = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    found = []
    for each in (corpus, twice):
        metric = RankingMetric(each, "test", Evaluation(cutoffs=(2,), seen="none"), detailed=False)
        metric.update(metric.users, scores[metric.users].clone())
        found.append(metric.compute())
    assert found[0] == found[1]


@pytest.mark.parametrize("split", ["random_per_user", "leave_one_out", "temporal", "official"])
def test_a_model_of_sequences_refuses_data_without_an_order(split):
    class Unordered(PlantedData):
        def source(self):
            made = super().source()
            return replace(made, interactions=replace(made.interactions, time=None))

    data = Unordered(split=split)
    data.ordered = True
    with pytest.raises(DataError) as error:
        _ = data.corpus
    assert "data.columns.time" in error.value.hint
    assert {"time", "position"} <= {*needed_roles("official", None, ordered=True)}
    assert needed_roles("official", None) == ("label",)


def test_a_held_out_item_is_a_candidate_though_it_was_seen_before():
    corpus = split_corpus(source(), split="leave_one_out", keep_repeats=True)
    scores = torch.zeros(3, 4)
    scores[0, 2] = 1.0  # held out for test, and in train
    metric = RankingMetric(corpus, "test", Evaluation(cutoffs=(1,), seen="train"), detailed=False)
    metric.update(torch.tensor([0]), scores[:1].clone())
    assert metric.compute()["recall@1"] == 1.0


def test_models_of_sequences_and_others_can_have_the_same_held_out_interactions():
    class Given(PlantedData):
        def source(self):
            return source()

    general, sequential = (Given(split="leave_one_out", keep_repeats=k) for k in (None, False))
    sequential.ordered = True
    one, other = general.corpus, sequential.corpus
    assert one.card() == other.card()
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(one, part).item, getattr(other, part).item)
    kept = Given(split="leave_one_out")
    kept.ordered = True
    assert kept.corpus.card() != one.card()


def test_repeats_are_kept_for_models_of_sequences_only():
    with pytest.raises(SettingError) as error:
        _ = PlantedData(keep_repeats=True).corpus
    assert error.value.setting == "data.keep_repeats"
