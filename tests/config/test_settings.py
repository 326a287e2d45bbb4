"""Each tuned experiment is what a contest runs, with the figures of its page in its comment."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from experiments.settings import CONTESTS, Tuned, first_table, tuned
from mmrec.config.schema import conf_dir

ALL = {settings.name: settings for settings in tuned()}
QUICK = ("lightgcn_softmax_tiktok", "mamex_softmax_scientific_cold")
OWN = ("lightgcn_baby_reference",)  # of a study that searches nothing


def test_there_is_a_file_for_each_search_and_no_other():
    names = {path.stem for path in (conf_dir() / "experiment").glob("*.yaml")}
    assert names == {*ALL, *OWN}
    assert len(ALL) == sum(1 for _ in tuned())  # no two have one name
    records = {path for contest in CONTESTS.values() for path in contest.chosen.rglob("*.yaml")}
    assert {settings.best for settings in ALL.values()} == records


@pytest.mark.parametrize("name", ALL)
def test_a_file_is_what_its_search_and_its_page_say(name):
    path = conf_dir() / "experiment" / f"{name}.yaml"
    assert path.read_text() == ALL[name].text(), "run python -m experiments.settings"


def same(composed, settings):
    """The configuration of an experiment, and that of the contest's command."""
    contest = settings.contest
    words = [
        f"hydra.searchpath=[file://{contest.chosen}]",
        f"experiment={settings.best.stem}",
        *contest.words(settings.entry, settings.data),
    ]
    plain = [
        OmegaConf.to_container(config, resolve=False)
        for config in (composed(f"experiment={settings.name}"), composed(*words))
    ]
    for config in plain:
        config["trainer"].pop("enable_progress_bar")
    return plain


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ALL]
)
def test_an_experiment_composes_to_what_the_contest_runs(composed, name):
    ours, theirs = same(composed, ALL[name])
    assert ours == theirs


def test_a_row_is_found_by_model_and_loss():
    rows = list(first_table("# x\n\n| model | a |\n|---|--:|\n| one, loss=bpr † | 1 |\n\n| z |"))
    assert rows == [{"model": "one, loss=bpr †", "a": "1"}]


def test_figures_are_those_of_the_page():
    assert "recall@20 0.2459 ± 0.0000" in Tuned("leaderboard", "ease", "scientific").figures()
    softmax = Tuned("leaderboard", "lightgcn_softmax", "tiktok").figures()
    assert "3 seeds: recall@20 0.1067 ± 0.0045, ndcg@20 0.0464 ± 0.0010" in softmax
    bpr = Tuned("leaderboard", "lightgcn", "tiktok").figures()
    assert "recall@20 0.0967 ± 0.0104" in bpr
    cold = Tuned("mamex", "mamex", "tiktok").figures()
    assert "5 draws of cold items: recall@20 0.0537 ± 0.0105" in cold


def test_a_model_that_the_page_lacks_has_no_figures():
    assert "no figures" in Tuned("leaderboard", "clcrec", "tiktok").figures()
