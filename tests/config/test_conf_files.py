"""Every YAML composes, says what exists, and holds nothing that nobody reads."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Mapping

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from mmrec.config.schema import check_call, conf_dir

FILES = sorted(path.relative_to(conf_dir()) for path in conf_dir().glob("*/**/[!_]*.yaml"))
NEEDS = {"data/folder.yaml": ["data.name=mine"]}
NEEDS |= {"prepare/tables.yaml": ["prepare.name=mine", "prepare.interactions=mine.csv"]}
NEEDS |= {"prepare/folder.yaml": ["prepare.name=mine"]}
NEEDS |= {f"prepare/amazon{year}.yaml": ["prepare.category=Books"] for year in (2018, 2023)}
NEEDS |= {"upstream/dropoutnet.yaml": ["model=dropoutnet"]}
NEEDS |= {"upstream/run.yaml": ["upstream.run=outputs/mine"]}
NEEDS |= {f"{path}": ["sweep.study_name=mine"] for path in FILES if path.parent.name == "sweep"}
NEEDS |= {f"{path}": ["grid.name=mine"] for path in FILES if path.parent.name == "grid"}
DEFAULTS = OmegaConf.load(conf_dir() / "config.yaml").defaults
CHOSEN = {key for entry in DEFAULTS if OmegaConf.is_config(entry) for key in entry}
STRICT = ("model", "data", "optimizer", "trainer", "callbacks", "evaluation")


def nodes(config, path=""):
    """Every mapping with a target, and its place."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield path, config
        for key, value in config.items():
            yield from nodes(value, f"{path}.{key}" if path else key)
    elif isinstance(config, list):
        for place, value in enumerate(config):
            yield from nodes(value, f"{path}.{place}")


@pytest.fixture(params=FILES, ids=str, scope="module")
def plain(request, composed):
    """The whole configuration with one file chosen."""
    group, choice = request.param.parent.as_posix(), request.param.stem
    is_chosen = group in CHOSEN or group.startswith("hydra/")
    word = f"{group}={choice}" if is_chosen else f"+{group}={choice}"
    config = composed(word, *NEEDS.get(request.param.as_posix(), []))
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def test_every_file_composes_into_calls_that_can_be_made(plain):
    found = dict(nodes(plain))
    assert {"model", "data", "optimizer", "trainer", "evaluation"} <= found.keys()
    for path, node in found.items():
        target = get_object(node["_target_"])
        parameters = inspect.signature(target).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        unread = {key for key in node if not key.startswith("_")} - parameters.keys()
        assert not unread, f"{path}: {node['_target_']} does not read them"


def test_every_value_has_the_type_that_its_reader_declares(plain):
    for group in STRICT:
        check_call(plain[group], group)


def test_the_defaults_name_every_group():
    groups = {path.parts[0] for path in FILES}
    assert groups - CHOSEN <= {"hydra", "prepare"}  # chosen by their own words


def test_help_reads_no_heavy_library():
    code = """
import sys
sys.argv = ["mmrec", "--help"]
from mmrec.commands.run import main
try:
    main()
finally:
    heavy = {"torch", "lightning", "polars", "numpy", "scipy", "torchmetrics", "wandb", "optuna"}
    print("LOADED", sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "model: " in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED []"
