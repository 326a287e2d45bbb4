"""What is shipped installs elsewhere and runs; what is documented exists."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

import mmrec

ROOT = Path(__file__).resolve().parents[1]
TARGET = re.compile(r"^([a-z][a-z%-]*):(?! [A-Z]+ :=)", re.MULTILINE)  # no variable of a target
LISTED = re.compile(r"^  ([a-z][a-z%-]*) +\S", re.MULTILINE)
MENTIONED = re.compile(r"(?:^|`|&& )make ([a-z][a-z-]*)", re.MULTILINE)
REGISTRY = re.compile(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.(?:org|com)")
MACHINE_PATH = re.compile(r"(?<![\w.~}])/(?:home|root|Users|work)/\w")


def call(*command: str | Path, cwd: Path, **env: str) -> str:
    """Standard output of a command in an environment of which this test run is no part."""
    ours = ("MMREC_", "MAKE", "PYTHON", "HYDRA_", "WANDB_", "COV_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean | env, text=True, capture_output=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def source_files() -> list[Path]:
    """Files that are tracked, or would be if they were added; relative to the root."""
    listing = call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the source, with the litter that a checkout in use has."""
    folder = tmp_path_factory.mktemp("checkout") / "with a space"
    for file in source_files():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    call("git", "init", "--quiet", cwd=folder)
    for litter in (
        "conf/.ipynb_checkpoints/run.yaml",
        "mmrec/__pycache__/a.pyc",
        "mmrec/data/.ipynb_checkpoints/a.py",
    ):
        (folder / litter).parent.mkdir(parents=True, exist_ok=True)
        (folder / litter).touch()
    return folder


@pytest.fixture(scope="module")
def wheel(checkout):
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "..", cwd=checkout)
    return next(checkout.parent.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The scripts folder of an environment that has the wheel, and our dependencies behind it."""
    env = tmp_path_factory.mktemp("env")
    venv.create(env)
    paths = sysconfig.get_paths(vars={"base": str(env), "platbase": str(env)})
    (Path(paths["purelib"]) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    scripts = Path(paths["scripts"])
    install = ("install", "--quiet", "--no-deps", "--no-index", wheel)
    call(sys.executable, "-m", "pip", "--python", scripts / "python", *install, cwd=env)
    return scripts


def test_the_wheel_holds_the_package_and_its_configuration_and_nothing_else(wheel):
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders = {"mmrec": "mmrec", "conf": "mmrec/conf", "hydra_plugins": "hydra_plugins"}
    sources = [file for file in source_files() if file.parts[0] in folders]
    expected = {"/".join([folders[file.parts[0]], *file.parts[1:]]) for file in sources}
    assert shipped == expected
    assert {"mmrec/conf/config.yaml", "mmrec/py.typed"} <= shipped
    assert "hydra_plugins/__init__.py" not in shipped  # other packages have plugins too
    assert any(name.endswith(".json") for name in shipped)  # the schema of a result


def test_the_wheel_carries_version_and_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    info = f"mmrec-{mmrec.__version__}.dist-info"
    licence = archive.read(f"{info}/licenses/LICENSE").decode()
    assert licence == (ROOT / "LICENSE").read_text()
    assert f"Version: {mmrec.__version__}\n" in archive.read(f"{info}/METADATA").decode()


def test_the_environment_runs_the_wheel_not_the_checkout(installed, tmp_path):
    found = call(installed / "python", "-c", "import mmrec; print(mmrec.__file__)", cwd=tmp_path)
    assert Path(found.strip()).is_relative_to(installed.parent)


@pytest.mark.slow
def test_the_installed_command_explains_itself(installed, tmp_path):
    help_text = call(installed / "mmrec", "--help", cwd=tmp_path)
    for command in ("run", "evaluate", "recommend"):
        assert re.search(rf"\b{command}\b", help_text)


@pytest.mark.slow
def test_the_installed_command_trains_in_another_folder(installed, tmp_path):
    run = tmp_path / "run"
    choices = ("model=gated_lightgcn", "data=planted", "trainer=debug", f"run_dir={run}")
    surroundings = {"MMREC_CACHE": str(tmp_path / "cache"), "WANDB_MODE": "offline"}
    call(installed / "mmrec", "run", *choices, cwd=tmp_path, **surroundings)
    assert json.loads((run / "result.json").read_text())


def test_make_lists_every_target():
    listed = LISTED.findall(call("make", "--no-print-directory", cwd=ROOT))
    assert sorted(listed) == sorted(TARGET.findall((ROOT / "Makefile").read_text()))


def test_every_make_command_in_the_pages_is_a_target():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
    mentioned = {name for page in pages for name in MENTIONED.findall(page.read_text())}
    assert "test" in mentioned
    targets = TARGET.findall((ROOT / "Makefile").read_text())
    for name in mentioned:
        assert any(fnmatch(name, target.replace("%", "*")) for target in targets), name


def test_make_n_shows_the_command_of_a_grid():
    shown = call(
        "make", "-n", "ablation-gated-lightgcn", "SEEDS=0,1", "OPTIONS=trainer=gpu", cwd=ROOT
    )
    words = "-m data=planted seed=0,1 trainer=gpu grid=ablations model=gated_lightgcn"
    assert shown.rstrip().endswith(f"python -m mmrec.run {words}")
    cold = call("make", "-n", "ablation-mamex", cwd=ROOT)
    assert "-m data=planted_cold seed=0,1,2 grid=ablations model=mamex" in " ".join(cold.split())
    assert "data=tiktok_cold " in call("make", "-n", "ablation-mamex", "DATA=tiktok_cold", cwd=ROOT)
    every = call("make", "-n", "ablations", cwd=ROOT).rstrip().rpartition("model=")[2]
    assert every.split(",") == sorted(path.name for path in (ROOT / "conf/ablation").iterdir())


def test_every_dependency_is_pinned():
    pins = (ROOT / "constraints.txt").read_text().lower()
    pyproject = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'^    "([a-z][a-z-]*)>=', pyproject, re.MULTILINE)
    assert "torch" in wanted
    missing = [
        name for name in wanted if not re.search(rf"^{name.replace('-', '[-_]')}==\d", pins, re.M)
    ]
    assert missing == []


@pytest.mark.parametrize("forbidden", [REGISTRY, MACHINE_PATH], ids=["registry", "machine path"])
def test_no_file_names_a_registry_or_a_path_of_one_machine(forbidden):
    found = [
        f"{file}:{number}"
        for file in source_files()
        for number, line in enumerate((ROOT / file).read_text(errors="ignore").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []
