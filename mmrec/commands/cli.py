"""The console script: `mmrec <command> ...` runs `python -m mmrec.<command> ...`."""

from __future__ import annotations

import logging
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from typing import Literal, get_args, get_origin, get_type_hints

from mmrec import __version__
from mmrec.config.schema import conf_dir, nearest
from mmrec.training.provenance import flat
from mmrec.training.trust import search_working_directory

COMMANDS = {
    "run": "train a model, select the best epoch on validation, test it once",
    "evaluate": "recompute the metrics of a run from its checkpoint",
    "recommend": "write or print the top items of each user",
    "similar": "write or print the most similar items of each item",
    "export": "write the vectors of users and items of a run",
    "explain": "show which experts and modalities carry the scores of a run",
    "prepare": "make a data set from raw files or your own tables",
    "report": "compare runs: tables, figures and a page",
}
HELP = "\n".join(
    [
        "usage: mmrec <command> [setting=value ...]",
        "",
        *(f"  {name:<12}{what}" for name, what in COMMANDS.items()),
        "",
        "mmrec <command> --help   settings of a command, and examples",
        "mmrec --version          version of mmrec",
        'eval "$(mmrec -sc install=bash)"   complete commands and settings with TAB in bash',
        "",
    ]
)
# Hydra settings that are useful with `run`, offered once the user has typed `hydra`.
HYDRA = ("hydra/launcher=", "hydra.launcher.", "hydra/sweeper=", "hydra.sweeper.", "hydra.sweep.")


def main() -> None:
    """Run the command named by the first argument."""
    words = sys.argv[1:]
    match words:
        case [] | ["-h" | "--help" | "help", *_]:
            sys.stdout.write(HELP)
        case ["--version"]:
            sys.stdout.write(f"mmrec {__version__}\n")
        case ["-sc" | "--shell-completion", *_]:
            _complete()
        case [command, *rest] if command in COMMANDS:
            # As `python -m` does, which also starts the processes of a distributed run.
            sys.argv[1:] = rest
            search_working_directory()
            runpy.run_module(f"mmrec.{command}", run_name="__main__", alter_sys=True)
        case [command, *_]:
            sys.exit(f"error: {command}: no such command" + nearest(command, COMMANDS))


def _complete() -> None:
    """Print completions: names of commands, then the settings of the typed command."""
    line = os.environ.get("COMP_LINE", "")
    command, word = "run", re.fullmatch(r"\s*\S+\s+(\S*)", line)
    if word:
        sys.stdout.write(" ".join(name for name in COMMANDS if name.startswith(word[1])) + "\n")
        return
    if named := re.match(r"(\s*\S+)\s+(\S+)(?=\s)", line):
        command = named[2]
        os.environ["COMP_LINE"] = named[1] + line[named.end() :]
    if command not in COMMANDS:
        return
    logging.disable()  # log messages would be read as completions
    answer = StringIO()
    with redirect_stdout(answer):
        names = runpy.run_module(f"mmrec.{command}", run_name="__main__")
    if not line:  # print the script that installs completion
        sys.stdout.write(answer.getvalue())
        return
    offered = answer.getvalue().split()
    if command == "run":
        completed = _of_run(line, offered)
    else:
        completed = _of_command(names[command], command, re.split(r"\s", line)[-1], offered)
    sys.stdout.write(" ".join(completed) + "\n")


def _of_run(line: str, offered: list[str]) -> Iterator[str]:
    """Filter the completions that Hydra offers for `run`: no internal settings or base files."""
    typed = re.split(r"\s", line)[-1]
    if typed.startswith("ablation="):  # Hydra offers them as groups of the same name
        folder = conf_dir() / "ablation"
        names = sorted(path.relative_to(folder) for path in folder.glob("*/*.yaml"))
        offered = [f"ablation={name.with_suffix('').as_posix()}" for name in names]
        offered = [option for option in offered if option.startswith(typed)]
    for option in offered:
        setting, _, choice = option.partition("=")
        if setting.rpartition(".")[2].startswith("_") or choice.startswith("_"):
            continue
        if setting == "prepare":  # the group of another command
            continue
        if option.startswith("hydra"):
            if typed.startswith("hydra") and option.startswith(HYDRA):
                yield option
        elif option.startswith("ablation/"):
            if option == "ablation/" and typed != option:
                yield "ablation="
        elif option == "sweep":
            yield "sweep="
        elif not option.startswith("sweep/") or " sweep=" in line:
            yield option


def _of_command(
    function: Callable[..., object], command: str, typed: str, offered: list[str]
) -> Iterator[str]:
    """Complete another command: names of settings, then the choices of a setting or files.

    Args:
        function: implementation of the command; its annotations list the choices.
        command: name of the command.
        typed: the word before the cursor.
        offered: completions of Hydra, which include the groups of `run`.
    """
    import yaml

    settings = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())
    settings = flat({name: settings[name] for name in settings.keys() - {"defaults", "hydra"}})
    name, equals, value = typed.partition("=")
    if command == "prepare" and name == "data" and equals:
        found = [f"data={path.stem}" for path in sorted((conf_dir() / "prepare").glob("[!_]*"))]
    elif not equals:
        found = [f"{setting}=" for setting in (*["data"] * (command == "prepare"), *settings)]
    elif not value.startswith((".", "/")) and (
        choices := _choices(get_type_hints(function).get(name))
    ):
        found = [f"{name}={choice}" for choice in choices]
    else:
        plain = name in settings and not isinstance(settings[name], list)
        found = offered if plain else []
    return (option for option in found if option.startswith(typed))


def _choices(hint: object) -> list[str]:
    """Return the values of a `Literal`, also inside an optional type."""
    if get_origin(hint) is Literal:
        return [*map(str, get_args(hint))]
    return [choice for part in get_args(hint) for choice in _choices(part)]
