"""Settings that need more memory than there is end in one line that names their groups."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from mmrec.build import build, check
from mmrec.config import ConfigError
from mmrec.errors import memory_suffices
from mmrec.results import ResultError
from mmrec.run import run
from mmrec.runs import open_run

SMALL = ("data.world.users=60", "data.world.items=60", "model=bpr", "trainer=cpu")
SMALL += ("trainer.enable_progress_bar=false", "trainer.max_epochs=1")
SAID = r"model.* data.* memory"
LARGE = ["model.dim=10000000000", "data.world.users=10000000000000", "data.negatives=10000000000"]


@pytest.mark.parametrize("word", LARGE)
def test_a_run_says_that_its_settings_need_too_much_memory(composed, tmp_path, word):
    with pytest.raises(ConfigError, match=SAID) as refused:
        run(composed(*SMALL, word, f"run_dir={tmp_path / 'run'}"), [])
    assert "\n" not in str(refused.value)


def test_building_says_it_too(composed, tmp_path):
    with pytest.raises(ConfigError, match=SAID):
        build(check(composed(*SMALL, LARGE[0], f"run_dir={tmp_path / 'run'}")))


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


@pytest.mark.parametrize(
    "make", [lambda: torch.empty(2**62), lambda: torch.empty(2**40, 2**40), lambda: [0] * 2**60]
)
def test_each_kind_of_error_about_memory_is_known(make):
    with pytest.raises(ConfigError, match=SAID), memory_suffices(ConfigError):
        make()


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape"), memory_suffices(ConfigError):
        raise RuntimeError("shape")
