"""Features of item texts by an encoder, in blocks that are kept when the work is interrupted.

Shape legend: I items, B texts of a block, F width of the features.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from mmrec.config.bars import steps
from mmrec.config.errors import DataError, SettingError
from mmrec.config.paths import cache_dir, expand, replace_file
from mmrec.config.text import first_line, printable
from mmrec.data.corpus import content_hash
from mmrec.data.files import digests
from mmrec.data.prepare.base import RawFile, Vectors

log = logging.getLogger(__name__)
BLOCK = 1024  # texts that are encoded before they are saved
BATCH = 64
PACKAGE = "sentence_transformers"
SETTING = "data.text_model"


class Encoder(Protocol):
    """Turns texts into features."""

    def describe(self) -> dict[str, str]:
        """Return what the features depend on, for the manifest."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return features [B, F]."""


class SentenceEncoder:
    """An encoder of the package sentence-transformers, on a GPU if there is one.

    Args:
        model: name on the Hugging Face Hub, or a folder.

    Raises:
        SettingError: the package is missing, or the model cannot be loaded.
    """

    def __init__(self, model: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.name = model
        folder = model_folder(model)
        try:
            self.model = SentenceTransformer(str(folder or model), trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            raise SettingError(
                setting=SETTING,
                value=model,
                problem=f"the model cannot be loaded ({printable(first_line(error), 200)})",
                hint="give a folder with the model, or null for no text features",
            ) from error

    def describe(self) -> dict[str, str]:
        config = getattr(self.model[0], "config", None)
        revision = getattr(config, "_commit_hash", None)
        names = ("sentence-transformers", "transformers")
        return {
            "model": self.name,
            **({"revision": revision} if revision else {}),
            **{name: version(name) for name in names},
        }

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        found = self.model.encode([*texts], batch_size=BATCH, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)


def model_folder(model: str) -> Path | None:
    """Return the folder that a setting names; None if it names a model of the Hub."""
    folder = expand(model)
    return folder if folder.is_dir() else None


def check_model(model: str) -> dict[str, RawFile]:
    """Check that an encoder can be made, before anything is downloaded.

    Args:
        model: name or folder.

    Returns:
        The files of a folder, by role.

    Raises:
        SettingError: the package is missing, or there is no such folder.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise SettingError(
            setting=SETTING,
            value=model,
            problem="encoding text needs a package",
            hint="pip install 'mmrec[text]', or set it to null for no text features",
        )
    folder = model_folder(model)
    if folder is None:
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise SettingError(setting=SETTING, value=model, problem="there is no such folder")
        return {}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    found = digests(paths)
    return {f"text_model/{path.relative_to(folder)}": RawFile(path, found[path]) for path in paths}


def encode_texts(
    make: Callable[[str], Encoder], model: str, texts: pl.Series, parts: Sequence[str]
) -> tuple[Vectors, dict[str, str]]:
    """Encode the texts of items; equal ones once, and an empty one not at all.

    Texts are sorted by length, so that a batch has little padding. Finished blocks are kept in the
    cache folder until all are there.

    Args:
        make: makes the encoder from the name of its model, if anything is left to encode.
        model: name or folder.
        texts: [I].
        parts: more that the features depend on, as text.

    Returns:
        Features by text, and the description of the encoder.

    Raises:
        DataError: no item has a text.
    """
    unique = texts.filter(texts != "").unique()
    if unique.is_empty():
        raise DataError(
            file="items", problem="no item has a text", hint=f"set {SETTING}=null, or data.text"
        )
    order = unique.to_frame("text").sort(pl.col("text").str.len_chars(), "text")["text"]
    key = content_hash([model, *parts, *order])[:32]
    whole = cache_dir() / "prepare" / f"text-{key}.npy"
    about = whole.with_suffix(".json")
    if not (whole.is_file() and about.is_file()):
        _encode(make, model, order, whole, about)
    matrix = np.lib.format.open_memmap(whole, mode="r")
    rows = texts.replace_strict(
        order, pl.int_range(len(order), eager=True), default=-1, return_dtype=pl.Int64
    )
    return Vectors(matrix, rows.to_numpy(), "texts of items", None, 0), json.loads(
        about.read_text()
    )


def _encode(
    make: Callable[[str], Encoder], model: str, texts: pl.Series, whole: Path, about: Path
) -> None:
    """Encode what is missing, then join the blocks."""
    folder = whole.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [folder / f"{start}.npy" for start in range(0, len(texts), BLOCK)]
    missing = [number for number, path in enumerate(blocks) if not path.is_file()]
    if len(missing) < len(blocks):
        log.info("%d of %d blocks of texts are encoded", len(blocks) - len(missing), len(blocks))
    encoder = make(model)
    for number in steps(missing, "encode texts", "blocks"):
        features = encoder.encode(texts[number * BLOCK : (number + 1) * BLOCK].to_list())
        _save(blocks[number], features)
    _save(whole, np.concatenate([np.load(path) for path in blocks]))
    with replace_file(about) as part:
        part.write_text(json.dumps(encoder.describe()) + "\n")
    shutil.rmtree(folder)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with replace_file(path) as part, part.open("wb") as file:
        np.save(file, array)
