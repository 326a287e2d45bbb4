"""A run folder opens to the model that was trained; a broken or a hostile one is refused."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import random
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from omegaconf import OmegaConf

import mmrec.commands.evaluate
import mmrec.commands.recommend
from mmrec.commands.evaluate import evaluate
from mmrec.commands.report import report
from mmrec.commands.run import run
from mmrec.config.errors import SettingError
from mmrec.data import DataError
from mmrec.data.datamodule import QueryLoader
from mmrec.nn import fused_ranking, ranking
from mmrec.training.open_run import open_run, scored
from mmrec.training.results import ResultError, read_result

TINY = ("trainer=cpu", "trainer.max_epochs=2", "trainer.enable_progress_bar=false")
WORLD = ("data.world.users=60", "data.world.items=60", "data.world.widths=4")


@pytest.fixture(scope="module")
def finished(composed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lightgcn"
    run(composed("model=lightgcn", "model.dim=8", *WORLD, *TINY, f"run_dir={folder}"), [])
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy, to be spoilt."""
    return shutil.copytree(finished, tmp_path / "copied")


@pytest.fixture(scope="module")
def magnet_run(composed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "magnet"
    run(composed("model=magnet", "model.dim=8", *WORLD, *TINY, f"run_dir={folder}"), [])
    return folder


@pytest.fixture
def magnet_folder(magnet_run, tmp_path):
    return shutil.copytree(magnet_run, tmp_path / "magnet")


def test_a_run_with_removed_settings_at_their_defaults_opens(magnet_folder):
    expected = open_run(magnet_folder)
    change(magnet_folder, "model.hidden", 0)
    change(magnet_folder, "model.agreement", "cosine")
    opened = open_run(magnet_folder)
    assert opened.config == expected.config
    torch.testing.assert_close(opened.model.state_dict(), expected.model.state_dict())


def test_a_checkpoint_with_the_old_names_of_parameters_opens(magnet_folder):
    expected = open_run(magnet_folder).model.state_dict()
    path = magnet_folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    state = {k.removeprefix("channels."): v for k, v in checkpoint["state_dict"].items()}
    assert "node.weight" in state
    torch.save(checkpoint | {"state_dict": state}, path)
    torch.testing.assert_close(open_run(magnet_folder).model.state_dict(), expected)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("hidden", 32), ("hidden", False), ("agreement", "vector"), ("content", "gated")],
)
def test_a_run_with_a_removed_option_names_it_and_the_version_that_can_open_it(
    magnet_folder, setting, value
):
    change(magnet_folder, f"model.{setting}", value)
    with pytest.raises(ResultError, match=rf"model\.{setting} is {value}, .* mmrec 0\.1\.0"):
        open_run(magnet_folder)
    (magnet_folder / "result.json").unlink()
    with pytest.raises(ResultError, match=rf"model\.{setting} is {value}, .* that wrote it"):
        open_run(magnet_folder)


def test_a_compiled_run_opens_where_nothing_compiles(magnet_folder, monkeypatch, caplog):
    folder = magnet_folder
    change(folder, "model.fused", value=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "nowhere/g++")
    fused_ranking.cache_clear()
    assert open_run(folder).model.ranking is ranking
    assert "ranked without model.fused: it needs a GPU, or a C++ compiler" in caplog.text


def change(folder: Path, place: str, value: object) -> None:
    config = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(config, place, value, merge=False)
    OmegaConf.save(config, folder / "config.yaml")


def test_a_run_opens_with_the_weights_of_its_best_epoch(finished):
    opened = open_run(finished)
    saved = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(opened.model.state_dict(), saved, rtol=0, atol=0)
    assert not opened.model.training
    assert opened.corpus.card().items() <= opened.result["data_card"].items()


@pytest.mark.parametrize(
    ("inside", "checkpoint"),
    [
        ("", "best.ckpt"),
        ("result.json", "best.ckpt"),
        ("checkpoints/best.ckpt", "best.ckpt"),
        ("checkpoints/last.ckpt", "last.ckpt"),
    ],
)
def test_a_run_is_named_by_its_folder_or_a_file_in_it(finished, inside, checkpoint):
    opened = open_run(finished / inside)
    assert opened.folder == finished
    assert opened.checkpoint == finished / "checkpoints" / checkpoint
    saved = torch.load(opened.checkpoint, weights_only=True)["state_dict"]
    torch.testing.assert_close(opened.model.state_dict(), saved, rtol=0, atol=0)


@pytest.fixture
def own_model(folder, tmp_path, monkeypatch):
    """A run of a model in a module of the user, not imported yet; gives the module's file."""
    path = tmp_path / "my_models.py"
    path.write_text("from mmrec.models import LightGCN\n\nclass LightGCN(LightGCN):\n    pass\n")
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    change(folder, "model._target_", "my_models.LightGCN")
    yield path
    sys.modules.pop("my_models", None)


@pytest.mark.parametrize("trust", ["my_models", ["my_models"], ["my_models.LightGCN"]])
def test_a_model_of_ones_own_opens_once_it_is_trusted(folder, own_model, trust):
    with pytest.raises(ResultError) as refused:
        open_run(folder)
    assert "my_models" not in sys.modules
    assert "trust=[my_models]" in str(refused.value)
    assert str(own_model) in str(refused.value)
    for given in (trust, ()):  # the second time, it is known
        assert type(open_run(folder, trust=given).model).__module__ == "my_models"
        del sys.modules["my_models"]


def test_a_model_that_was_trained_here_opens(own_model, folder, composed, tmp_path):
    words = (*WORLD, *TINY, f"run_dir={tmp_path / 'trained'}", "model=lightgcn", "model.dim=8")
    run(composed(*words, "model._target_=my_models.LightGCN"), [])
    for path in (tmp_path / "trained", folder):
        del sys.modules["my_models"]
        assert type(open_run(path).model).__module__ == "my_models"
    del sys.modules["my_models"]
    moved = own_model.rename(own_model.with_name("other.py"))
    moved.with_name("my_models").mkdir()
    moved.rename(moved.with_name("my_models") / "__init__.py")
    with pytest.raises(ResultError, match=r"trust=\[my_models\]"):  # another file
        open_run(folder)


def test_trust_in_a_run_folder_counts_for_nothing(own_model, folder):
    for name in ("trusted.json", "cache/trusted.json"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"my_models": [str(own_model)]}))
    change(folder, "trust", ["my_models"])
    with pytest.raises(ResultError, match=r"trust=\[my_models\]"):
        open_run(folder)


# What a stranger's configuration may ask for


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A module that says when it is imported, and functions that say when they are called."""
    (tmp_path / "hostile.py").write_text(
        "from pathlib import Path\n"
        f"trace = Path({str(tmp_path)!r})\n"
        "(trace / 'imported').touch()\n"
        "def call(*args, **kwargs):\n    (trace / 'called').touch()\n"
        "class Other:\n    __init__ = call\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("hostile", None)


@pytest.mark.parametrize("group", ["model", "data", "optimizer", "evaluation"])
@pytest.mark.parametrize("target", ["hostile.call", "hostile.Other"])
def test_nothing_is_called_that_is_no_class_of_its_kind(
    folder, hostile, group, target, monkeypatch
):
    monkeypatch.setenv("MMREC_CACHE", str(hostile / "cache"))
    change(folder, group, {"_target_": target})
    with pytest.raises(ResultError, match=rf"{group}\._target_ is {target}: it would execute"):
        open_run(folder)
    assert not (hostile / "imported").exists()
    with pytest.raises(ResultError, match=rf"{group}\._target_ is {target}, which is not a \w+ cl"):
        open_run(folder, trust=["hostile"])
    assert not (hostile / "called").exists()


@pytest.mark.parametrize("layout", ["module", "package", "parent", "namespace", "link", "inward"])
def test_no_file_of_a_run_folder_is_executed(folder, hostile, layout, monkeypatch):
    """Neither the module nor a parent package, whatever the user trusts."""
    monkeypatch.setenv("MMREC_CACHE", str(hostile / "cache"))
    monkeypatch.syspath_prepend(folder.parent)
    code = (hostile / "hostile.py").read_text()
    files = {
        "module": "evil.py",
        "package": "evil/__init__.py",
        "parent": "__init__.py",
        "namespace": "a/b/evil.py",
        "link": "evil.py",
        "inward": "evil.py",
    }
    path = folder / files[layout]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    target = f"{folder.name}.{files[layout].removesuffix('.py').replace('/', '.')}.Other"
    if layout == "parent":
        target = f"{folder.name}.inner.Other"
        (folder / "inner.py").symlink_to(hostile / "hostile.py")
    elif layout == "link":  # outside by its name, inside by what it leads to
        (hostile / "linked.py").symlink_to(path)
        target = "linked.Other"
    elif layout == "inward":  # inside by its name only
        path.unlink()
        path.symlink_to(hostile / "hostile.py")
    change(folder, "model._target_", target.replace(".__init__", ""))
    with pytest.raises(ResultError, match="in the run folder"):
        open_run(folder, trust=[folder.name, "linked", "hostile"])
    assert not (hostile / "imported").exists()


def test_no_file_of_another_run_folder_is_executed(folder, finished, hostile, tmp_path):
    shutil.copytree(finished, tmp_path / "second")
    shutil.copy(hostile / "hostile.py", tmp_path / "second" / "evil.py")
    change(folder, "model._target_", "second.evil.Other")
    with pytest.raises(ResultError, match=r"second/evil\.py in the run folder .*second"):
        open_run(folder, trust="second")
    assert not (hostile / "imported").exists()


def test_a_module_that_is_not_a_file_is_refused(folder, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("zipped.py", "class Other: pass\n")
    monkeypatch.syspath_prepend(tmp_path / "packed.zip")
    change(folder, "model._target_", "zipped.Other")
    with pytest.raises(ResultError, match="the module zipped is not a file"):
        open_run(folder, trust="zipped")
    assert "zipped" not in sys.modules


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model._args_", [1]),
        ("model._partial_", False),
        ("data._partial_", True),
        ("optimizer._partial_", False),
        ("data._convert_", "hostile"),
        ("data._recursive_", "no"),
    ],
)
def test_settings_of_the_call_itself_are_checked(folder, place, value):
    change(folder, place, value)
    with pytest.raises(ResultError, match=place.replace(".", r"\.")):
        open_run(folder)


@pytest.mark.parametrize(
    ("place", "value"),
    [("seed", -1), ("seed", "x"), ("trainer", 3), ("trainer.precision", {"a": 1})],
)
def test_other_values_that_opening_needs_are_checked(folder, place, value):
    change(folder, place, value)
    with pytest.raises(ResultError, match=place.replace(".", r"\.")):
        open_run(folder)


@pytest.mark.parametrize(
    "place", ["model.schedule", "data.world", "data.corrupt.visual", "optimizer.params"]
)
@pytest.mark.parametrize(
    "target", ["hostile.call", "mmrec.data.files.hashlib.sha256", "mmrec.data.files._sha256"]
)
def test_parts_of_a_model_come_from_mmrec_and_others_are_not_even_imported(
    folder, hostile, place, target
):
    change(folder, place, [{"deep": {"_target_": target}}])
    refusal = "it is not executed|the module .* was not found"
    with pytest.raises(ResultError, match=rf"{place}\[0\]\.deep\._target_ is .*({refusal})"):
        open_run(folder)
    assert not (hostile / "imported").exists()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("os.system", "not a Recommender class"),
        ("subprocess.Popen", "not a Recommender class"),
        ("antigravity.fly", "not a Recommender class"),
        (
            "mmrec.training.provenance.subprocess.Popen",
            "the module mmrec.training.provenance.subprocess was not found",
        ),
        ("mmrec.training.trust.Located", "not a Recommender class"),
        ("mmrec..models.BPR", "not the dotted name of a class"),
        ("torch.optim.Adam", "not a Recommender class"),
        ("torch.hub.load", "it would execute|not a Recommender class"),
        ("BPR", "not the dotted name of a class"),
        ("mmrec.data.FolderData", "not a Recommender class"),
        ("mmrec.models.LightGNC", "cannot be imported.*PYTHONPATH"),
        ("no_such_package.Model", "the module no_such_package was not found; .*PYTHONPATH"),
        (["os.system"], "not a Recommender class"),
        (7, "not a Recommender class"),
    ],
)
def test_a_model_that_is_none_is_refused(folder, target, said):
    change(folder, "model._target_", target)
    with pytest.raises(ResultError, match=said):
        open_run(folder)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("value", ["${oc.env:HOME}", r"\${oc.create:{_target_:hostile.call}}"])
def test_an_interpolation_is_refused_before_it_is_evaluated(folder, hostile, value):
    change(folder, "model.norm", value)
    with pytest.raises(
        ResultError, match=r"model\.norm is .*expected a value without interpolation"
    ):
        open_run(folder)
    assert not (hostile / "imported").exists()


def test_a_setting_that_no_longer_exists_is_named(folder):
    change(folder, "model.depth", 3)
    commit = read_result(folder)["git_commit"]
    with pytest.raises(ResultError, match=f"config.yaml: model.depth: .*{commit}"):
        open_run(folder)


# What may be broken


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.yaml", r"is not a run folder: it has no config\.yaml"),
        ("result.json", r"has no result\.json"),
        ("checkpoints/best.ckpt", "there is no such checkpoint; .*run it again"),
    ],
)
def test_a_missing_file_is_named(folder, missing, said):
    (folder / missing).unlink()
    with pytest.raises(ResultError, match=said):
        open_run(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: [", "cannot be read"),
        ("a: &x [*x]", r"config\.yaml cannot be read \(line 1: anchors and aliases"),
        ("[" * 20_000, "nested more than"),
        ("- 1\n", "has no settings"),
        ("seed: 0\nmodel: 1\n", "has no data, optimizer, evaluation, router_schedule, trainer;"),
        ("", "has no settings"),
    ],
)
def test_a_configuration_that_is_none_is_refused(folder, text, said):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ResultError, match=said):
        open_run(folder)


def test_a_group_that_names_nothing_is_refused(folder):
    change(folder, "model", {"dim": 8})
    with pytest.raises(ResultError, match="model has no _target_; it must name a Recommender"):
        open_run(folder)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_refused(folder, keep):
    path = folder / "checkpoints" / "best.ckpt"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(ResultError, match=r"best\.ckpt is cut short, .*run it again"):
        open_run(folder)


class Bomb:
    """Pickled, it is a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))]
)
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(folder, tmp_path, save):
    save({"state_dict": Bomb(tmp_path / "went off")}, folder / "checkpoints" / "best.ckpt")
    with pytest.raises(ResultError, match=r"best\.ckpt is cut short, or no checkpoint"):
        open_run(folder)
    assert not (tmp_path / "went off").exists()


def test_weights_of_another_shape_are_refused(folder):
    change(folder, "model.dim", 9)
    with pytest.raises(ResultError, match=r"no checkpoint of this LightGCN .*size mismatch"):
        open_run(folder)


def test_weights_of_another_model_are_refused(folder):
    path = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["mmrec"]["model"] = "BPR"
    torch.save(checkpoint, path)
    with pytest.raises(DataError) as error:
        open_run(folder)
    assert error.value.file == str(path)
    assert (error.value.column, error.value.found) == ("model", "BPR")


def test_data_that_have_changed_are_refused_with_both_fingerprints(folder):
    before = json.loads((folder / "result.json").read_text())["data_card"]["fingerprint"]
    change(folder, "data.world.seed", 1)
    with pytest.raises(DataError) as error:
        open_run(folder)
    assert error.value.file == str(folder)
    assert f"with fingerprint {before}" in error.value.problem
    assert "data.root or MMREC_DATA" in error.value.hint


# A run and its data that have moved


@pytest.fixture(scope="module")
def placed(composed, tmp_path_factory):
    """A run on a folder of files: the run's folder, and the folder of data sets."""
    home = tmp_path_factory.mktemp("placed")
    (home / "sets" / "mine").mkdir(parents=True)
    rows = [f"{u}\t{(7 * u + 3 * n) % 30}" for u in range(20) for n in range(8)]
    rows += [f"{i % 20}\t{i}" for i in range(30)]
    text = "\n".join(["userID\titemID", *dict.fromkeys(rows), ""])
    (home / "sets" / "mine" / "mine.inter").write_text(text)
    words = ("data=folder", "data.name=mine", "data.split=random_per_user", "model=most_pop")
    words += (f"data.root={home / 'sets'}", f"run_dir={home / 'run'}", *TINY)
    run(composed(*words, "evaluation.cutoffs=[5]", "monitor=val/recall@5"), [])
    return home


@pytest.fixture
def moved(placed, tmp_path, monkeypatch):
    """The same on another machine: the recorded folder of data sets does not exist."""
    shutil.copytree(placed, tmp_path / "there")
    change(tmp_path / "there" / "run", "data.root", str(tmp_path / "gone"))
    monkeypatch.delenv("MMREC_DATA", raising=False)
    return tmp_path / "there"


def test_data_that_have_moved_are_found(moved, monkeypatch):
    with pytest.raises(DataError) as error:
        open_run(moved / "run")
    assert error.value.problem == "no data set mine"
    assert "MMREC_DATA or data.root" in error.value.hint
    assert open_run(moved / "run", data_root=moved / "sets").corpus.name == "mine"
    monkeypatch.setenv("MMREC_DATA", str(moved / "sets"))
    assert open_run(moved / "run").corpus.name == "mine"
    monkeypatch.setenv("HOME", str(moved))
    monkeypatch.setenv("MMREC_DATA", "~/sets")
    assert open_run("~/run").corpus.name == "mine"
    monkeypatch.delenv("MMREC_DATA")
    assert open_run("~/run", data_root="~/sets").corpus.name == "mine"


def test_the_recorded_folder_comes_before_the_environment(placed, tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_DATA", str(tmp_path))
    assert open_run(placed / "run").corpus.name == "mine"


def test_other_data_of_the_same_name_are_refused(moved):
    with (moved / "sets" / "mine" / "mine.inter").open("a") as file:
        file.write("0\t29\n")
    with pytest.raises(DataError) as error:
        open_run(moved / "run", data_root=moved / "sets")
    assert "fingerprint" in error.value.problem
    assert "data.root or MMREC_DATA" in error.value.hint


def test_data_without_files_have_no_folder(finished):
    with pytest.raises(SettingError) as error:
        open_run(finished, data_root="x")
    assert (error.value.setting, error.value.value) == ("data.root", "x")


# The state of the process that opens a run


def test_a_run_is_opened_and_ranked_without_touching_generators(finished, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)

    def state():
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        )

    before = state()
    opened = open_run(finished)
    assert state() == before
    list(scored(opened, QueryLoader(torch.arange(5), 2), accelerator="cpu"))
    evaluate(run=finished, accelerator="cpu")
    assert state() == before


def test_a_run_that_cannot_be_opened_leaves_generators_alone_too(folder):
    change(folder, "data.world.seed", 1)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with pytest.raises(DataError):
        open_run(folder)
    assert torch.equal(torch.rand(1), expected)


def test_a_report_leaves_the_process_as_it_is(finished, tmp_path):
    verbosity = optuna.logging.get_verbosity()
    torch.manual_seed(1)
    state = random.getstate(), torch.get_rng_state().tolist()
    report(runs=str(finished), output=str(tmp_path / "out"), resamples=100)
    assert (random.getstate(), torch.get_rng_state().tolist()) == state
    assert optuna.logging.get_verbosity() == verbosity


# The same from the command line


@pytest.mark.parametrize(
    "command",
    [
        (mmrec.commands.evaluate.main,),
        (mmrec.commands.recommend.main, "output=r.csv", "k=2"),
    ],
)
def test_commands_take_the_folder_of_data(command, moved, in_process, monkeypatch):
    monkeypatch.setenv("HOME", str(moved))
    main, *words = command
    words += ["run=~/run", "accelerator=cpu"]
    for root in ("data.root=~/sets", f"data.root='{moved / 'sets'}'"):
        assert in_process(main, *words, root) is None
    for wrong, said in (
        ("data.root=nowhere", "nowhere: no data set mine"),
        ("data=folder", "data: expected one of its settings: data."),
        ("data.root=[a]", "data.root="),
        ("data.name=other", "data.name: no such setting"),
    ):
        assert said in in_process(main, *words, wrong)


def test_commands_take_trust(folder, own_model, in_process):
    words = [f"run={folder}", "accelerator=cpu"]
    assert "trust=[my_models]" in in_process(mmrec.commands.evaluate.main, *words)
    assert "trust=[my_models]" in in_process(mmrec.commands.evaluate.main, *words, "trust=[other]")
    assert in_process(mmrec.commands.evaluate.main, *words, "trust=[my_models]") is None
    del sys.modules["my_models"]
    assert in_process(mmrec.commands.evaluate.main, *words) is None
    assert own_model.is_file()


@pytest.mark.parametrize("place", ["model", "data", "data.world"])
def test_a_key_that_is_not_text_is_refused(folder, place):
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    node = config
    for name in place.split("."):
        node = node[name]
    node[7] = 1
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    with pytest.raises(ResultError, match=rf"{place} has the key 7"):
        open_run(folder)


def test_the_former_place_of_open_run_still_works_and_names_the_new_one():
    with pytest.warns(DeprecationWarning, match=r"mmrec\.training\.open_run"):
        former = importlib.import_module("mmrec.runs")
    assert former.open_run is open_run
