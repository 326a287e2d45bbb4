"""What README and the docs show is true: code runs, commands, settings and files exist."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from mmrec.commands.cli import COMMANDS
from mmrec.config.schema import conf_dir
from mmrec.config.words import prepared

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/**/*.md"))]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#([^)\s]+))?\)")
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:python -m mmrec\.|mmrec )(\w+) (.*)$", re.MULTILINE)
TINY = ("data.world.users=60", "data.world.items=60", "trainer=debug")
ADDED = {  # where it is shown how to add one
    "model": (README, "Add a model"),
    "routed model": (ROOT / "docs/extending.md", "A routed model"),
}


def section(path, title):
    """A section of a page, heading and all."""
    text = path.read_text()
    return re.search(rf"^## {title}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[0].strip()


def blocks(text, language):
    return [code for name, code in FENCED.findall(text) if name == language]


def commands():
    """Every command of each page with its words, comments and line breaks resolved."""
    found = []
    for path in PAGES:
        shell = "".join(blocks(path.read_text(), "bash")).replace("\\\n", " ")
        for name, words in COMMAND.findall(shell):
            if (name, words := tuple(words.split(" #")[0].split())) not in found:
                found.append((name, words))
    return found


# `python in_turn.py <commands>`: what `python <words>` does for each, started once.
IN_TURN = """
import json, os, runpy, sys

sys.path[0] = os.getcwd()
for words in json.loads(sys.argv.pop()):
    run = runpy.run_path
    if words[0] == "-m":
        del words[0]
        run = runpy.run_module
    sys.argv[:] = words
    try:
        run(words[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
    if "hydra" in sys.modules:
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.hydra_config import HydraConfig

        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
"""


def call(*commands, cwd):
    """What `python <words>` of each command prints, in a process for all of them."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, json.dumps(commands)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write(text, folder):
    """The two files of a section about a model of one's own, at the places that README names."""
    module, settings = re.findall(r"`(mine/\S+\.py|mine/conf/model/\S+)`", text)
    for path, language in ((module, "python"), (settings, "yaml")):
        [code] = blocks(text, language)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(code)


@pytest.fixture(scope="module", params=ADDED)
def added(request):
    """A section about a model of one's own."""
    return section(*ADDED[request.param])


@pytest.fixture(scope="module")
def written(tmp_path_factory, added):
    """A folder with the section's two files."""
    folder = tmp_path_factory.mktemp("user")
    write(added, folder)
    return folder


def test_a_model_is_added_in_under_40_lines():
    assert len(section(*ADDED["model"]).splitlines()) < 40


@pytest.mark.slow
def test_the_added_model_trains_is_evaluated_and_recommends(written, added):
    [command] = blocks(added, "bash")
    python, *words = command.split()
    assert python == "python"
    evaluate = ("-m", "mmrec.evaluate", "run=run")
    recommend = ("-m", "mmrec.recommend", "run=run", "output=recs.csv", "k=5")
    explain = [("-m", "mmrec.explain", "run=run")] if "routed" in added else []
    run = (*words, *TINY, "run_dir=run")
    assert "metrics are equal" in call(run, evaluate, recommend, *explain, cwd=written)
    assert json.loads((written / "run/result.json").read_text())["status"] == "completed"
    assert (written / "recs.csv").is_file()
    if explain:
        assert (
            "Items with the largest gates of each expert"
            in (written / "run/explain/index.html").read_text()
        )


@pytest.mark.slow
def test_the_added_models_keep_the_contract_once_they_are_part_of_the_checkout(tmp_path):
    for name in ("mmrec", "conf", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    names = []
    for place in ADDED.values():
        write(section(*place), tmp_path)
    for module in (tmp_path / "mine").glob("*.py"):
        names.append(module.stem)
        shutil.copy(module, tmp_path / "mmrec/models")
        settings = (tmp_path / f"mine/conf/model/{module.stem}.yaml").read_text()
        moved = settings.replace("mine.", "mmrec.models.")
        (tmp_path / f"conf/model/{module.stem}.yaml").write_text(moved)
    assert len(names) == len(ADDED)
    contract = ("tests/models/test_contract.py", "-k", " or ".join(f"[{name}" for name in names))
    said = call(("-m", "pytest", "-q", "-p", "no:cacheprovider", *contract), cwd=tmp_path)
    assert int(re.search(r"\b(\d+) passed", said)[1]) > 20 * len(names)


@pytest.mark.slow
def test_the_python_example_trains_and_tests(tmp_path):
    trained, opened = blocks(section(ROOT / "docs/python.md", "Models, data and trainer"), "python")
    (tmp_path / "example.py").write_text(trained)
    (tmp_path / "opened.py").write_text(opened + "print(type(run.model).__name__, run.data)")
    command = ("-m", "mmrec.run", "run_dir=outputs/first", "model=bpr", *TINY)
    said = call(("example.py",), command, ("opened.py",), cwd=tmp_path)
    assert "test/recall@20" in said.partition("data   ")[0]  # the card of the command
    assert "BPR" in said.rpartition("completed")[2]


@pytest.mark.slow
def test_the_python_example_of_new_items_scores_them(tmp_path):
    [scored] = blocks((ROOT / "docs/cold-start.md").read_text(), "python")
    cold = ("data=planted_cold", "evaluation.cutoffs=[5,10]", "trainer.check_val_every_n_epoch=1")
    command = ("-m", "mmrec.run", "model=mamex", *TINY, *cold, "run_dir=outputs/cold")
    opened, ranked = scored.split("with torch", 1)
    made = "import numpy\narray = numpy.ones((3, run.model.item_features.widths[0]))\nwith torch"
    (tmp_path / "new.py").write_text(opened + made + ranked + "print(scores.shape)")
    assert "torch.Size([2, 3])" in call(command, ("new.py",), cwd=tmp_path)


def anchors(path):
    """Fragments that the headings of a page have."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(path):
    for target, anchor in LINK.findall(path.read_text()):
        goal = path.parent / target
        assert goal.exists(), target
        assert not anchor or anchor in anchors(goal), f"{target}#{anchor}"


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


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
    if command == "prepare":
        of_data = [re.sub("^data=", "prepare@data=", word) for word in overrides]
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            compose("prepare", prepared(of_data))
    elif command != "run":
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
    for group, page in (("model", "docs/models/index.md"), ("data", "docs/datasets.md")):
        for path in (conf_dir() / group).glob("[!_]*.yaml"):
            assert f"`{path.stem}`" in (ROOT / page).read_text()
