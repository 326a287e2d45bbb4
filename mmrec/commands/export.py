"""Vectors of a run for retrieval: `python -m mmrec.export run=outputs/... output=vectors`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import hydra
from omegaconf import DictConfig

from mmrec.commands.app import answer, launch
from mmrec.config.errors import SettingError
from mmrec.config.paths import expand
from mmrec.config.schema import conf_dir
from mmrec.config.startup import import_torchmetrics
from mmrec.training.results import locate_run

log = logging.getLogger(__name__)


def main() -> None:
    """The command."""
    launch(_main, "export")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="export")
def _main(config: DictConfig) -> None:
    answer(config, "mmrec.commands.export.export", export)


def export(
    *,
    run: str | Path,
    output: str,
    index: Literal["faiss"] | None = None,
    data_root: str | None = None,
    title: str | None = None,
    trust: str | Sequence[str] = (),
) -> Path:
    """Write the vectors of users and items, their names, and on request an index of the items.

    See `mmrec.training.vectors.write_vectors` for the files.

    Args:
        run: its folder, its `result.json`, or one of its checkpoints.
        output: a new or empty folder, written as a whole or not at all.
        index: `faiss`: also an index of the item vectors by inner product.
        data_root: the folder of data sets; None: the run's own if it is there, else `MMREC_DATA`.
        title: the column of titles in `items.csv`; None: the run's `data.columns.title`.
        trust: modules outside mmrec that the run may import; needed once for each.

    Returns:
        The folder.

    Raises:
        SettingError: an invalid setting, or a model without vectors.
        ResultError: the folder is no complete run.
        DataError: the data are not those of the run.
        NonFiniteScores: a vector is NaN or infinite.
    """
    folder = expand(output)
    check_new(folder)
    if index == "faiss" and find_spec("faiss") is None:
        raise SettingError(
            setting="index",
            value=index,
            problem="the package faiss is not installed",
            hint="pip install 'mmrec[faiss]', or leave the setting out",
        )
    locate_run(run)  # before torch is loaded, which takes seconds
    import_torchmetrics()

    from mmrec.training.open_run import open_run
    from mmrec.training.vectors import SCORES, write_vectors

    opened = open_run(run, trust=trust, data_root=data_root, title=title)
    vectors = write_vectors(opened, folder, index=index)
    name = type(opened.model).__name__
    if vectors.users is None:
        log.warning("item vectors only: the score of %s is %s", name, SCORES[vectors.score])
    log.info(
        "users: %s, items: %d, width: %d, folder: %s",
        "none" if vectors.users is None else len(vectors.users),
        *vectors.items.shape,
        folder,
    )
    return folder


def check_new(folder: Path) -> None:
    """Refuse a folder that cannot be written anew.

    Raises:
        SettingError: it holds something, or its parent is missing.
    """
    problem, hint = None, "give another folder"
    if folder.exists() and not folder.is_dir():
        problem = "it is a file"
    elif folder.is_dir() and any(folder.iterdir()):
        problem, hint = "the folder is not empty", "give another one, or remove its content"
    elif not folder.absolute().parent.is_dir():
        problem, hint = f"there is no folder {folder.absolute().parent}", "make it first"
    if problem is not None:
        raise SettingError(setting="output", value=str(folder), problem=problem, hint=hint)
