"""Recommend items: `python -m mmrec.recommend run=outputs/... output=recs.parquet`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import hydra
from omegaconf import DictConfig

from mmrec.commands.app import answer, launch, output_file
from mmrec.commands.lists import SHOWN, SUFFIXES, table_text, write_lists
from mmrec.commands.shards import (
    REQUEST,
    Engine,
    as_text,
    check_parts,
    join,
    parse_shard,
    request_of,
    write_with_ray,
)
from mmrec.config.checks import check_choice
from mmrec.config.errors import SettingError, memory_suffices
from mmrec.config.literals import Known, Masked
from mmrec.config.paths import expand
from mmrec.config.schema import conf_dir
from mmrec.config.startup import import_torchmetrics
from mmrec.training.names import Names, allowed_items, check_files, select, user_names
from mmrec.training.ranked_lists import offered, ranked_lists
from mmrec.training.results import locate_run

if TYPE_CHECKING:
    import polars as pl

    from mmrec.data import Corpus, Modality

log = logging.getLogger(__name__)
LENGTH = 20  # default length of a list


def main() -> None:
    """Run the command with the arguments of the process."""
    launch(_main, "recommend")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="recommend")
def _main(config: DictConfig) -> None:
    answer(config, "mmrec.commands.recommend.recommend", recommend)


def recommend(
    *,
    run: str | Path,
    output: str | None = None,
    k: int | None = None,
    users: str | Path | int | Sequence[str | int] | None = None,
    items: str | None = None,
    seen: Masked = "train+val",
    history: Known | str | Path | None = None,
    exclude: str | Path | int | Sequence[str | int] | None = None,
    only: str | Path | int | Sequence[str | int] | None = None,
    block: int = 512,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    data_root: str | None = None,
    title: str | None = None,
    trust: str | Sequence[str] = (),
    shard: str | int | None = None,
    engine: Engine = "local",
) -> Path | None:
    """Write or print the top-k items of each user, best first.

    The columns are `user`, `item`, `rank` (from 1) and `score`, then `user_id` and `item_id` if the
    data have original ids, and `title` if `items.csv` has titles. Users with fewer than k
    candidates have fewer rows.

    `users`, `exclude` and `only` take one id, a list of ids, or the path of a table. Ids are the
    original ids of the data if there are any, otherwise row numbers. A table has a column `user_id`
    or `item_id` (original ids), `user` or `item` (row numbers), or the column of the data set, for
    example `userID` or `itemID`.

    `history` may be a table with the histories of users or sessions that were not in training. Each
    row is an interaction, with a column of users, a column of items, and a column of times or
    positions. The columns are named as in the data set, or `user_id` or `user`, `item_id` or
    `item`, `timestamp` and `position`. Items are original ids if there are any; columns other than
    `item_id` may contain row numbers instead. Filters of the data set are not applied. The lists
    are for the users of the table, in its order: `user` is their number, `user_id` their id in the
    table.

    Args:
        run: run folder, its `result.json`, or one of its checkpoints.
        output: `.parquet`, `.csv` or `.jsonl` file, written completely or not at all; None: print
            the lists.
        k: length of the lists; None: 20.
        users: users to recommend to; None: all, of whom three are printed without `output`.
        items: a folder with `<modality>_feat.npy` of items that came after training, a row an item,
            and perhaps `i_id_mapping.csv`; they alone are ranked. None: the catalogue.
        seen: items that are masked because the user has them: in `train`, in `train+val` (as a
            test with these masked), or in `all` of the data, including test, what the split leaves
            out, and what filters such as `data.min_rating` removed. With a table of histories, each
            of these masks the user's history. New items are never masked.
        history: for a model that reads histories, the interactions that a user's history is made
            of: `train`, `train+val`, or `all` (test too); None: those of the run's test. Or a table
            of histories, for such a model only.
        exclude: items that are not recommended to anybody.
        only: items that may be recommended; None: all.
        block: users that are scored at a time; bounds the memory.
        accelerator: what to compute on.
        data_root: the folder of data sets; None: the run's own if it is there, else `MMREC_DATA`.
        title: the column of titles in `items.csv`; None: the run's `data.columns.title`.
        trust: modules outside mmrec that the run may import; needed once for each.
        shard: write a part of the users, for example `3/64` for the third of 64 parts; `64` writes
            all 64. `output` is then a folder of Parquet files. Parts that exist are kept, and
            `manifest.json` is written when all of them exist.
        engine: of `shard=64`: `local` writes the parts one after another, `ray` as tasks of a Ray
            cluster.

    Returns:
        The output file or folder, if there is one.

    Raises:
        SettingError: a setting is invalid, or a user or item is unknown.
        ResultError: the run folder is incomplete.
        DataError: the data differ from those of the run, a table is invalid, or the features of new
            items do not match the features in training.
        NonFiniteScores: a score is NaN or infinite.
    """
    for name, value in (("k", k), ("block", block)):
        if value is not None and value < 1:
            raise SettingError(setting=name, value=value, expected="1 or more")
    length = LENGTH if k is None else k
    check_files(users=users, exclude=exclude, only=only)
    table = _table_of_histories(history)
    locate_run(run)  # before torch is loaded, which takes seconds
    check_choice(Engine, engine=engine)
    parts, request, path = None, None, None
    outputs: list[tuple[int | None, Path | None]] = []  # the part and the file of each list
    if shard is None:
        if engine != "local":
            raise SettingError(
                setting="engine",
                value=engine,
                problem="it writes lists in parts",
                hint="add the number of parts, for example shard=64 output=lists",
            )
        path = output_file("output", output, SUFFIXES) if output else None
        outputs = [(None, path)]
    else:
        parts = parse_shard(shard, output)
        path = parts.folder
        path.mkdir(parents=True, exist_ok=True)
        deciding = {"k": length, "users": users, "items": items, "seen": seen, "history": history}
        deciding |= {"exclude": exclude, "only": only, "title": title}
        request = request_of(run, deciding)
        check_parts(parts, request)
        missing = parts.missing()
        log.info("parts to write: %d", len(missing))
        if missing and engine == "ray":
            machine = {"block": block, "accelerator": accelerator, "data_root": data_root}
            where = {"run": run, "output": output, "trust": trust}
            write_with_ray(parts, missing, {**deciding, **machine, **where})
        elif missing:
            outputs = [(number, parts.path(number)) for number in missing]
        if not outputs:
            join(parts, request)
            return path
    import_torchmetrics()

    import polars as pl
    import torch

    from mmrec.training.given_histories import read_histories
    from mmrec.training.open_run import open_run

    opened = open_run(run, trust=trust, data_root=data_root, title=title)
    corpus = opened.corpus
    offer = offered(opened.data, expand(items) if items else None)
    offer = offer._replace(allowed=allowed_items(exclude, only, offer.names))
    names = user_names(opened.data)
    given = None if table is None else read_histories(opened, table)
    if given is not None:
        names = Names("user", str(table), len(given), given.ids)
    if users is not None:
        chosen = select("users", users, names)
    else:
        chosen = torch.arange(names.count if path else min(SHOWN, names.count))
    blocks = [
        (chosen if parts is None or number is None else parts.users(chosen, number), file)
        for number, file in outputs
    ]
    chosen = torch.cat([part for part, _ in blocks])
    cold = 0 if given is not None else int((corpus.user_counts()[chosen] == 0).sum())
    if cold:
        log.warning(
            "%d of %d users have no training interactions, so their lists may not be meaningful",
            cold,
            len(chosen),
        )
    if corpus.filtered and given is None and seen != "all" and offer.new is None:
        log.info(
            "items in test, and in interactions that a filter such as data.min_rating removed, are "
            "not masked; use seen=all to mask them"
        )
    known = cast("Known | None", history) if given is None else given
    metadata = {} if request is None else {REQUEST: as_text(request)}
    what = "ranking this many users at a time needs"
    with memory_suffices(SettingError, setting="block", value=block, what=what, lower="it"):
        for part, file in blocks:
            lists = ranked_lists(opened, part, length, seen, block, accelerator, offer, known)
            if file is not None:
                write_lists(lists, file, metadata)
            else:
                log.info("\n%s\n", table_text(_for_people(pl.concat(lists))))
    if offer.new is not None:
        _warn_of_gaps(offer.new, corpus, items)
    if path is not None:
        log.info("users: %d, list length: up to %d, file: %s", len(chosen), length, path)
        if parts is not None and request is not None:
            join(parts, request)
    elif users is None:
        log.info(
            "%d of %d users; select others with users=[...], write all with output=recs.csv",
            len(chosen),
            names.count,
        )
    return path


def _table_of_histories(history: str | Path | None) -> Path | None:
    """Return the path of a table of histories, or None if the setting names parts of the data.

    Raises:
        SettingError: the setting names neither parts of the data nor a file.
    """
    if history is None or history in get_args(Known):
        return None
    if not expand(history).is_file():
        raise SettingError(
            setting="history",
            value=str(history),
            problem="no such file",
            expected=f"{', '.join(get_args(Known))}, or a table of histories",
        )
    return expand(history)


def _for_people(frame: pl.DataFrame) -> pl.DataFrame:
    """Replace row numbers by original ids, if there are any, for printing."""
    named = {name.removesuffix("_id") for name in frame.columns if name.endswith("_id")}
    shown = frame.drop(named).rename({f"{name}_id": name for name in named})
    return shown.select("user", "rank", "item", *(["title"] * ("title" in shown.columns)), "score")


def _warn_of_gaps(new: Mapping[str, Modality], corpus: Corpus, folder: str | None) -> None:
    """Warn about modalities that new items lack, and about items without any content."""
    import torch

    from mmrec.data.files import FEATURES

    if lacking := [name for name in corpus.modalities if name not in new]:
        files = ", ".join(f"{name}{FEATURES}" for name in lacking)
        log.warning("%s: new items lack %s; missing files: %s", folder, ", ".join(lacking), files)
    present = torch.stack([m.present for m in new.values()], 1).any(1)  # [N]
    if bare := int((~present).sum()):
        log.warning(
            "%d of %d new items have no content (the first is row %d); they are scored as the mean "
            "item of the model",
            bare,
            len(present),
            int((~present).nonzero()[0]),
        )
