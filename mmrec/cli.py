"""The console script: `mmrec <command> ...` is `python -m mmrec.<command> ...`."""

from __future__ import annotations

import logging
import os
import re
import runpy
import sys

from mmrec import __version__
from mmrec.config import nearest

COMMANDS = {
    "run": "train a model, select it on validation, test it once",
    "evaluate": "recompute a run's numbers from its checkpoint",
    "recommend": "write each user's best items to a file",
    "explain": "show which experts and modalities carry a run's scores",
    "report": "compare runs: tables, figures and a page",
}
HELP = "\n".join(
    [
        "usage: mmrec <command> [setting=value ...]",
        "",
        *(f"  {name:<12}{what}" for name, what in COMMANDS.items()),
        "",
        "mmrec <command> --help   what it takes",
        "mmrec --version",
        'eval "$(mmrec -sc install=bash)"   completes commands and settings with TAB',
        "",
    ]
)


def main() -> None:
    """Hand over to a command."""
    words = sys.argv[1:]
    match words:
        case [] | ["-h" | "--help" | "help", *_]:
            sys.stdout.write(HELP)
        case ["--version"]:
            sys.stdout.write(f"mmrec {__version__}\n")
        case ["-sc" | "--shell-completion", *_]:
            _complete()
        case [command, *rest] if command in COMMANDS:
            # As `python -m` does it, which is also how processes of a distributed run are started.
            sys.argv[1:] = rest
            runpy.run_module(f"mmrec.{command}", run_name="__main__", alter_sys=True)
        case [command, *_]:
            sys.exit(f"error: {command}: no such command" + nearest(command, COMMANDS))


def _complete() -> None:
    """Answer the shell: names of commands, then what Hydra knows about the one that is named."""
    line = os.environ.get("COMP_LINE", "")
    command, word = "run", re.fullmatch(r"\s*\S+\s+(\S*)", line)
    if word:
        sys.stdout.write(" ".join(name for name in COMMANDS if name.startswith(word[1])) + "\n")
        return
    if named := re.match(r"(\s*\S+)\s+(\S+)(?=\s)", line):
        command = named[2]
        os.environ["COMP_LINE"] = named[1] + line[named.end() :]
    if command in COMMANDS:
        logging.disable()  # what is said on the way is no completion
        runpy.run_module(f"mmrec.{command}", run_name="__main__")
