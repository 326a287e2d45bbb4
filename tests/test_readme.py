"""What README shows is true: its code runs, its commands, settings and files exist."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmrec.commands.cli import COMMANDS
from mmrec.config.schema import conf_dir

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
LINK = re.compile(r"\]\(([^)#:]+)\)")
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:python -m mmrec\.|mmrec )(\w+) (.*)$", re.MULTILINE)
TINY = ("data.world.users=60", "data.world.items=60", "trainer=debug")


def section(title):
    """A section of README, heading and all."""
    return re.search(rf"^## {title}\n.*?(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)[0].strip()


def blocks(text, language):
    return [code for name, code in FENCED.findall(text) if name == language]


def commands():
    """Every command of README with its words, comments and line breaks resolved."""
    shell = "".join(blocks(README, "bash")).replace("\\\n", " ")
    return [(name, words.split(" #")[0].split()) for name, words in COMMAND.findall(shell)]


def call(*words, cwd):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module", params=["model", "routed model"])
def added(request):
    """A section about a model of one's own."""
    return section(f"Add a {request.param}")


@pytest.fixture(scope="module")
def written(tmp_path_factory, added):
    """A folder with the section's two files, at the places that README names."""
    folder, text = tmp_path_factory.mktemp("user"), added
    module, settings = re.findall(r"`(mine/\S+\.py|mine/conf/model/\S+)`", text)
    for path, language in ((module, "python"), (settings, "yaml")):
        [code] = blocks(text, language)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(code)
    return folder


def test_a_model_is_added_in_under_40_lines():
    assert len(section("Add a model").splitlines()) < 40


@pytest.mark.slow
def test_the_added_model_trains_is_evaluated_and_recommends(written, added):
    [command] = blocks(added, "bash")
    python, *words = command.split()
    assert python == "python"
    call(*words, *TINY, "run_dir=run", cwd=written)
    assert json.loads((written / "run/result.json").read_text())["status"] == "completed"
    assert "numbers equal" in call("-m", "mmrec.evaluate", "run=run", cwd=written)
    call("-m", "mmrec.recommend", "run=run", "output=recs.csv", "k=5", cwd=written)
    assert (written / "recs.csv").is_file()
    if "routed" in added:
        call("-m", "mmrec.explain", "run=run", cwd=written)
        assert "What each expert carries most" in (written / "run/explain/index.html").read_text()


@pytest.mark.slow
def test_the_added_model_keeps_the_contract_once_it_is_part_of_the_checkout(written, tmp_path):
    for name in ("mmrec", "conf", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    [module] = (written / "mine").glob("*.py")
    shutil.copy(module, tmp_path / "mmrec/models")
    settings = (written / f"mine/conf/model/{module.stem}.yaml").read_text()
    moved = settings.replace("mine.", "mmrec.models.")
    (tmp_path / f"conf/model/{module.stem}.yaml").write_text(moved)
    contract = ("tests/models/test_contract.py", "-k", module.stem)
    said = call("-m", "pytest", "-q", "-p", "no:cacheprovider", *contract, cwd=tmp_path)
    assert re.search(r"\b\d\d passed", said)


@pytest.mark.slow
def test_the_python_example_trains_and_tests(tmp_path):
    trained, opened = blocks(section("From Python"), "python")
    (tmp_path / "example.py").write_text(trained)
    assert "test/recall@20" in call("example.py", cwd=tmp_path)
    call("-m", "mmrec.run", "run_dir=outputs/first", "model=bpr", *TINY, cwd=tmp_path)
    (tmp_path / "opened.py").write_text(opened + "print(type(run.model).__name__, run.data)")
    assert "BPR" in call("opened.py", cwd=tmp_path)


@pytest.mark.slow
def test_the_python_example_of_new_items_scores_them(tmp_path):
    _, opened = blocks(section("From Python"), "python")
    [scored] = blocks(section("Models"), "python")
    cold = ("data=planted_cold", "evaluation.cutoffs=[5,10]", "trainer.check_val_every_n_epoch=1")
    words = ("model=mamex", *TINY, *cold, "run_dir=outputs/first")
    call("-m", "mmrec.run", *words, cwd=tmp_path)
    made = "import numpy\narray = numpy.ones((3, run.model.item_features.widths[0]))\n"
    (tmp_path / "new.py").write_text(opened + made + scored + "print(scores.shape)")
    assert "torch.Size([2, 3])" in call("new.py", cwd=tmp_path)


@pytest.mark.parametrize("target", LINK.findall(README))
def test_every_link_leads_to_a_file(target):
    assert (ROOT / target).exists()


def test_every_command_shown_is_one():
    shown = {name for name, _ in commands()}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize(("command", "words"), commands(), ids=lambda value: "".join(value)[:40])
def test_every_setting_shown_is_one(command, words, composed):
    """The words compose: groups, choices and settings are all there."""
    overrides = [word for word in words if not word.startswith("-")]
    flags = [word for word in words if word.startswith("-")]
    assert set(flags) <= {"-m", "--cfg", "--help", "--config-dir"}
    overrides = [word for word in overrides if word not in ("job", "mine/conf")]
    if command != "run":
        settings = (conf_dir() / f"{command}.yaml").read_text()
        for word in overrides:
            *groups, setting = word.split("=")[0].split(".")
            indent = "  " * len(groups)
            assert re.search(rf"^{indent}{setting}: ", settings, re.MULTILINE)
    elif "--config-dir" not in flags:
        spaces = [word for word in overrides if "(" in word]  # read by the search's own tests
        lists = [word for word in overrides if "[" in word]
        alone = [w.split(",")[0] for w in overrides if w not in (*spaces, *lists)]
        composed(*alone, *lists)


def test_every_model_and_data_set_is_in_a_table():
    for group in ("model", "data"):
        for path in (conf_dir() / group).glob("[!_]*.yaml"):
            assert f"`{path.stem}`" in README
