"""Vectors of a run, for an index or a model of one's own.

Shapes: U users, I items, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import polars as pl
import torch
from torch import Tensor

from mmrec.config.errors import SettingError

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
    """Vectors of users and items, on the CPU.

    Attributes:
        users: [U, D] float32; None where the score is no dot product with a vector of the user.
        items: [I, D] float32; of several experts, side by side.
        user_ids: [U] names of users, row numbers if the data have no ids.
        item_ids: [I] names of items.
        score: a key of `SCORES`.
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


def _plain(table: Tensor) -> Tensor:
    """A table of its own, which later training does not change."""
    return table.detach().float().cpu().clone().contiguous()


def _names(ids: pl.Series | None, count: int) -> pl.Series:
    return pl.int_range(count, eager=True) if ids is None else ids
