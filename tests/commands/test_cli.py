"""The console script: what it says, hands over and completes."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import warnings

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

import mmrec
from mmrec.commands.cli import main
from mmrec.config.schema import conf_dir
from mmrec.training.trust import leave_run_folders

CONFIGS = {"run": "config.yaml"}
COMMANDS = ("run", "evaluate", "recommend", "similar", "export", "explain", "prepare", "report")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The console script, as an installer writes it."""
    path = tmp_path_factory.mktemp("bin") / "mmrec"
    path.write_text(f"#!{sys.executable}\nfrom mmrec.commands.cli import main\n\nmain()\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def call(script, tmp_path):
    """`call(*words)` in an empty folder, which stays empty."""

    def run(*words, **env):
        done = subprocess.run(
            [script, *words], cwd=tmp_path, env=os.environ | env, capture_output=True, text=True
        )
        assert not any(tmp_path.iterdir())
        return done

    return run


@pytest.fixture
def complete(monkeypatch, capsys):
    """`complete(line)`: what TAB offers, asked in this process as a new one takes seconds."""

    def ask(line):
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        monkeypatch.setattr(sys, "argv", ["mmrec", "-sc", "query=bash"])
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
                main()
        finally:
            logging.disable(logging.NOTSET)
            GlobalHydra.instance().clear()
        return capsys.readouterr().out.split()

    return ask


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_it_lists_its_commands(call, words):
    done = call(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS)


def test_it_tells_its_version(call):
    assert call("--version").stdout == f"mmrec {mmrec.__version__}\n"


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("recomend", "recommend"),
        ("rnu", "run"),
        ("zzz", "; the choices are evaluate, explain, export, prepare"),
    ],
)
def test_an_unknown_command_is_one_line_with_the_nearest(call, word, nearest):
    done = call(word, "model=lightgcn")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {word}: no such command")
    assert nearest in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run", "Train a recommender"),
        ("evaluate", "Recompute the metrics of a run"),
        ("recommend", "Write or print the top items of each user"),
        ("similar", "Write or print the most similar items"),
        ("export", "Write the vectors of users and items"),
        ("report", "Compare runs"),
        ("prepare", "Create a data set from public raw files"),
        ("explain", "Show the weights of modalities and experts"),
    ],
)
def test_a_command_explains_itself_without_loading_torch(command, said):
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('TORCH' if 'torch' in sys.modules else 'LIGHT'))\n"
        f"sys.argv = ['mmrec', {command!r}, '--help']\n"
        "from mmrec.commands.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert done.stdout.endswith("LIGHT\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_setting_and_names_the_completion(command):
    config = yaml.safe_load((conf_dir() / CONFIGS.get(command, f"{command}.yaml")).read_text())
    text = config["hydra"]["help"]["template"]
    groups = [next(iter(d)) for d in config["defaults"] if isinstance(d, dict)]
    groups = [group.rpartition("@")[2] for group in groups]
    for setting in {*config, *groups} - {"defaults", "hydra", "override hydra/job_logging"}:
        line = re.search(rf"^{setting}[.=]\S+ +(.{{4,}})", text, re.MULTILINE)
        assert line, setting
    assert 'eval "$$(mmrec -sc install=bash)"' in text  # Hydra's template writes $$ for $


def test_a_run_leaves_out_what_torchmetrics_would_have_for_other_fields(surroundings, tmp_path):
    code = (
        "import sys, mmrec.run\n"
        "sys.argv = ['run', 'data.world.users=60', 'data.world.items=60', 'trainer.max_epochs=1',"
        " 'model=bpr', 'run_dir=mine']\n"
        "mmrec.commands.run.main()\n"
        "assert not {'scipy.signal', 'scipy.stats', 'matplotlib.pyplot'} & sys.modules.keys()\n"
        "import scipy.signal, matplotlib.pyplot, torchmetrics.functional.audio\n"
        "from lightning_utilities.core.imports import RequirementCache, module_available\n"
        "assert RequirementCache('scipy') and module_available('matplotlib.pyplot')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=surroundings
    )
    assert done.returncode == 0, done.stderr


def test_a_run_needs_nothing_of_packages_for_other_fields(surroundings, tmp_path):
    """torchmetrics imports transformers where it is, and ends with it where that is broken."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text("raise OSError('broken')\n")
    (tmp_path / "transformers-5.0.dist-info").mkdir()
    (tmp_path / "transformers-5.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: transformers\nVersion: 5.0\n"
    )
    code = (
        "from mmrec.config.startup import import_torchmetrics\n"
        "import_torchmetrics()\nimport mmrec.evaluation"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=surroundings | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


def test_a_command_gets_its_words_and_its_exit_status_comes_back(call):
    done = call("evaluate", "run=nowhere", "split=tset")
    assert done.returncode == 1
    assert done.stderr.startswith("error: split=tset: Input should be 'val' or 'test'")


@pytest.mark.parametrize("safe", ["", "1"])
def test_the_working_directory_is_searched_as_by_python_m(surroundings, tmp_path, safe):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mmrec").write_text(
        "import importlib.util, sys\n"
        "from mmrec.commands.cli import main\n"
        "import mmrec.commands.app\n"
        "found = importlib.util.find_spec\n"
        "mmrec.commands.app.launch = lambda *_: print(found('mine') is not None)\n"
        "main()\n"
    )
    (tmp_path / "mine.py").touch()
    done = subprocess.run(
        [sys.executable, "bin/mmrec", "run"],
        cwd=tmp_path,
        env=surroundings | {"PYTHONSAFEPATH": safe, "PYTHONPATH": str(conf_dir().parent)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(not safe), done.stderr


def test_completion_imports_nothing_from_the_working_directory(script, tmp_path):
    (tmp_path / "yaml.py").write_text("raise SystemExit('imported')\n")
    line = "mmrec report ba"
    done = subprocess.run(
        [script, "-sc", "query=bash"],
        cwd=tmp_path,
        env=os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["baseline="], done.stderr


def test_a_process_of_its_own_is_started_with_the_same_words():
    """Lightning starts `python -m <name of __main__> <argv>` for every further device."""
    code = (
        "import sys, runpy\n"
        "from mmrec.commands.cli import main\n"
        "import mmrec.commands.app\n"
        "def launch(*args):\n"
        "    print(sys.modules['__main__'].__spec__.name, *sys.argv[1:])\n"
        "mmrec.commands.app.launch = launch\n"
        "sys.argv = ['mmrec', 'run', 'model=bpr', 'trainer=ddp']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "mmrec.run model=bpr trainer=ddp\n", done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mmrec ", set(COMMANDS)),
        ("mmrec re", {"recommend", "report"}),
        ("mmrec run", {"run"}),
        ("mmrec run model=li", {"model=lightgcn"}),
        ("mmrec  run  data=planted model=ga", {"model=gated_lightgcn"}),
        ("/opt/bin/mmrec run see", {"seed="}),
        ("mmrec evaluate run=x sp", {"split="}),
        ("mmrec recommend bl", {"block="}),
        ("mmrec report base", {"baseline="}),
        ("mmrec typo mod", set()),
        ("mmrec similar o", {"only=", "output="}),
        ("mmrec similar data", {"data.root=", "data.columns.title="}),
        ("mmrec similar data=", set()),
        ("mmrec similar tr", {"trust="}),
        ("mmrec similar trust=", set()),
        ("mmrec report metric", {"metric=", "metrics="}),
        ("mmrec recommend seen=", {"seen=train", "seen=train+val", "seen=all", "seen=none"}),
        ("mmrec recommend run=x seen=tr", {"seen=train", "seen=train+val"}),
        ("mmrec recommend history=", {"history=train", "history=train+val", "history=all"}),
        ("mmrec recommend block=", {"block=512"}),
        ("mmrec explain accelerator=", {"accelerator=auto", "accelerator=cpu", "accelerator=gpu"}),
        ("mmrec evaluate split=", {"split=val", "split=test"}),
        ("mmrec evaluate candidates=", {"candidates=all", "candidates=cold", "candidates=split"}),
        ("mmrec recommend mo", set()),
        ("mmrec prepare data=b", {"data=baby", "data=beauty"}),
        ("mmrec prepare da", {"data="}),
        ("mmrec run prep", set()),
        ("mmrec report hyd", set()),
        ("mmrec run hydra/la", {"hydra/launcher="}),
        ("mmrec run ablation", {"ablation="}),
        (
            "mmrec run ablation=gated_lightgcn/layers_",
            {f"ablation=gated_lightgcn/layers_{n}" for n in (0, 1, 3, 4)},
        ),
        ("mmrec run swee", {"sweep="}),
        ("mmrec run -m sweep=bpr sweep/sa", {"sweep/sampler="}),
    ],
)
def test_what_is_typed_is_completed(complete, line, expected):
    assert set(complete(line)) == expected


def test_a_file_is_completed_where_words_are_choices_too(complete, tmp_path):
    (tmp_path / "sessions.csv").touch()
    line = f"mmrec recommend history={tmp_path}/se"
    assert complete(line) == [f"history={tmp_path}/sessions.csv"]


@pytest.mark.parametrize("command", COMMANDS)
def test_only_what_a_command_takes_is_completed(command, complete):
    settings = yaml.safe_load((conf_dir() / CONFIGS.get(command, f"{command}.yaml")).read_text())
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    known = settings.keys() - {"defaults", "hydra"} | (groups if command == "run" else set())
    known |= {"data"} if command == "prepare" else set()  # a group of its own
    offered = complete(f"mmrec {command} ")
    assert {re.split("[.=/]", option)[0] for option in offered} >= settings.keys() - {
        "defaults",
        "hydra",
    }
    assert {re.split("[.=/]", option)[0] for option in offered} <= known
    if command == "run":
        for prefix in ("data=", "sweep=", "trainer=", "grid=", "model.", "data."):
            found = complete(f"mmrec run {prefix}")
            assert found
            assert not [o for o in found if re.search(r"[.=]_", o)]


def test_bash_completes_after_the_line_that_the_help_names(script, tmp_path):
    session = (
        'eval "$(mmrec -sc install=bash)"\n'
        "complete -p mmrec\n"
        "COMP_WORDS=(mmrec run model=li) COMP_CWORD=2\n"
        'COMP_LINE="mmrec run model=li" COMP_POINT=18\n'
        "hydra_bash_completion\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    env = os.environ | {"PATH": f"{script.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", session], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    registered, completed = done.stdout.splitlines()
    assert registered.endswith("-F hydra_bash_completion mmrec"), done.stderr
    assert completed == "model=lightgcn"


@pytest.fixture
def run_folder(tmp_path):
    """A run folder whose modules say when they are executed."""
    folder = tmp_path / "run"
    (folder / "hydra_plugins").mkdir(parents=True)
    (folder / "hydra").mkdir()
    for name in ("config.yaml", "result.json"):
        (folder / name).write_text("{}")
    for name in ("hydra_plugins/evil.py", "hydra/__init__.py", "omegaconf.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["", "hydra"])
def test_the_console_script_executes_nothing_of_a_run_folder(
    script, surroundings, run_folder, inside
):
    env = surroundings | {"PYTHONPATH": str(conf_dir().parent)}
    words = [script, "evaluate", f"run={run_folder}"]
    done = subprocess.run(words, cwd=run_folder / inside, env=env, capture_output=True, text=True)
    assert done.stderr.startswith("error: "), done.stderr
    assert not (run_folder.parent / "executed").exists()


@pytest.mark.slow
@pytest.mark.parametrize("by", ["cwd", "PYTHONPATH"])
def test_python_m_executes_nothing_of_a_run_folder(surroundings, run_folder, by):
    places = [str(conf_dir().parent), *([str(run_folder)] if by == "PYTHONPATH" else [])]
    done = subprocess.run(
        [sys.executable, "-m", "mmrec.evaluate", f"run={run_folder}"],
        cwd=run_folder if by == "cwd" else run_folder.parent,
        env=surroundings | {"PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
    )
    assert done.stderr.startswith("error: "), done.stderr
    assert not (run_folder.parent / "executed").exists()


@pytest.mark.parametrize("start", [["-m", "mmrec.evaluate"], ["-mmmrec.evaluate"], ["bin/mmrec"]])
def test_installed_modules_come_before_those_of_the_working_directory(
    surroundings, tmp_path, start
):
    """Each module writes its name; the command then fails in a settings check or at `mine`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mmrec").write_text("from mmrec.commands.cli import main\n\nmain()\n")
    for name in ("hydra", "omegaconf", "pydantic", "torch", "yaml"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit({name!r})\n")
    (tmp_path / "hydra_plugins").mkdir()  # Hydra imports all modules of this namespace
    (tmp_path / "hydra_plugins/mine.py").write_text("raise SystemExit('mine was found')\n")
    words = start if start[0].startswith("-") else [*start, "evaluate"]
    done = subprocess.run(
        [sys.executable, *words, "run=nowhere"],
        cwd=tmp_path,
        env=surroundings | {"PYTHONPATH": str(conf_dir().parent)},
        capture_output=True,
        text=True,
    )
    assert "mine was found" in done.stderr


@pytest.mark.parametrize("words", [["-c", "import own"], ["-m", "own"], ["own.py"]])
def test_the_library_leaves_the_search_path_as_it_is(surroundings, tmp_path, words):
    (tmp_path / "own.py").write_text(
        "import sys\nbefore = [*sys.path]\nimport mmrec\nassert sys.path == before\n"
    )
    env = surroundings | {"PYTHONPATH": str(conf_dir().parent)}
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_entries_of_the_path_in_a_run_folder_are_dropped(run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(run_folder)
    monkeypatch.setattr(sys, "path", ["", str(run_folder / "hydra"), str(tmp_path), "nowhere"])
    leave_run_folders()
    assert sys.path == [str(tmp_path)]
