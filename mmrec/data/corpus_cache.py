"""Split data sets on disk, as memory-mapped tensors that processes and trials share.

An entry is a folder of `.npy` files (and Arrow files for ids and titles) with `corpus.json`, under
the hash of everything that the corpus depends on: the content of its files, its settings and the
code that reads and splits them. Features are not in it: `read_modality` maps them anyway.

Shape legend: I items.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from filelock import FileLock
from torch import Tensor

from mmrec.config.paths import cache_dir, free_space, reserve_space
from mmrec.config.text import first_line
from mmrec.data.corpus import (
    Categories,
    CheckedInteractions,
    Corpus,
    Modality,
    content_hash,
)

log = logging.getLogger(__name__)

ABOUT = "corpus.json"
PARTS = ("train", "val", "test", "warm", "removed")
COLUMNS = ("user", "item", "time")
SERIES = ("user_ids", "item_ids", "item_titles")
PLAIN = ("name", "n_users", "n_items", "split", "fingerprint", "filtered", "clock")
# Loggers whose messages tell of the reading itself, or come again with each load.
UNKEPT = ("mmrec.config.bars", "mmrec.data.files", __name__)


@dataclass(frozen=True, eq=False)
class Built:
    """A corpus that was just made.

    Attributes:
        corpus: the split data set.
        kept_items: [I] rows of the items in feature files, if filters removed some.
    """

    corpus: Corpus
    kept_items: Tensor | None


def cached_corpus(
    parts: Sequence[str],
    build: Callable[[], Built],
    modalities: Callable[[Tensor | None], Mapping[str, Modality]],
) -> Corpus:
    """Return a corpus from the cache, or make it and keep it there.

    Of several processes that ask at once, one makes it and the others wait. A damaged entry is made
    again. Where the cache cannot be written, the corpus is made and not kept. What was logged while
    it was made is logged again when it is loaded.

    Args:
        parts: everything that the corpus depends on, as text; the code is added.
        build: makes it.
        modalities: reads the features; it gets the rows that filters left, None for all.
    """
    versions = [torch.__version__, np.__version__, pl.__version__]  # of random numbers and parsers
    key = content_hash([_code(), *versions, *parts])
    entry = cache_dir() / "corpus" / key[:32]
    with ExitStack() as stack:
        with suppress(OSError):  # a cache that cannot be written may still be read
            entry.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{entry}.lock"))
        found = _load(entry, modalities, tell=True)
        if found is not None:
            return found
        with _messages() as told:
            built = build()
        if _write(entry, built, told):
            found = _load(entry, modalities, tell=False)
        return built.corpus if found is None else found


@cache
def _code() -> str:
    """Hash of the modules that read and split data."""
    folders = [files("mmrec").joinpath(name) for name in ("data", "tables")]
    sources = {
        f"{folder.name}/{file.name}": file.read_text()
        for folder in folders
        for file in folder.iterdir()
        if file.name.endswith(".py")
    }
    return content_hash([f"{name}\n{text}" for name, text in sorted(sources.items())])


class _Kept(logging.Handler):
    """Keeps messages that a later load repeats."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.told: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name not in UNKEPT:
            self.told.append((record.name, record.levelno, record.getMessage()))


@contextmanager
def _messages() -> Iterator[list[tuple[str, int, str]]]:
    """What is logged in the block: logger, level and text."""
    handler = _Kept()
    logger = logging.getLogger("mmrec")
    logger.addHandler(handler)
    try:
        yield handler.told
    finally:
        logger.removeHandler(handler)


def _tensors(built: Built) -> dict[str, Tensor]:
    """All tensors of a corpus but its features, by the name of their file."""
    corpus = built.corpus
    found = {
        f"{part}.{column}": getattr(rows, column)
        for part in PARTS
        if (rows := getattr(corpus, part)) is not None
        for column in COLUMNS
    }
    found |= {"cold": corpus.cold, "kept_items": built.kept_items}
    if corpus.categories is not None:
        found |= {"categories.item": corpus.categories.item}
        found |= {"categories.category": corpus.categories.category}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _write(entry: Path, built: Built, told: Sequence[tuple[str, int, str]]) -> bool:
    """Write an entry beside its place and move it there; return whether that worked."""
    corpus, tensors = built.corpus, _tensors(built)
    part = entry.with_name(f".{entry.name}.{os.getpid()}.part")
    series = [name for name in SERIES if getattr(corpus, name) is not None]
    about = {
        "plain": {name: getattr(corpus, name) for name in PLAIN},
        "tensors": {name: [str(t.numpy().dtype), *t.shape] for name, t in tensors.items()},
        "series": series,
        "categories": None if corpus.categories is None else corpus.categories.names,
        "told": told,
    }
    try:
        for left in entry.parent.glob(f".{entry.name}.*.part"):  # of a process that was killed
            shutil.rmtree(left)
        part.mkdir()
        for name, tensor in tensors.items():
            with (part / f"{name}.npy").open("wb") as file:
                reserve_space(file, tensor.nbytes)
                np.save(file, tensor.numpy())
                file.truncate()
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave zeros behind the header
        for name in series:
            getattr(corpus, name).to_frame().write_ipc(part / f"{name}.arrow")
        (part / ABOUT).write_text(json.dumps(about))
        if entry.exists():  # damaged
            shutil.rmtree(entry)
        part.rename(entry)
    except (OSError, pl.exceptions.PolarsError) as error:
        shutil.rmtree(part, ignore_errors=True)
        log.warning(
            "%s: cannot write %.1f MB (%s%s), so the corpus is not kept; make room there, set "
            "MMREC_CACHE to a folder that can be written, or data.cache=false",
            entry.parent,
            sum(tensor.nbytes for tensor in tensors.values()) / 1e6,
            getattr(error, "strerror", None) or first_line(error),
            free_space(entry.parent),
        )
        return False
    return True


def _load(
    entry: Path, modalities: Callable[[Tensor | None], Mapping[str, Modality]], *, tell: bool
) -> Corpus | None:
    """Map an entry; None if there is none, or a damaged one."""
    try:
        about = json.loads((entry / ABOUT).read_text())
        tensors = {name: _map(entry, name, kind) for name, kind in about["tensors"].items()}
        series = {name: _series(entry / f"{name}.arrow") for name in about["series"]}
        told = [(str(name), int(level), str(text)) for name, level, text in about["told"]]
    except (FileNotFoundError, NotADirectoryError) as error:
        if entry.is_dir():
            log.warning("%s is damaged (%s); building it again", entry, first_line(error))
        return None
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        log.warning("%s is damaged (%s); building it again", entry, first_line(error))
        return None
    for name, level, text in told if tell else ():
        logging.getLogger(name).log(level, "%s", text)
    return _corpus(about, tensors, series, modalities)


def _map(entry: Path, name: str, kind: Sequence[Any]) -> Tensor:
    """Map a tensor; a process that writes to it gets a copy of the page."""
    path = entry / f"{name}.npy"
    if not int(np.prod(kind[1:])):  # an empty file cannot be mapped
        array = np.load(path)
    else:
        array = np.lib.format.open_memmap(path, mode="c")
    if [str(array.dtype), *array.shape] != kind:
        raise ValueError(f"{path.name} has another shape than {ABOUT} says")
    return torch.from_numpy(array)


def _series(path: Path) -> pl.Series:
    return pl.read_ipc(path).to_series()


def _corpus(
    about: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    series: Mapping[str, pl.Series],
    modalities: Callable[[Tensor | None], Mapping[str, Modality]],
) -> Corpus:
    def rows(part: str) -> CheckedInteractions:
        user, item = tensors[f"{part}.user"], tensors[f"{part}.item"]
        return CheckedInteractions(user, item, tensors.get(f"{part}.time"))

    categories = None
    if about["categories"] is not None:
        item, category = tensors["categories.item"], tensors["categories.category"]
        categories = Categories(item, category, tuple(about["categories"]))
    plain: dict[str, Any] = {name: about["plain"][name] for name in PLAIN}
    return Corpus(
        **plain,
        train=rows("train"),
        val=rows("val"),
        test=rows("test"),
        warm=rows("warm") if "warm.user" in tensors else None,
        removed=rows("removed") if "removed.user" in tensors else None,
        cold=tensors.get("cold"),
        categories=categories,
        modalities=modalities(tensors.get("kept_items")),
        user_ids=series.get("user_ids"),
        item_ids=series.get("item_ids"),
        item_titles=series.get("item_titles"),
    )
