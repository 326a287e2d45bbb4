"""Export user and item vectors of a run, for example for an approximate nearest neighbour index.

Shapes: U users, I items, D embedding size.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Literal, NamedTuple

import polars as pl
import torch
from torch import Tensor

from mmrec.config.errors import SettingError
from mmrec.evaluation import NonFiniteScores

if TYPE_CHECKING:
    from mmrec.training.open_run import OpenRun

Score = Literal["dot product", "state", "pair"]
SCORES: dict[Score, str] = {
    "dot product": "the dot product of a user vector and an item vector",
    "state": "the dot product of the state after a sequence and an item vector; users have no "
    "vector of their own",
    "pair": "a function of user and item together, which is no dot product; users have no vector",
}


class Vectors(NamedTuple):
    """User and item vectors on the CPU.

    Attributes:
        users: user vectors, [U, D] float32; None if scores are not dot products with user vectors.
        items: item vectors, [I, D] float32; vectors of several experts are concatenated.
        user_ids: ids of users, [U]; row numbers if the data have no ids.
        item_ids: ids of items, [I]; row numbers if the data have no ids.
        score: relation of vectors and scores, a key of `SCORES`.
    """

    users: Tensor | None
    items: Tensor
    user_ids: pl.Series
    item_ids: pl.Series
    score: Score


@torch.no_grad()
def vectors_of(run: OpenRun) -> Vectors:
    """Return the vectors of a run.

    Raises:
        SettingError: the model has no vectors.
    """
    model, corpus = run.model, run.corpus
    encoded = model.encode()
    found = model.dot_product(encoded)
    items = getattr(encoded, "items", None) if found is None else found.items
    if not isinstance(items, Tensor):
        raise SettingError(
            setting="run",
            value=run.folder,
            problem=f"{type(model).__name__} has no vectors of items",
            hint="give a run of a model with embeddings",
        )
    score: Score = "dot product"
    if found is None:
        score = "state" if model.needs_history else "pair"
    return Vectors(
        None if found is None else _plain(found.users),
        _plain(items.movedim(-2, 0).flatten(1)),
        _names(corpus.user_ids, corpus.n_users),
        _names(corpus.item_ids, corpus.n_items),
        score,
    )


def write_vectors(run: OpenRun, folder: Path, *, index: Literal["faiss"] | None = None) -> Vectors:
    """Write the vectors of a run to a folder, atomically.

    - `vectors.safetensors`: `items` [I, D] and, if users have vectors, `users` [U, D], float32
    - `items.parquet`: `item` (row), `item_id` and, if known, `title`; `users.parquet`: the same
    - `export.json`: model, run, data, and the relation of vectors and scores
    - `items.faiss`: inner product index of the items, with `index="faiss"`

    Args:
        run: opened run.
        folder: new or empty folder in an existing folder.
        index: type of the index; None writes no index.

    Raises:
        SettingError: the model has no vectors.
        NonFiniteScores: a vector is NaN or infinite.
    """
    from safetensors.torch import save_file

    found = vectors_of(run)
    tensors = {"items": found.items} | ({} if found.users is None else {"users": found.users})
    for name, table in tensors.items():
        if not table.isfinite().all():
            raise NonFiniteScores(
                f"{run.checkpoint}: a vector of {name} is NaN or infinite; the model has diverged, "
                "so use another run"
            )
    about = {
        "model": run.result["model"],
        "run": str(run.folder),
        "checkpoint": run.checkpoint.name,
        "data": run.corpus.name,
        "fingerprint": run.corpus.fingerprint,
        "score": found.score,
        "meaning": f"the score is {SCORES[found.score]}",
        "users": run.corpus.n_users,
        "items": run.corpus.n_items,
        "width": found.items.shape[1],
    }
    part = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    try:
        save_file(tensors, part / "vectors.safetensors")
        items = found.item_ids.alias("item_id").to_frame().with_row_index("item")
        if run.corpus.item_titles is not None:
            items = items.with_columns(run.corpus.item_titles.alias("title"))
        items.write_parquet(part / "items.parquet")
        if found.users is not None:
            users = found.user_ids.alias("user_id").to_frame().with_row_index("user")
            users.write_parquet(part / "users.parquet")
        (part / "export.json").write_text(json.dumps(about, indent=2) + "\n")
        if index == "faiss":
            _write_index(found.items, part / "items.faiss")
        part.chmod(0o777 & ~_umask())  # mkdtemp creates a private folder
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return found


def _write_index(items: Tensor, path: Path) -> None:
    import faiss

    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items.numpy())
    faiss.write_index(index, str(path))


def _umask() -> int:
    """The mask of new files, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _plain(table: Tensor) -> Tensor:
    """A table of its own, which later training does not change."""
    return table.detach().float().cpu().clone().contiguous()


def _names(ids: pl.Series | None, count: int) -> pl.Series:
    return pl.int_range(count, eager=True) if ids is None else ids
