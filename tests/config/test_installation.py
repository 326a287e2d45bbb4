"""A package of the same name is noticed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmrec
from mmrec.config.installation import FOREIGN, check_installation

PACKAGE = Path(mmrec.__file__).parent


def test_this_installation_is_pure():
    check_installation(PACKAGE)


@pytest.mark.parametrize("module", ["mmrec.commands.cli", "mmrec.data"])
def test_files_of_another_package_are_named(tmp_path, module):
    for name in ("config", "commands"):
        shutil.copytree(PACKAGE / name, tmp_path / "mmrec" / name)
    shutil.copytree(PACKAGE / "data", tmp_path / "mmrec/data")
    (tmp_path / "mmrec/__init__.py").write_text('__version__ = "0.1.2"\n')  # theirs
    (tmp_path / "mmrec" / FOREIGN).touch()
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, '.'); import {module}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    error = done.stderr.splitlines()[-1]
    assert error.startswith("ImportError")
    assert "pip uninstall multimodal-recommender" in error
