"""Tables of items for the `explain` page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import polars as pl
import torch
from torch import Tensor

from mmrec.data import PlantedData, TrainingView
from mmrec.report.tables import Table, Value
from mmrec.training.open_run import OpenRun

WIDE = 60  # largest number of characters of a title
FILE_NAME = r"(?=.*[A-Za-z])\w{1,100}"


def describe_items(opened: OpenRun, frame: pl.DataFrame) -> pl.DataFrame:
    """Add ids, titles, numbers of training users and true roles to a frame with a column `item`."""
    corpus, item = opened.corpus, frame["item"].cast(pl.Int64)
    more = []
    if corpus.item_ids is not None and "item_id" not in frame.columns:
        more.append(corpus.item_ids.gather(item).alias("item_id"))
    if corpus.item_titles is not None:
        more.append(corpus.item_titles.gather(item).alias("title"))
    more.append(pl.Series("train users", corpus.item_counts()[item.to_torch()].numpy()))
    if isinstance(opened.data, PlantedData):
        truth = opened.data.truth
        roles = [truth.role_names[role] for role in truth.role[item.to_torch()].tolist()]
        more.append(pl.Series("true role", roles))
    return frame.with_columns(more)


def with_weights(frame: pl.DataFrame, weights: Mapping[str, Tensor]) -> pl.DataFrame:
    """Add weights as columns, named `weight of <name>` if the name is taken."""
    taken = frame.columns
    return frame.with_columns(
        pl.Series(f"weight of {name}" if name in taken else name, weight.cpu().numpy())
        for name, weight in weights.items()
    )


def item_table(frame: pl.DataFrame, title: str, name: str) -> Table:
    """Build a table for the page; titles longer than `WIDE` are truncated."""

    def cell(value: Any) -> Any:
        return Value(value, digits=3) if isinstance(value, float) else str(value)

    frame = frame.with_columns(pl.col(pl.Float32).cast(pl.Float64))
    if frame.schema.get("title") == pl.String:
        text = pl.col("title").str
        cut = pl.when(text.len_chars() > WIDE).then(text.head(WIDE) + "…")
        frame = frame.with_columns(cut.otherwise(pl.col("title")))
    rows = [[cell(v) for v in row] for row in frame.iter_rows()]
    return Table(name, title, frame.columns, rows, deviations=False)


def user_file(corpus: TrainingView, user: int) -> str:
    """Return the id of a user if it is a safe file name, otherwise the row number.

    Ids without a letter are not used, because they could be the row number of another user.
    """
    name = "" if corpus.user_ids is None else str(corpus.user_ids[user])
    return name if re.fullmatch(FILE_NAME, name, re.A) else str(user)


def latest_items(corpus: TrainingView, users: Tensor, k: int) -> pl.DataFrame:
    """List the latest training items of users, the latest first; without times, in file order.

    Args:
        corpus: holds the training interactions.
        users: user indices, [N] int64.
        k: largest number of items per user, at least 1.

    Returns:
        A frame with the columns `user` and `item`, and at most `k` rows per user.
    """
    start, item, _ = corpus.train.by_user(corpus.n_users)
    parts = [item[start[user] : start[user + 1]][-k:].flip(0) for user in users.tolist()]
    count = torch.tensor([len(part) for part in parts], dtype=torch.long)
    repeated = users.long().repeat_interleave(count)
    chosen = torch.cat(parts) if parts else item[:0]
    return pl.DataFrame({"user": repeated.numpy(), "item": chosen.numpy()})
