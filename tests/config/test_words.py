"""Words reach Hydra so that ids, names, tags and paths stay as they were typed."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch.loggers import TensorBoardLogger

from mmrec.commands.evaluate import evaluate
from mmrec.commands.explain import explain
from mmrec.commands.prepare import prepare
from mmrec.commands.recommend import recommend
from mmrec.commands.report import report
from mmrec.commands.run import main
from mmrec.config.errors import SettingError
from mmrec.config.words import (
    as_text,
    folders_first,
    is_text,
    prepared,
    refuse_numbers,
    spelled_out,
)
from mmrec.data import Columns, FolderData, PlantedData
from mmrec.data.prepare import Amazon2014, Amazon2023, MicroLens, MovieLens, ProcessedFolder, Tables
from mmrec.search.grid import GridSettings
from mmrec.search.settings import Settings
from mmrec.search.space import parse
from mmrec.training.callbacks import EpochTable
from mmrec.training.loggers import MLflow, WandB


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("model=a --config-dir mine seed=1", "--config-dir mine model=a seed=1"),
        ("-m model=a -cd mine", "--config-dir mine -m model=a"),
        ("model=a --config-dir", "model=a"),
        (
            "--config-dir /a --config-dir /b model=a -cd c",
            "--config-dir c hydra.searchpath=['file:///b','file:///a'] model=a",
        ),
        ("-m model=a", "-m model=a"),
        ("model=a -m seed=1,2", "-m model=a seed=1,2"),
    ],
)
def test_settings_may_stand_on_both_sides_of_options(words, expected):
    assert folders_first(words.split()) == expected.split()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("run=2026_11_29", "run='2026_11_29'"),
        ("run_dir=1e3", "run_dir='1e3'"),
        ("data.name=-1.5", "data.name='-1.5'"),
        ("data.name=true", "data.name='true'"),
        ("ckpt=2026", "ckpt='2026'"),
        ("sweep.study_name=2026_11_29", "sweep.study_name='2026_11_29'"),
        ("users=7", "users='7'"),
        ("users=[1_000]", "users=['1_000']"),
        ("users=[1_000, null, inf, 'x', a b]", "users=['1_000', 'null', 'inf', 'x', a b]"),
        ("+data.root=2026", "+data.root='2026'"),
        ("++logger.wandb.tags=[1e5,b]", "++logger.wandb.tags=['1e5',b]"),
        ("data.columns.user=12", "data.columns.user='12'"),
        ("data.columns={user: 12, time: null}", "data.columns={user: '12', time: null}"),
        ("data={name: 1e5, k_core: 10}", "data={name: '1e5', k_core: 10}"),
        ("data.name=a,1_000", "data.name=a,'1_000'"),
        ("data.name=choice(a,1_000)", "data.name=choice(a,'1_000')"),
        ("users=[str(1_000)]", "users=[str('1_000')]"),
        ("experiment=1_000", "experiment='1_000'"),
        ("sweep/sampler@sweep.sampler=7", "sweep/sampler@sweep.sampler='7'"),
        ("+data.where.zip=[1_000,null]", "+data.where.zip=['1_000',null]"),
        ("grid.ablations=[1_0]", "grid.ablations=['1_0']"),
        ("users=[ann,zoë, 1_000]", "users=['ann','zoë','1_000']"),
        ("users=[O'Brien]", r"users=['O\'Brien']"),
        ("users=['O'Neill']", r"users=['O\'Neill']"),
        ("users=['a b',x=y,1+1]", "users=['a b','x=y','1+1']"),
    ],
)
def test_text_that_looks_like_a_number_is_quoted(word, expected):
    assert as_text(word) == expected
    assert as_text(expected) == expected


@pytest.mark.parametrize(
    "word",
    [
        *("items=a", "items=null", "items='7'", "seed=7", "users=", "items", "--help", "-m"),
        *("trainer.max_epochs=1_000", "grid.ablations=true", "run_dir=[", "data.name=range(1,3)"),
        *("optimizer.lr=1e-3,1e-4", "data.temporal_cutoffs=[0.8,0.9]", "~callbacks"),
    ],
)
def test_other_words_stay_as_they_are(word):
    assert as_text(word) == word


def test_text_stays_text_in_every_run_of_a_multirun():
    words = prepared(["data.modalities=[1_000,b]", "data.name=choice(1e5,x)", "model.dim=1_000"])
    [runs] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
    assert runs == [
        ["data.modalities=['1_000',b]", "data.name='1e5'", "model.dim=1000"],
        ["data.modalities=['1_000',b]", "data.name=x", "model.dim=1000"],
    ]


def test_text_stays_text_in_a_search_or_grid():
    params = {"data.name": "choice(1_000, b)", "data.root": "1e5"}
    space = parse(params, ["data.modalities=['1_0']"], None)
    assert space.grid()["data.name"] == ["1_000", "b"]
    words = space.words({"data.name": "1_000"})
    assert words == ["data.root='1e5'", "data.modalities=['1_0']", "data.name='1_000'"]
    with pytest.raises(SettingError) as error:
        parse({"data.name": 1000}, [], None)
    assert (error.value.setting, error.value.value) == ("data.name", 1000)


@pytest.mark.parametrize(
    ("config", "setting", "value"),
    [
        ({"data": {"name": 1000}}, "data.name", 1000),
        ({"data": {"columns": {"user": True}}}, "data.columns.user", True),
        ({"logger": {"wandb": {"tags": ["a", 1e5]}}}, "logger.wandb.tags", 1e5),
        ({"grid": {"ablations": [10]}}, "grid.ablations", 10),
        ({"data": {"where": {"event": 10}}}, "data.where.event", 10),
        ({"data": {"where": {"event": ["a", 10]}}}, "data.where.event", 10),
    ],
)
def test_a_number_from_yaml_is_refused_where_text_is_expected(config, setting, value):
    with pytest.raises(SettingError) as error:
        refuse_numbers(config)
    assert (error.value.setting, error.value.value) == (setting, value)
    assert error.value.expected.startswith("text")
    assert "quote" in error.value.hint


def test_numbers_and_text_from_yaml_are_accepted_where_they_belong():
    refuse_numbers({"seed": 1, "data": {"name": "1_000", "k_core": 5, "columns": {"time": None}}})
    refuse_numbers({"data": {"where": {"rating": "5", "sold": ["true", None]}}})
    refuse_numbers({"grid": {"ablations": True}, "users": None, "by": ["model.dim"]})


def test_a_number_in_a_file_of_configuration_names_the_setting(in_process, tmp_path):
    (tmp_path / "mine/logger").mkdir(parents=True)
    (tmp_path / "mine/logger/own.yaml").write_text(
        "csv:\n  _target_: mmrec.training.callbacks.EpochTable\n  path: 1_000\n"
    )
    said = in_process(main, "--config-dir", "mine", "logger=own", "model=random", "trainer=cpu")
    assert isinstance(said, str)
    assert said.startswith("error: logger.csv.path=1000: expected text")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=choice(null,1.0)", "a=null,1.0"),
        ("a=choice(null)", "a=null"),
        ("a=choice(true,NULL,'x)')", "a=true,NULL,'x)'"),
        ("a=choice([null],'1')", "a=[null],'1'"),
        *((word, word) for word in ("a=choice(1,2)", "a=null", "a", "a=tag(log,choice(null,1))")),
    ],
)
def test_choices_with_null_or_quotes_become_a_list(word, expected):
    assert spelled_out(word) == expected


def text_in(hint) -> tuple[bool, bool]:
    """Whether a hint allows text, but no number, as a value; and as an element of a list."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    value = bool({str, Path} & {*kinds}) and not {int, float, bool} & {*kinds}
    lists = [kind for kind in kinds if get_origin(kind) in (list, Sequence)]
    return value, any(str in text_kinds(kind) for kind in lists)


def text_kinds(kind) -> set[type]:
    [element] = get_args(kind)
    return {*(get_args(element) or (element,))} - {Literal}


@pytest.mark.parametrize(
    ("prefix", "called"),
    [
        *(("", command) for command in (evaluate, explain, prepare, recommend, report)),
        *(("data.", data) for data in (FolderData, PlantedData, Amazon2014, Amazon2023)),
        *(("data.", data) for data in (MicroLens, MovieLens, ProcessedFolder, Tables)),
        ("data.columns.", Columns),
        *(("logger.x.", logger) for logger in (EpochTable, MLflow, WandB, TensorBoardLogger)),
        *(("sweep.", Settings), ("hydra.sweeper.", Settings)),
        *(("grid.", GridSettings), ("hydra.sweeper.", GridSettings)),
    ],
)
def test_every_setting_whose_type_is_text_is_known(prefix, called):
    hints = get_type_hints(called.__init__ if isinstance(called, type) else called)
    for name, hint in hints.items():
        value, element = text_in(hint)
        if name in ("return", "trial"):
            continue
        name = name.replace("data_root", "data.root")  # the setting of this keyword
        if value:
            assert is_text(f"{prefix}{name}"), name
        if element:
            assert is_text(f"{prefix}{name}", element=True), name
