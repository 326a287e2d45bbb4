"""The digest of a model's code changes with what the model does, and with nothing else."""

from __future__ import annotations

import importlib
import sys

import pytest

from mmrec.training.code import code_digest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`package(file=source, ...)` writes a package `mine` and gives the digest of its model."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def write(**sources):
        for name, source in sources.items():
            (folder / f"{name}.py").write_text(source)
        for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        code_digest.cache_clear()
        return code_digest("mine.model.Model")

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    code_digest.cache_clear()


MODEL = """
from mine.layers import width
from . import parts
class Model:
    size = width + parts.more
"""


def test_it_is_of_the_module_and_of_what_that_imports(package):
    first = package(model=MODEL, layers="width = 1", parts="more = 1", other="x = 1")
    assert package(other="x = 2") == first  # nobody imports it
    assert package(model=f"# why\n{MODEL}") == first  # a comment
    changed = {package(layers="width = 2"), package(parts="more = 2")}
    changed.add(package(model=MODEL.replace("size", "length")))
    assert len(changed | {first}) == 4


def test_models_of_the_package_do_not_share_one():
    digests = {code_digest(f"mmrec.models.{name}") for name in ("BPR", "LightGCN", "EASE")}
    assert len(digests) == 3
    assert code_digest("mmrec.models.BPR") == code_digest("mmrec.models.bpr.BPR")
