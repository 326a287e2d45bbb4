"""Find similar items: `python -m mmrec.similar run=outputs/... items=[42]`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from mmrec.commands.app import answer, launch, output_file
from mmrec.commands.lists import SHOWN, SUFFIXES, table_text, write_lists
from mmrec.config.errors import SettingError, memory_suffices
from mmrec.config.schema import conf_dir
from mmrec.config.startup import import_torchmetrics
from mmrec.training.names import allowed_items, check_files, item_names, select
from mmrec.training.ranked_lists import similar_lists
from mmrec.training.results import locate_run

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command with the arguments of the process."""
    launch(_main, "similar")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="similar")
def _main(config: DictConfig) -> None:
    answer(config, "mmrec.commands.similar.similar", similar)


def similar(
    *,
    run: str | Path,
    items: str | Path | int | Sequence[str | int] | None = None,
    output: str | None = None,
    k: int = 10,
    exclude: str | Path | int | Sequence[str | int] | None = None,
    only: str | Path | int | Sequence[str | int] | None = None,
    block: int = 512,
    data_root: str | None = None,
    title: str | None = None,
    trust: str | Sequence[str] = (),
) -> Path | None:
    """Write or print the k most similar items of each item, the most similar first.

    Similarity is the cosine of item vectors, or the item-item weight for `ease` and `item_knn`. The
    columns are `item`, `similar`, `rank` (from 1) and `similarity`, then `item_id` and `similar_id`
    if the data have original ids, and `title` and `similar_title` if `items.csv` has titles.

    `items`, `exclude` and `only` take one id, a list of ids, or the path of a table. Ids are the
    original ids of the data if there are any, otherwise row numbers. A table has a column `item_id`
    (original ids) or `item` (row numbers), or the column of the data set, for example `itemID`.

    Args:
        run: run folder, its `result.json`, or one of its checkpoints.
        items: items to find neighbours of; None: all items, of which three are printed without
            `output`.
        output: `.parquet`, `.csv` or `.jsonl` file, written completely or not at all; None: print
            the lists.
        k: length of the lists; shorter if there are fewer candidates.
        exclude: items that are never listed.
        only: items that may be listed; None: all items.
        block: number of items compared at a time; limits the memory.
        data_root: folder of data sets; None: the folder that the run used if it exists, else
            `MMREC_DATA`.
        title: column of titles in `items.csv`; None: `data.columns.title` of the run.
        trust: modules outside mmrec that the run may import; each must be named only once.

    Returns:
        Path of the output file; None if the lists are printed.

    Raises:
        SettingError: a setting is invalid, an item is unknown, or the model cannot compare items.
        ResultError: the run folder is incomplete.
        DataError: the data differ from those of the run, or a table is invalid.
        NonFiniteScores: a similarity is NaN.
    """
    path = output_file("output", output, SUFFIXES) if output else None
    for name, value in (("k", k), ("block", block)):
        if value < 1:
            raise SettingError(setting=name, value=value, expected="1 or more")
    check_files(items=items, exclude=exclude, only=only)
    locate_run(run)  # before importing torch, which takes seconds
    import_torchmetrics()

    import polars as pl
    import torch

    from mmrec.models import NoSimilarity
    from mmrec.training.open_run import open_run

    opened = open_run(run, trust=trust, data_root=data_root, title=title)
    names = item_names(opened.data)
    if items is not None:
        chosen = select("items", items, names)
    else:
        chosen = torch.arange(names.count if path else min(SHOWN, names.count))
    allowed = allowed_items(exclude, only, names)
    lists = similar_lists(opened, chosen, k, allowed=allowed, block=block)
    what = "comparing this many items at a time needs"
    try:
        with memory_suffices(SettingError, setting="block", value=block, what=what, lower="it"):
            if path is not None:
                write_lists(lists, path)
            else:
                log.info("\n%s\n", table_text(_for_people(pl.concat(lists))))
    except NoSimilarity as error:
        raise SettingError(
            setting="run",
            value=run,
            problem=str(error),
            hint="give a run of ease, item_knn or a model with item embeddings",
        ) from None
    if path is not None:
        log.info("items: %d, list length: up to %d, file: %s", len(chosen), k, path)
    elif items is None:
        log.info(
            "%d of %d items; select others with items=[...], write all with output=similar.csv",
            len(chosen),
            names.count,
        )
    return path


def _for_people(frame: pl.DataFrame) -> pl.DataFrame:
    """Replace row numbers by original ids, if there are any, for printing."""
    end = "_id" if "item_id" in frame.columns else ""
    titled = "similar_title" in frame.columns
    return frame.select(
        frame[f"item{end}"].alias("item"),
        *([frame["title"]] if titled else []),
        frame["rank"],
        frame[f"similar{end}"].alias("similar"),
        *([frame["similar_title"]] if titled else []),
        frame["similarity"],
    )
