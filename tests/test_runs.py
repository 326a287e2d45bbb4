"""A run folder opens to the model that was trained; a broken or a hostile one is refused."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mmrec.data import DataError
from mmrec.nn import fused_ranking, ranking
from mmrec.results import ResultError
from mmrec.run import run
from mmrec.runs import open_run

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
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_compiled_run_opens_where_nothing_compiles(composed, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "magnet"
    run(composed("model=magnet", "model.dim=8", *WORLD, *TINY, f"run_dir={folder}"), [])
    change(folder, "model.fused", value=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "nowhere/g++")
    fused_ranking.cache_clear()
    assert open_run(folder).model.ranking is ranking
    assert "ranked without model.fused: model.fused=true needs a C++ compiler" in caplog.text


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


def test_a_model_of_ones_own_opens(folder, tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "from mmrec.models import LightGCN\n\nclass LightGCN(LightGCN):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    change(folder, "model._target_", "my_models.LightGCN")
    assert type(open_run(folder).model).__module__ == "my_models"


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
def test_nothing_is_called_that_is_no_class_of_its_kind(folder, hostile, group, target):
    change(folder, group, {"_target_": target})
    with pytest.raises(ResultError, match=rf"{group}\._target_ is {target}, which is not a \w+ cl"):
        open_run(folder)
    assert not (hostile / "called").exists()


@pytest.mark.parametrize(
    "place", ["model.schedule", "data.world", "data.corrupt.visual", "optimizer.params"]
)
@pytest.mark.parametrize("target", ["hostile.call", "mmrec.data.files.hashlib.sha256"])
def test_parts_of_a_model_come_from_mmrec_and_others_are_not_even_imported(
    folder, hostile, place, target
):
    change(folder, place, [{"deep": {"_target_": target}}])
    with pytest.raises(ResultError, match=rf"{place}\[0\]\.deep\._target_ is .*it is not run"):
        open_run(folder)
    assert not (hostile / "imported").exists()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("os.system", "not a Recommender class"),
        ("subprocess.Popen", "not a Recommender class"),
        ("antigravity.fly", "not a Recommender class"),
        ("mmrec.results.subprocess.Popen", "not a Recommender class"),
        ("mmrec.data.FolderData", "not a Recommender class"),
        ("mmrec.models.LightGNC", "cannot be imported.*PYTHONPATH"),
        ("no_such_package.Model", "cannot be imported.*PYTHONPATH"),
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
    with pytest.raises(ResultError, match=r"model\.norm is .*a run's configuration is resolved"):
        open_run(folder)
    assert not (hostile / "imported").exists()


def test_a_setting_that_no_longer_exists_is_named(folder):
    change(folder, "model.depth", 3)
    with pytest.raises(ValueError, match=r"model\.depth: no such setting"):
        open_run(folder)


# What may be broken


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.yaml", r"there is no .*config\.yaml; give the folder of a run"),
        ("result.json", r"holds no result\.json"),
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
        ("a: &x [*x]", "cannot be read|has no model"),
        ("- 1\n", "has no model, data, optimizer, evaluation, router_schedule, trainer, seed"),
        ("seed: 0\nmodel: 1\n", "has no data, optimizer, evaluation, router_schedule, trainer;"),
        ("", "has no model"),
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
    with pytest.raises(DataError, match="the checkpoint belongs to model=BPR"):
        open_run(folder)


def test_data_that_have_changed_are_refused_with_both_fingerprints(folder):
    before = json.loads((folder / "result.json").read_text())["data_card"]["fingerprint"]
    change(folder, "data.world.seed", 1)
    with pytest.raises(DataError, match=rf"fingerprint {before}, found .*MMREC_DATA points else"):
        open_run(folder)
