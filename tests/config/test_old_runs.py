"""Removed settings are dropped only where they hold the value that is still implemented."""

from __future__ import annotations

from inspect import signature

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from mmrec import models
from mmrec.config.old_runs import (
    ADDED,
    REMOVED,
    REMOVED_CHOICES,
    rename_parameters,
    unsupported,
    without_added,
    without_removed,
)
from mmrec.config.schema import conf_dir
from mmrec.training.provenance import config_hash

MAGNET = {"_target_": "mmrec.models.MAGNET", "dim": 8, "content": "both"}


def test_removed_settings_with_the_current_behaviour_are_dropped():
    config = {"model": {**MAGNET, "hidden": 0, "agreement": "cosine"}, "seed": 3}
    assert without_removed(config) == {"model": MAGNET, "seed": 3}
    assert not list(unsupported(without_removed(config)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", 5), ("hidden", False), ("agreement", None), ("content", "gated")],
)
def test_other_values_are_kept_and_reported(name, value):
    config = {"model": {**MAGNET, name: value}}
    assert without_removed(config) == config
    assert list(unsupported(config)) == [(f"model.{name}", value)]


def test_settings_of_other_classes_are_left_alone():
    config = {"model": {"_target_": "mine.Model", "hidden": 0, "content": "gated"}, "data": None}
    assert without_removed(config) == config
    assert not list(unsupported(config))


def test_the_tables_hold_nothing_that_exists():
    for target, settings in REMOVED.items():
        assert not settings.keys() & signature(get_object(target)).parameters.keys()
    for target, settings in REMOVED_CHOICES.items():
        assert settings.keys() <= signature(get_object(target)).parameters.keys()


def test_old_parameters_are_found_under_their_new_names():
    class Mine(models.MAGNET):
        pass

    old = {"node.weight": 1, "contents.0.gate": 2, "mix.delta": 3, "channels.behaviour.gate": 4}
    new = {
        "channels.node.weight": 1,
        "channels.contents.0.gate": 2,
        "mix.delta": 3,
        "channels.behaviour.gate": 4,
    }
    for kind in (models.MAGNET, Mine):
        assert rename_parameters(old, kind.__mro__) == new
    assert rename_parameters(old, models.LightGCN.__mro__) == old


def test_added_settings_that_mean_as_before_change_no_hash():
    before = {"data": {"name": "mine"}, "seed": 3}
    after = {"data": {"name": "mine", "corrupt_how": "noise"}, "seed": 3}
    assert without_added(after) == before
    assert without_added({"data.corrupt_how": "noise", "seed": 3}) == {"seed": 3}
    assert config_hash(after) == config_hash(before)
    other = {"data": {"name": "mine", "corrupt_how": "shuffle"}, "seed": 3}
    assert without_added(other) == other
    assert config_hash(other) != config_hash(before)


def test_added_settings_have_the_default_that_means_as_before():
    plain = OmegaConf.load(conf_dir() / "data" / "_base.yaml")
    for name, value in ADDED.items():
        group, setting = name.split(".")
        assert group == "data"
        assert plain[setting] == value
