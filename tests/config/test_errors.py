"""Settings that need more memory than there is end in one line that names their groups."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from mmrec.commands.evaluate import evaluate
from mmrec.commands.explain import explain
from mmrec.commands.recommend import recommend
from mmrec.commands.run import run
from mmrec.commands.similar import similar
from mmrec.config.errors import SettingError, memory_suffices
from mmrec.models import BPR, GatedLightGCN
from mmrec.training.build import build, check_config
from mmrec.training.open_run import open_run
from mmrec.training.results import ResultError

SMALL = ("data.world.users=60", "data.world.items=60", "model=bpr", "trainer=cpu")
SMALL += ("trainer.enable_progress_bar=false", "trainer.max_epochs=1")
SAID = r"model.* data.* memory"


def assert_groups_named(error):
    assert error.setting is None
    assert error.problem.startswith("the settings of model and data need more memory")
    assert error.hint.startswith("lower sizes such as model.dim, ")
    assert "data.eval_batch_size" in error.hint


LARGE = ["model.dim=10000000000", "data.world.users=10000000000000", "data.negatives=10000000000"]


@pytest.mark.parametrize("word", LARGE)
def test_a_run_says_that_its_settings_need_too_much_memory(composed, tmp_path, word):
    with pytest.raises(SettingError) as refused:
        run(composed(*SMALL, word, f"run_dir={tmp_path / 'run'}"), [])
    assert_groups_named(refused.value)
    assert "\n" not in str(refused.value)


def test_building_says_it_too(composed, tmp_path):
    with pytest.raises(SettingError) as refused:
        build(check_config(composed(*SMALL, LARGE[0], f"run_dir={tmp_path / 'run'}")))
    assert_groups_named(refused.value)


def test_a_run_that_needs_too_much_memory_does_not_open(composed, tmp_path):
    run(composed(*SMALL, f"run_dir={tmp_path}"), [])
    path = tmp_path / "config.yaml"
    before = OmegaConf.load(path)
    for place, value in (("model.dim", 10**10), ("data.world.users", 10**13)):
        config = before.copy()
        OmegaConf.update(config, place, value)
        OmegaConf.save(config, path)
        with pytest.raises(ResultError, match=rf"config\.yaml: .*{SAID}") as refused:
            open_run(tmp_path)
        assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def gated(composed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gated") / "run"
    words = ("model=gated_lightgcn", f"run_dir={folder}")
    run(composed(*SMALL, *words), [])
    return folder


@pytest.mark.parametrize(
    ("command", "settings", "method", "setting", "hint"),
    [
        (evaluate, {"eval_batch_size": 900}, "score", "eval_batch_size", "lower it"),
        (evaluate, {}, "score", "eval_batch_size", "lower it"),
        (recommend, {"block": 900}, "score", "block", "lower it"),
        (similar, {"block": 900}, "item_similarity", "block", "lower it"),
        (
            explain,
            {"users": [1, 2]},
            "pair_weights",
            "run",
            "lower k=10, or the number of users=2",
        ),
    ],
)
def test_a_command_names_the_setting_to_lower(
    gated, monkeypatch, command, settings, method, setting, hint
):
    def too_large(*_):
        return torch.empty(2**62)

    monkeypatch.setattr(GatedLightGCN, method, too_large)
    with pytest.raises(SettingError) as refused:
        command(run=gated, **settings)
    value = {"run": gated, "eval_batch_size": 512, **settings}[setting]
    assert (refused.value.setting, refused.value.value) == (setting, value)
    assert "more memory than there is" in refused.value.problem
    assert refused.value.hint == hint
    assert "\n" not in str(refused.value)


def test_a_run_names_the_size_of_its_rankings(composed, tmp_path, monkeypatch):
    monkeypatch.setattr(BPR, "score", lambda *_: torch.empty(2**62))
    with pytest.raises(SettingError) as refused:
        run(composed(*SMALL, f"run_dir={tmp_path / 'run'}"), [])
    assert_groups_named(refused.value)


def test_a_block_larger_than_the_machine_can_count_is_all(gated, tmp_path):
    for command, name in ((recommend, "users"), (similar, "items")):
        first, second = tmp_path / "first.csv", tmp_path / "second.csv"
        command(run=gated, block=10**30, output=str(first), **{name: [1, 2, 3]})
        command(run=gated, block=3, output=str(second), **{name: [1, 2, 3]})
        assert first.read_text() == second.read_text()
    assert evaluate(run=gated, eval_batch_size=10**30)["differences"] == {}


@pytest.mark.parametrize(
    "make", [lambda: torch.empty(2**62), lambda: torch.empty(2**40, 2**40), lambda: [0] * 2**60]
)
def test_each_kind_of_error_about_memory_is_known(make):
    with pytest.raises(SettingError) as refused, memory_suffices(SettingError):
        make()
    assert_groups_named(refused.value)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape"), memory_suffices(SettingError):
        raise RuntimeError("shape")
