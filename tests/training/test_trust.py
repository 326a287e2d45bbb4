"""Which classes may be imported for a run folder; the check itself imports nothing."""

from __future__ import annotations

import sys

import pytest

from mmrec.training.trust import Untrusted, check_import, locate, remember


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder on the import path, with a cache of its own."""
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = {*sys.modules}
    yield folder
    for name in {*sys.modules} - before:
        if name.partition(".")[0] in ("mine", "dl1", "ns"):
            del sys.modules[name]


def evil(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"open({str(path.with_suffix('.ran'))!r}, 'w').close()\n")


@pytest.mark.parametrize("target", ["dl1.ns.evil", "ns.evil"])
@pytest.mark.parametrize("trust", [(), ("dl1", "ns")])
def test_a_module_in_namespace_packages_is_not_imported(place, monkeypatch, target, trust):
    run = place / "dl1"
    evil(run / "ns" / "evil.py")
    monkeypatch.syspath_prepend(run)
    with pytest.raises(Untrusted):
        check_import(target, run, trust)
    assert target not in sys.modules
    assert not (run / "ns" / "evil.ran").exists()


@pytest.mark.parametrize(
    "target",
    [
        "lightning.pytorch",
        "lightning.pytorch.cli",
        "lightning.pytorch.utilities.testing",
        "mmrec.run",
        "mmrec.commands.report",
        "mmrec.training.trust",
        "numpy.f2py",
        "hydra_plugins.mmrec_sweeper",
        "tests.conftest",
    ],
)
def test_a_module_is_refused_before_it_is_imported(tmp_path, target):
    import lightning.pytorch  # noqa: F401
    import numpy as np  # noqa: F401

    before = {*sys.modules}
    with pytest.raises(Untrusted):
        check_import(target, tmp_path, trust=["lightning", "mmrec", "hydra_plugins", "tests"])
    assert {*sys.modules} == before


@pytest.mark.parametrize(
    "target",
    ["mmrec.models.LightGCN", "mmrec.models.lightgcn.LightGCN", "torch.optim.Adam"],
)
@pytest.mark.parametrize("loaded", [True, False])
def test_classes_of_the_installation_pass(tmp_path, monkeypatch, target, loaded):
    if not loaded and target.startswith("mmrec"):
        for name in [name for name in sys.modules if name.startswith("mmrec.models")]:
            monkeypatch.delitem(sys.modules, name)
    check_import(target, tmp_path)


def test_a_submodule_of_a_loaded_package_needs_trust(place):
    (place / "mine").mkdir()
    (place / "mine" / "__init__.py").touch()
    import mine

    evil(place / "mine" / "more.py")
    with pytest.raises(Untrusted, match=r"trust=\[mine\.more\]"):
        check_import("mine.more.Model", place / "run")
    with pytest.raises(Untrusted, match="a module"):
        check_import("mine.more", place / "run", ["mine"])
    mine.__getattr__ = vars(mine).get
    with pytest.raises(Untrusted, match=r"trust=\[mine\]"):  # it could import what it likes
        check_import("mine.Lazy", place / "run")
    assert not (place / "mine" / "more.ran").exists()


def test_a_class_with_the_name_of_its_module_opens_again(place):
    package = place / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("from .Model import Model\n")
    (package / "Model.py").write_text("class Model:\n    pass\n")
    target = "mine.Model"
    assert {*locate(target).files} == {"mine", target}
    with pytest.raises(Untrusted, match="trust="):
        check_import(target, place / "run")
    import mine

    check_import(target, place / "run")
    remember([{"_target_": "mine.Model.Model"}])
    for name in ("mine", target):
        del sys.modules[name]
    check_import(target, place / "run")
    assert mine.__name__ not in sys.modules
