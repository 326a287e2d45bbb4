"""Open what a run left behind: its configuration, its data, and its model with the best weights.

The folder may come from somebody else. Nothing in it is executed: the checkpoint holds tensors and
plain types, and the configuration may only name models, data modules and their parts. Classes
outside mmrec are imported only if `mmrec.training.trust` allows it.
"""

from __future__ import annotations

import logging
import os
import pickle
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from hydra.utils import get_object
from lightning.fabric import Fabric
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from mmrec.config.bars import steps
from mmrec.config.errors import SettingError, memory_suffices
from mmrec.config.literals import Known, Masked
from mmrec.config.schema import TARGET
from mmrec.data import Corpus, DataError, InteractionData, MemoryData, Modality, Queries
from mmrec.data.loaders import QueryLoader, queries_for
from mmrec.data.memory import at_hand
from mmrec.models import NoNewItems, Recommender, RoutedRecommender
from mmrec.nn import fused_ranking
from mmrec.training.build import build
from mmrec.training.results import BEST, CONFIG, ResultError, locate_run, read_result
from mmrec.training.stored_config import KINDS, placed, read_run_config, titled
from mmrec.training.trainer import quiet_lightning
from mmrec.training.upstream import saved_teacher

if TYPE_CHECKING:
    from mmrec.training.vectors import Vectors

log = logging.getLogger(__name__)
SEED_NOTES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")  # what Lightning writes to the environment


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run, ready to score.

    Attributes:
        folder: of the run.
        checkpoint: where the weights come from.
        config: as resolved when it ran.
        result: the content of `result.json`.
        data: the data module.
        model: in evaluation mode, with the checkpoint's weights.
    """

    folder: Path
    checkpoint: Path
    config: dict[str, Any]
    result: dict[str, Any]
    data: InteractionData
    model: Recommender

    @property
    def corpus(self) -> Corpus:
        """What it was trained on."""
        return self.data.corpus

    @property
    def at_best(self) -> bool:
        """Whether these are the weights that `result` is about."""
        return self.checkpoint == self.folder / BEST

    def queries(self, users: Tensor, block: int, known: Known | None = None) -> QueryLoader:
        """Queries for users [Q], in blocks, with histories where the model needs them.

        Args:
            users: [Q] int64.
            block: users in a block.
            known: parts that histories are made of; None: those of the run's test.
        """
        return queries_for(self.model, self.corpus, users, block, known or self.model.test_history)

    def pair_weights(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """What matters in the scores of pairs, see `Recommender.pair_weights`.

        Args:
            users: [P] int64, on any device.
            items: [P] int64, on the model's device.
        """
        return self.model.pair_weights(self._of_pairs(users), items)

    def pair_gates(self, users: Tensor, items: Tensor) -> Tensor:
        """What experts weigh in the scores of pairs, see `RoutedRecommender.pair_gates`.

        Args:
            users: [P] int64, on any device.
            items: [P] int64, on the model's device.

        Returns:
            [P, E]; E is 0 where the model has no experts.
        """
        if not isinstance(self.model, RoutedRecommender):
            return torch.empty(len(users), 0)
        return self.model.pair_gates(self._of_pairs(users), items)

    def recommend(
        self,
        users: Iterable[int | str] | None = None,
        k: int = 20,
        *,
        seen: Masked = "train+val",
        exclude: Sequence[int | str] | None = None,
        only: Sequence[int | str] | None = None,
        accelerator: str = "auto",
        block: int = 512,
    ) -> pl.DataFrame:
        """Return the best items of users, best first.

        The columns are `user`, `item` (row numbers), `rank` (from 1), `score`, `user_id`,
        `item_id` (names, as the data have them) and, where items have titles, `title`.

        Args:
            users: names: ids where the data have them, else row numbers; None: everybody.
            k: length of the lists; they are shorter where there are fewer candidates.
            seen: items that are masked, as in the command `recommend`.
            exclude: items that are not recommended.
            only: items that may be recommended; None: all.
            accelerator: `auto`, `cpu` or `gpu`.
            block: users that are scored at a time.

        Raises:
            SettingError: a user or an item is unknown, or another argument is invalid.
        """
        from mmrec.training.ranked_lists import recommended

        return recommended(self, users, k, seen, exclude, only, accelerator, block)

    def similar_items(
        self, items: Iterable[int | str] | None = None, k: int = 10, *, block: int = 512
    ) -> pl.DataFrame:
        """Return the items that are most similar to some items, the most similar first.

        The columns are `item`, `similar` (row numbers), `rank`, `similarity`, `item_id`,
        `similar_id` and, where items have titles, `title` and `similar_title`.

        Args:
            items: names, as for `recommend`; None: all.
            k: length of the lists.
            block: items that are compared at a time.

        Raises:
            SettingError: an item is unknown, or the model has nothing to compare items by.
        """
        from mmrec.training.ranked_lists import compared

        return compared(self, items, k, block)

    def embeddings(self) -> Vectors:
        """Return the vectors of users and items, with their names.

        Raises:
            SettingError: the model has no vectors.
        """
        from mmrec.training.vectors import vectors_of

        return vectors_of(self)

    def recommend_sequences(
        self,
        sequences: Sequence[Sequence[int | str]],
        k: int = 20,
        *,
        times: Sequence[Sequence[int]] | None = None,
        seen: Masked = "train+val",
        accelerator: str = "auto",
        block: int = 512,
    ) -> pl.DataFrame:
        """Return the best items after sequences that were not in training.

        The columns are those of `recommend` but `user_id`; `user` is the number of the sequence.

        Args:
            sequences: items in order of time, the oldest first: rows of the data (numbers), or
                original ids (text). Of long ones the model reads the latest `max_length` items.
            k: length of the lists; they are shorter where there are fewer candidates.
            times: of the items, in seconds since 1970, or positions where the data have these
                instead. Models that read times (HM4SR, CAMMSR with `time`) need them; other models
                ignore them.
            seen: `none`: items of a sequence may be recommended after it; with any other value,
                they are left out.
            accelerator: `auto`, `cpu` or `gpu`.
            block: sequences that are scored at a time.

        Raises:
            SettingError: the model does not read histories, a sequence is empty, an item is
                unknown, or times are missing or wrong.
        """
        from mmrec.training.given_histories import list_histories
        from mmrec.training.ranked_lists import check_positive, ranked_lists, with_names

        check_positive(k=k, block=block)
        given = list_histories(self, sequences, times)
        users = torch.arange(len(given))
        lists = ranked_lists(self, users, k, seen, block, accelerator, history=given)
        return with_names(pl.concat(lists), "item")

    def _of_pairs(self, users: Tensor) -> Queries:
        """One query a pair, on the model's device."""
        queries = next(iter(self.queries(users.cpu(), max(len(users), 1))))
        moved: Queries = move_data_to_device(queries, self.model.device)
        return moved


def open_run(
    path: str | Path,
    *,
    data: Corpus | None = None,
    trust: str | Sequence[str] = (),
    data_root: str | Path | None = None,
    title: str | None = None,
) -> OpenRun:
    """Rebuild a run's data and model, and load its weights.

    The random number generators of Python, NumPy and torch are left as they are.

    Args:
        path: the run's folder or its `result.json`, for the best weights; or a checkpoint in it.
        data: the corpus of a run that was trained on one in memory; others read their data.
        trust: modules or packages outside mmrec that the run may import, as `mine` or
            `mine.models`. A module that was trusted once, or trained with, needs no repetition.
        data_root: the folder of data sets; None: the run's own if it is there, else `MMREC_DATA`.
        title: the column of titles in `items.csv`; None: the run's `data.columns.title`.

    Raises:
        SettingError: `data_root` or `title` is given for data that are not read from a folder, or
            `data` for data that are read or made.
        ResultError: a file is missing or malformed, or the configuration names a class that may
            not be imported.
        DataError: the data differ from those that the run was trained on.
    """
    folder, checkpoint = locate_run(path)
    config = read_run_config(folder, [trust] if isinstance(trust, str) else trust)
    result = read_result(folder)
    if not checkpoint.is_file():
        raise ResultError(
            f"{checkpoint}: there is no such checkpoint; the run ended before its first validation "
            "or the file was removed: run it again"
        )
    checked = {name: config[name] for name in (*KINDS, "seed")}
    checked["data"] = placed(config["data"], data_root)
    if title is not None:
        checked["data"] |= titled(config["data"], title)
    if data is not None and not issubclass(get_object(config["data"][TARGET]), MemoryData):
        raise SettingError(
            setting="data", problem="the run reads its own data", hint="leave the argument out"
        )
    checked["model"] = {**config["model"], **_unfused(config["model"])}
    memory = memory_suffices(ResultError, str(folder / CONFIG))
    with generators_kept(), _silent("mmrec.data"), memory, at_hand(data):
        kind = get_object(config["model"][TARGET])
        module, model = build(checked, lambda _: saved_teacher(kind, checkpoint))
        _check_data(folder, result["data_card"], module.corpus)
    _load(model, checkpoint)
    return OpenRun(folder, checkpoint, config, result, module, model.eval())


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Leave out warnings of a package: those about the data were logged when the run began."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the generators of Python, NumPy and torch, and what Lightning notes of a seed."""
    noted = {name: os.environ.get(name) for name in SEED_NOTES}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002, what is seeded
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if initialized else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        if not initialized:  # a seed waits until CUDA starts: the last one counts
            torch.cuda.manual_seed_all(torch.initial_seed())
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for name, value in noted.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _unfused(model: Mapping[str, Any]) -> dict[str, bool]:
    """Many passes in place of a compiled one, for a run from a machine that could compile it."""
    if not model.get("fused"):
        return {}
    try:
        fused_ranking()
    except SettingError as error:
        log.warning("ranked without model.fused: %s", error.problem)
        return {"fused": False}
    return {}


@torch.no_grad()
def scored(
    run: OpenRun,
    queries: Iterable[Queries],
    *,
    accelerator: str,
    items: Mapping[str, Modality] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Score the catalogue for blocks of users, as a run does when it ranks.

    Args:
        run: what scores.
        queries: blocks of users.
        accelerator: `auto`, `cpu` or `gpu`.
        items: new ones, which stand in the catalogue's place.

    Yields:
        Users [B] and their scores [B, I], on the accelerator.

    Raises:
        SettingError: there is no such accelerator here, or the model knows its own items only.
        DataError: the new items' content is not what the model has learned from.
    """
    precision = run.config["trainer"].get("precision")
    quiet_lightning()
    try:
        fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
    except (MisconfigurationException, RuntimeError) as error:
        raise SettingError(setting="accelerator", value=accelerator, problem=str(error)) from None
    model = run.model.to(fabric.device)
    encoded = model.encode()  # outside autocast, where Lightning has it
    if items is not None:
        new = _new_items(model, items)
        encoded = encoded._replace(items=new)
    for block in steps(queries, "ranking users", "block"):
        block = fabric.to_device(block)
        with fabric.autocast():
            scores = model.score(encoded, block)
        yield block.user, scores


def _new_items(model: Recommender, items: Mapping[str, Modality], block: int = 8192) -> Tensor:
    """What content says of items: [N, D]."""
    found, count = [], len(next(iter(items.values())).features)
    for first in range(0, count, block):
        rows = slice(first, first + block)
        features = {name: m.features[rows] for name, m in items.items()}
        try:
            present = {name: m.present[rows] for name, m in items.items()}
            found.append(model.encode_items(features, present))
        except NoNewItems as error:
            raise SettingError(setting="items", problem=str(error)) from None
    return torch.cat(found)


def _check_data(folder: Path, card: Mapping[str, Any], corpus: Corpus) -> None:
    if card["fingerprint"] != corpus.fingerprint:
        raise DataError(
            file=folder,
            problem=f"the run has seen {card['name']} with fingerprint {card['fingerprint']}, "
            f"found {corpus.name} with {corpus.fingerprint}",
            hint="the files have changed or are not the run's: set data.root or "
            "MMREC_DATA to the folder of the run's data, or run again",
        )


def _load(model: Recommender, path: Path) -> None:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
    except DataError as error:
        raise error.in_file(path) from None
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ResultError(
            f"{path} is cut short, or no checkpoint of this {type(model).__name__} ({reason}); "
            "copy it again, or run it again"
        ) from error
