"""Features of items by an encoder, kept in blocks by the content of the items.

Shape legend: I items, B items of a block, F width of the features.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mmrec.config.bars import steps
from mmrec.config.errors import SettingError
from mmrec.config.paths import cache_dir, expand, replace_file
from mmrec.config.text import first_line, printable
from mmrec.data.corpus import content_hash
from mmrec.data.prepare.base import json_object

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


def load_paired(model: Model) -> Any:
    """Load a model of pictures and texts by transformers.

    Raises:
        SettingError: it is of another kind than the setting says.
    """
    from transformers import AutoModel

    network: Any = AutoModel.from_pretrained(model.source, trust_remote_code=False)
    kind = str(network.config.model_type)
    if not kind.startswith(model.kind):
        raise SettingError(
            setting=model.setting,
            value=model.value,
            problem=f"it is a model of the kind {kind}",
            expected=f"a model of the kind {model.kind}",
        )
    return network


def versions(config: object, packages: Sequence[str]) -> dict[str, str]:
    """Return the revision in a configuration of transformers, if known, and package versions."""
    revision = getattr(config, "_commit_hash", None)
    return {
        **({"revision": str(revision)} if revision else {}),
        **{name: version(name) for name in packages},
    }


def encode_items(
    make: Callable[[], Encoder],
    modality: str,
    items: Sequence[str],
    keys: Sequence[str],
    parts: Sequence[str],
    *,
    block: int,
) -> tuple[Features, dict[str, str]]:
    """Encode items in their order, except those whose features are in the cache folder.

    Each finished block is kept there, and serves every data set whose items have the same content.

    Args:
        make: makes the encoder, if anything is left to encode.
        modality: named in file names and messages.
        items: for the encoder, in the order that is fast.
        keys: hash of the content of each item.
        parts: everything else that the features depend on, as text.
        block: number of items that are encoded before they are saved.

    Returns:
        Features [I, F] in a temporary file, and the description of the encoder.
    """
    name = f"{modality}-{content_hash([modality, *parts])[:32]}"
    store = cache_dir() / "prepare" / name
    about = store / "encoder.json"
    known = _known(store) if about.is_file() else {}
    if any(key not in known for key in keys):
        encoder = make()
        description = {"model": encoder.name, **encoder.versions}
        if known and json_object(about) != description:
            log.warning("%s: encoding all again with another version of the encoder", modality)
            known = {}
            shutil.rmtree(store)
        store.mkdir(parents=True, exist_ok=True)
        with replace_file(about) as part:
            part.write_text(json.dumps(description) + "\n")
        missing = [place for place, key in enumerate(keys) if key not in known]
        if len(missing) < len(keys):
            log.info("%s: %d of %d are encoded", modality, len(keys) - len(missing), len(keys))
        blocks = [missing[start : start + block] for start in range(0, len(missing), block)]
        for places in steps(blocks, f"encode {modality}", "blocks"):
            features = encoder.encode([items[place] for place in places])
            named = [keys[place] for place in places]
            path = store / f"{content_hash(named)[:32]}.npz"
            with replace_file(path) as part, part.open("wb") as file:
                np.savez(file, keys=np.array(named), features=features)
            known |= {key: (path, row) for row, key in enumerate(named)}
    return _gathered([known[key] for key in keys]), json_object(about)


def _known(store: Path) -> dict[str, tuple[Path, int]]:
    """The file and the row of each item that is encoded."""
    known: dict[str, tuple[Path, int]] = {}
    for path in sorted(store.glob("[!.]*.npz")):
        with np.load(path) as block:
            known |= {key: (path, row) for row, key in enumerate(block["keys"].tolist())}
    return known


def _gathered(places: Sequence[tuple[Path, int]]) -> Features:
    """Copy rows of blocks into a temporary file in the cache folder [I, F]."""
    by_block = defaultdict(list)
    for place, (path, row) in enumerate(places):
        by_block[path].append((place, row))
    out: Features | None = None
    for path, pairs in by_block.items():
        with np.load(path) as block:
            features = block["features"]
        if out is None:
            shape = (len(places), features.shape[1])
            with TemporaryFile(dir=path.parent) as file:
                out = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
        to, rows = np.array(pairs).T
        out[to] = features[rows]
    if out is None:
        raise ValueError("no items")
    return out
