"""Multimodal recommendation: Hydra composes the experiment, Lightning runs it."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrec.api import Corpus, OpenRun, fit, open_run

__version__ = "0.1.0"
__all__ = ["Corpus", "OpenRun", "__version__", "fit", "open_run"]


def __getattr__(name: str) -> Any:
    """Import what is offered on first use, as torch takes seconds."""
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mmrec.api"), name)


def _started_by_python_m() -> bool:
    """Whether `python -m mmrec.<command>` is importing this package to find its command."""
    # Meanwhile argv[0] is "-m", and the name of the module precedes the arguments.
    started = sys.argv[:1] == ["-m"] and not sys.flags.safe_path
    return started and sys.orig_argv[-len(sys.argv)].removeprefix("-m").startswith("mmrec.")


if _started_by_python_m():
    # Python has put the working directory first, where a module would shadow an installed one.
    # Nothing else is imported before it is moved to the end, where the console script adds it.
    try:
        if sys.path[0] == os.getcwd():  # noqa: PTH109, pathlib is not imported yet
            del sys.path[0]
    except FileNotFoundError:  # the working directory was removed
        pass
    from mmrec.training.trust import search_working_directory

    search_working_directory()
