"""Check that no other package has installed files into this package."""

from __future__ import annotations

from pathlib import Path

FOREIGN = "predictor.py"  # a module that exists only in the other package


def check_installation(folder: Path) -> None:
    """Check that the installation contains no files of another package.

    The package `multimodal-recommender` also installs a top-level `mmrec`. The package that is
    installed last overwrites files of the other one.

    Args:
        folder: folder of this package.

    Raises:
        ImportError: the folder contains files of the other package.
    """
    if (folder / FOREIGN).exists():
        raise ImportError(
            f"{folder} also contains files of the package multimodal-recommender, which overwrite "
            "those of mmrec; run `pip uninstall multimodal-recommender` and then install mmrec "
            "again with `pip install --force-reinstall --no-deps`"
        )
