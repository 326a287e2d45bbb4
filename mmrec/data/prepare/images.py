"""Features of pictures by models of timm, CLIP or SigLIP.

Shape legend: B pictures of a batch, H and W height and width of an input, F width of the features.
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmrec.config.errors import SettingError
from mmrec.config.text import first_line, printable
from mmrec.data.prepare.encode import Features, Model, device, load_paired, versions

SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".tif", ".tiff", ".webp")
)
BATCH = 32
THREADS = min(8, os.cpu_count() or 1)  # that decode pictures


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Make Pillow raise an error for pictures with more pixels than its limit, which else warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # odd metadata
        yield


def open_picture(path: str) -> Image.Image:
    """Decode a picture: upright, RGB, on white where it is transparent; the first of several.

    Args:
        path: of the file. Its content decides the format.

    Raises:
        Exception: the file is no picture or is damaged; decoders raise errors of many kinds.
    """
    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I;16"):
            return picture.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            return Image.alpha_composite(white, picture).convert("RGB")
        return picture.convert("RGB")


def picture_problem(path: str) -> str | None:
    """Return why a picture cannot be decoded; None if it can."""
    try:
        with bombs_refused():
            open_picture(path)
    except Exception as error:  # of any kind, see `open_picture`
        return printable(first_line(error), 200) or type(error).__name__
    return None


class ImageEncoder(ABC):
    """An encoder of pictures, by their paths, on a GPU if there is one.

    Args:
        model: on a hub or in a folder.

    Raises:
        SettingError: the model cannot be loaded.
    """

    def __init__(self, model: Model) -> None:
        self.name = model.value
        self.device, self.dtype = device(), model.dtype
        try:
            self.network = self.load(model).eval().to(self.device, self.dtype)
        except SettingError:
            raise
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise model.not_loaded(error) from error
        self.width = self._run([self.inputs(Image.new("RGB", (64, 64)))]).shape[1]

    @property
    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Revision of the model and versions of packages."""

    @abstractmethod
    def load(self, model: Model) -> torch.nn.Module:
        """Load the network, and what `inputs` needs."""

    @abstractmethod
    def inputs(self, picture: Image.Image) -> Tensor:
        """Return the input of the network [3, H, W]."""

    @abstractmethod
    def features(self, batch: Tensor) -> Tensor:
        """Encode inputs [B, 3, H, W] as features [B, F]."""

    def encode(self, items: Sequence[str]) -> Features:
        """Return features [B, F]; the row of a picture that cannot be decoded is NaN."""
        found = np.full((len(items), self.width), np.nan, dtype=np.float32)
        with bombs_refused(), ThreadPoolExecutor(THREADS) as pool:
            decoded = pool.map(self._decoded, items)  # goes on while the network works
            start = 0
            while batch := [*islice(decoded, BATCH)]:
                rows = [start + place for place, each in enumerate(batch) if each is not None]
                if rows:
                    found[rows] = self._run([each for each in batch if each is not None])
                start += len(batch)
        return found

    def _decoded(self, path: str) -> Tensor | None:
        try:
            picture = open_picture(path)
        except Exception:  # of any kind, see `open_picture`
            return None
        return self.inputs(picture)

    @torch.inference_mode()
    def _run(self, inputs: Sequence[Tensor]) -> Features:
        batch = torch.stack([*inputs]).to(self.device, self.dtype)
        return self.features(batch).float().cpu().numpy()


class TimmEncoder(ImageEncoder):
    """A model of timm without its classifier: `timm:resnet50.a1_in1k`, or `timm:<folder>`.

    Pictures are transformed as the model's configuration says.
    """

    @property
    def versions(self) -> Mapping[str, str]:
        return {name: version(name) for name in ("timm", "torchvision", "pillow")}

    def load(self, model: Model) -> torch.nn.Module:
        import timm

        name = model.name if model.folder is None else f"local-dir:{model.folder}"
        network: torch.nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
        config = timm.data.resolve_model_data_config(network)
        self.transform = timm.data.create_transform(**config, is_training=False)
        return network

    def inputs(self, picture: Image.Image) -> Tensor:
        found: Tensor = self.transform(picture)
        return found

    def features(self, batch: Tensor) -> Tensor:
        found: Tensor = self.network(batch)
        return found


class PairedEncoder(ImageEncoder):
    """The pictures' side of a model of pictures and texts in transformers, CLIP or SigLIP.

    `clip:openai/clip-vit-base-patch32`, `siglip:google/siglip-base-patch16-224`, or a folder.
    """

    @property
    def versions(self) -> Mapping[str, str]:
        return versions(self.network.config, ("transformers", "pillow"))

    def load(self, model: Model) -> torch.nn.Module:
        from transformers import AutoImageProcessor

        network: torch.nn.Module = load_paired(model)
        # The same features whether torchvision is installed or not.
        processor: Any = AutoImageProcessor
        self.processor = processor.from_pretrained(model.source, backend="pil")
        return network

    def inputs(self, picture: Image.Image) -> Tensor:
        found: Tensor = self.processor(images=picture, return_tensors="pt")["pixel_values"][0]
        return found

    def features(self, batch: Tensor) -> Tensor:
        network: Any = self.network
        found: Tensor = network.get_image_features(batch).pooler_output
        return found
