"""Features of item texts by a model of sentence-transformers.

Shape legend: I items, B texts of a block, F width of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

import numpy as np
import polars as pl

from mmrec.config.errors import DataError
from mmrec.data.corpus import content_hash
from mmrec.data.prepare.base import Vectors
from mmrec.data.prepare.encode import Encoder, Features, Model, encode_items

BLOCK = 1024  # texts that are encoded before they are saved
BATCH = 64


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
        self.width = int(self.model.get_embedding_dimension())

    @property
    def versions(self) -> Mapping[str, str]:
        config = getattr(self.model[0], "config", None)
        revision = getattr(config, "_commit_hash", None)
        names = ("sentence-transformers", "transformers")
        return {
            **({"revision": revision} if revision else {}),
            **{name: version(name) for name in names},
        }

    def encode(self, items: Sequence[str]) -> Features:
        found = self.model.encode([*items], batch_size=BATCH, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)


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
