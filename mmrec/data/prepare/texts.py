"""Features of item texts by a model of sentence-transformers, CLIP or SigLIP.

Shape legend: I items, B texts of a block, F width of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from mmrec.config.errors import DataError, SettingError
from mmrec.data.corpus import content_hash
from mmrec.data.prepare.base import Vectors
from mmrec.data.prepare.encode import (
    Encoder,
    Features,
    Model,
    device,
    encode_items,
    load_paired,
    versions,
)

BLOCK = 1024  # texts that are encoded before they are saved
BATCH = 32  # on a CPU, where larger ones have more padding and are no faster
GPU_BATCH = 128


class SentenceEncoder:
    """A model of sentence-transformers, on a GPU if there is one.

    A model of transformers that has no pooling of its own gets the mean over its tokens.

    Args:
        model: on the Hugging Face Hub, or in a folder.

    Raises:
        SettingError: the model cannot be loaded.
    """

    def __init__(self, model: Model) -> None:
        from sentence_transformers import SentenceTransformer

        self.name = model.name
        try:
            self.model = SentenceTransformer(
                model.source, trust_remote_code=False, model_kwargs={"dtype": model.precision}
            )
        except (OSError, ValueError, ImportError) as error:
            raise model.not_loaded(error) from error
        width = self.model.get_embedding_dimension()
        if width is None:
            raise model.not_loaded(ValueError("its features have no fixed width"))
        self.width = int(width)

    @property
    def versions(self) -> Mapping[str, str]:
        config = getattr(self.model[0], "config", None)
        return versions(config, ("sentence-transformers", "transformers"))

    def encode(self, items: Sequence[str]) -> Features:
        size = BATCH if self.model.device.type == "cpu" else GPU_BATCH
        found = self.model.encode([*items], batch_size=size, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)


class PairedTextEncoder:
    """The texts' side of a model of pictures and texts, CLIP or SigLIP, on a GPU if there is one.

    Its features are in the space of the pictures'.

    Args:
        model: on the Hugging Face Hub, or in a folder.

    Raises:
        SettingError: the model cannot be loaded.
    """

    def __init__(self, model: Model) -> None:
        from transformers import AutoTokenizer

        self.name = model.value
        self.device = device()
        tokenizer: Any = AutoTokenizer
        try:
            self.network = load_paired(model).eval().to(self.device, model.dtype)
            self.tokenizer = tokenizer.from_pretrained(model.source)
        except SettingError:
            raise
        except (OSError, ValueError, ImportError) as error:
            raise model.not_loaded(error) from error
        self.longest = self.network.config.text_config.max_position_embeddings
        # SigLIP was trained on padded texts without a mask.
        padded = model.kind == "siglip"
        self.options: dict[str, Any] = {
            "padding": "max_length" if padded else True,
            "return_attention_mask": not padded,
        }
        self.width = self._run(["a"]).shape[1]

    @property
    def versions(self) -> Mapping[str, str]:
        return versions(self.network.config, ("transformers",))

    def encode(self, items: Sequence[str]) -> Features:
        starts = range(0, len(items), BATCH)
        return np.concatenate([self._run(items[start : start + BATCH]) for start in starts])

    @torch.inference_mode()
    def _run(self, texts: Sequence[str]) -> Features:
        tokens = self.tokenizer(
            [*texts],
            **self.options,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        ).to(self.device)
        found: Features = (
            self.network.get_text_features(**tokens).pooler_output.float().cpu().numpy()
        )
        return found


def encode_texts(
    make: Callable[[Model], Encoder], model: Model, texts: pl.Series, parts: Sequence[str]
) -> tuple[Vectors, dict[str, str]]:
    """Encode the texts of items; equal ones once, and an empty one not at all.

    Texts are sorted by length, so that a batch has little padding.

    Args:
        make: makes the encoder of a model, if anything is left to encode.
        model: reads the texts.
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
            file="items",
            problem="no item has a text",
            hint=f"set {model.setting}=null, or data.text",
        )
    order = unique.to_frame("text").sort(pl.col("text").str.len_chars(), "text")["text"]
    matrix, about = encode_items(
        lambda: make(model),
        "text",
        order.to_list(),
        [content_hash([text])[:32] for text in order],
        [model.value, model.precision, *parts],
        block=BLOCK,
    )
    rows = texts.replace_strict(
        order, pl.int_range(len(order), eager=True), default=-1, return_dtype=pl.Int64
    )
    return Vectors(matrix, rows.to_numpy(), "texts of items", None, 0), about
