"""Check that the files of this package are its own."""

from __future__ import annotations

from pathlib import Path

FOREIGN = "predictor.py"  # a module of the other package that has no counterpart here


def check_installation(folder: Path) -> None:
    """Refuse an installation that another package has mixed with.

    The package `multimodal-recommender` also installs a top-level `mmrec`. Whichever is installed
    last overwrites files of the other one.

    Args:
        folder: where this package is installed.

    Raises:
        ImportError: files of the other package lie in the folder.
    """
    if (folder / FOREIGN).exists():
        raise ImportError(
            f"{folder} also contains files of the package multimodal-recommender, which overwrite "
            "those of mmrec; run `pip uninstall multimodal-recommender` and then install mmrec "
            "again with `pip install --force-reinstall --no-deps`"
        )
