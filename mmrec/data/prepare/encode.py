"""Features of items by an encoder, in blocks that are kept when the work is interrupted.

Shape legend: I items, B items of a block, F width of the features.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from mmrec.config.bars import steps
from mmrec.config.errors import SettingError
from mmrec.config.paths import cache_dir, expand, replace_file
from mmrec.config.text import first_line, printable
from mmrec.data.corpus import content_hash

log = logging.getLogger(__name__)
Features = npt.NDArray[np.float32]


class Encoder(Protocol):
    """Turns items into features: texts, or paths of pictures or recordings."""

    @property
    def name(self) -> str:
        """Name of the model, for the manifest."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Revision of the model and versions of packages, for the manifest."""

    @property
    def width(self) -> int:
        """F."""

    def encode(self, items: Sequence[str]) -> Features:
        """Return features [B, F]; the row of an item that cannot be read is NaN."""


@dataclass(frozen=True)
class Model:
    """A model as a setting names it.

    Attributes:
        setting: for example `data.image_model`.
        value: of the setting, for example `timm:resnet50`.
        kind: the part before the colon; empty where the setting has none.
        name: the part after it, a name on the Hugging Face Hub or a folder.
        precision: of weights and activations, the name of a dtype of torch.
    """

    setting: str
    value: str
    kind: str
    name: str
    precision: str = "float32"

    @property
    def folder(self) -> Path | None:
        """The folder; None if the model is one of the Hub."""
        folder = expand(self.name)
        return folder if folder.is_dir() else None

    @property
    def source(self) -> str:
        """What a library loads: the folder, or the name on the Hub."""
        return str(self.folder or self.name)

    @property
    def dtype(self) -> torch.dtype:
        """The precision as a dtype."""
        return {
            "float32": torch.float32,
            "float16": torch.float16,
            "bfloat16": torch.bfloat16,
        }[self.precision]

    def not_loaded(self, error: Exception) -> SettingError:
        """Return the error for a model that its library cannot load."""
        reason = printable(first_line(error), 200)
        if "torchvision::" in reason:
            return SettingError(
                setting=self.setting,
                value=self.value,
                problem=f"the installed torchvision is not built for this torch ({reason})",
                hint="install both from the same package index",
            )
        return SettingError(
            setting=self.setting,
            value=self.value,
            problem=f"the model cannot be loaded ({reason})",
            hint="give a folder with the model, or null for no such features",
        )


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else found


def encode_items(
    make: Callable[[], Encoder],
    modality: str,
    items: Sequence[str],
    parts: Sequence[str],
    *,
    block: int,
) -> tuple[Features, dict[str, str]]:
    """Encode items in their order, and keep the result in the cache folder.

    Finished blocks are kept until all are there.

    Args:
        make: makes the encoder, if anything is left to encode.
        modality: named in file names and messages.
        items: for the encoder, in the order that is fast.
        parts: everything that the features depend on, as text.
        block: number of items that are encoded before they are saved.

    Returns:
        Features [I, F], memory-mapped, and the description of the encoder.
    """
    key = content_hash([modality, *parts])[:32]
    whole = cache_dir() / "prepare" / f"{modality}-{key}.npy"
    about = whole.with_suffix(".json")
    if not (whole.is_file() and about.is_file()):
        folder = whole.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        encoder = make()
        blocks = _encode_blocks(encoder, modality, items, folder, block)
        _join(blocks, whole, (len(items), encoder.width))
        with replace_file(about) as part:
            part.write_text(json.dumps({"model": encoder.name, **encoder.versions}) + "\n")
        shutil.rmtree(folder)
    return np.lib.format.open_memmap(whole, mode="r"), json.loads(about.read_text())


def _encode_blocks(
    encoder: Encoder, modality: str, items: Sequence[str], folder: Path, block: int
) -> list[Path]:
    """Encode the blocks that are missing; return the files of all."""
    blocks = [folder / f"{start}-{block}.npy" for start in range(0, len(items), block)]
    missing = [number for number, path in enumerate(blocks) if not path.is_file()]
    if len(missing) < len(blocks):
        done = len(blocks) - len(missing)
        log.info("%s: %d of %d blocks are encoded", modality, done, len(blocks))
    for number in steps(missing, f"encode {modality}", "blocks"):
        features = encoder.encode(items[number * block : (number + 1) * block])
        with replace_file(blocks[number]) as part, part.open("wb") as file:
            np.save(file, features)
    return blocks


def _join(blocks: Sequence[Path], whole: Path, shape: tuple[int, int]) -> None:
    """Copy blocks one after the other into an array [I, F]."""
    with replace_file(whole) as part:
        out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        start = 0
        for path in blocks:
            rows = np.load(path)
            out[start : start + len(rows)] = rows
            start += len(rows)
        out.flush()
