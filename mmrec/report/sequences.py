"""Channel weights along the sequences that a model reads, for the `explain` page.

Shapes: U users, N items of all sequences, L items of one sequence, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from mmrec.config.literals import Known
from mmrec.config.text import printable
from mmrec.data import Interactions, TrainingView
from mmrec.models import SequentialRecommender
from mmrec.report import gate_charts
from mmrec.report.item_tables import (
    WIDE,
    describe_items,
    item_table,
    user_file,
    with_weights,
)
from mmrec.report.page import Section
from mmrec.report.tables import Table, Value
from mmrec.training.open_run import OpenRun

USERS = "weights-of-users.csv"
BLOCK = 2048  # users encoded at a time
DRAWN = 8  # largest number of users in the figure
OF_PAIRS = (
    "Mean gate weight of each channel over the training pairs. A weight is not a contribution to "
    "the score: channels with larger vectors contribute more at the same weight. If an item lacks "
    "a modality, the other channels share its weight; items without content are left out."
)
OF_SEQUENCES = (
    "Mean weight of each channel over the items of the training sequences. What a weight is "
    "depends on the model, see docs/sequences.md. Items without weights are left out."
)


class Weights(NamedTuple):
    """User-item pairs and the channel weights that a model gives them.

    Attributes:
        pairs: N pairs; the items of a sequence are in order, the oldest first.
        channels: weights [N] by channel; empty if the model has no weights.
        in_sequences: whether the weights depend on the position in a sequence.
    """

    pairs: Interactions
    channels: Mapping[str, Tensor]
    in_sequences: bool

    @property
    def about(self) -> str:
        """Description of the weights for the page."""
        return OF_SEQUENCES if self.in_sequences else OF_PAIRS


def weights_in_train(opened: OpenRun) -> Weights:
    """Return the weights of training pairs; by position in sequences if the model reads these."""
    corpus = opened.corpus
    read = of_sequences(opened, torch.arange(corpus.n_users), "train")
    if read.channels:
        return read
    weights = opened.pair_weights(corpus.train.user, corpus.train.item)
    return Weights(corpus.train, weights, in_sequences=False)


def of_sequences(opened: OpenRun, users: Tensor, known: Known | None = None) -> Weights:
    """Return the weights at each item of the users' sequences.

    Args:
        opened: the run. The result is empty unless its model reads sequences.
        users: user indices, [U] int64.
        known: parts of the data that form the histories; None: the parts used for the run's test.
    """
    model = opened.model
    rows: list[tuple[Tensor, Tensor]] = []
    parts: list[Mapping[str, Tensor]] = []
    if isinstance(model, SequentialRecommender):
        encoded = model.encode()
        for queries in opened.queries(users, BLOCK, known):
            history = queries.require_history()
            moved = move_data_to_device(history, model.device)
            found = model.sequence_weights(moved, encoded)
            if not found:
                break
            rows.append((queries.user.repeat_interleave(history.length), history.item))
            parts.append({name: weight.cpu() for name, weight in found.items()})
    if not parts:
        empty = torch.empty(0, dtype=torch.int64)
        return Weights(Interactions(empty, empty), {}, in_sequences=True)
    channels = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    user, item = zip(*rows, strict=True)
    return Weights(Interactions(torch.cat(user), torch.cat(item)), channels, in_sequences=True)


def every_user(corpus: TrainingView, weights: Weights) -> pl.DataFrame:
    """Return one row per user: number of training items read, and mean weight of each channel."""
    user = weights.pairs.user
    there = torch.stack([*weights.channels.values()], 1).any(1)
    count = torch.bincount(user[there], minlength=corpus.n_users)
    frame = pl.DataFrame({"user": range(corpus.n_users)})
    if corpus.user_ids is not None:
        frame = frame.with_columns(corpus.user_ids.alias("user_id"))
    frame = frame.with_columns(pl.Series("items", count.numpy()))
    means = {}
    for name, weight in weights.channels.items():
        total = torch.zeros(corpus.n_users, dtype=torch.float64)
        means[name] = total.index_add_(0, user, weight.double()) / count
    return with_weights(frame, means).with_columns(pl.col(pl.Float64).fill_nan(None))


def along_sequences(opened: OpenRun, users: Tensor) -> list[Section]:
    """Show the channel weights along the sequences of some users.

    Args:
        opened: the run.
        users: user indices, [U] int64.

    Returns:
        One section, or an empty list if the model has no weights at positions.
    """
    read = of_sequences(opened, users)
    if not read.channels:
        return []
    corpus, names = opened.corpus, [*read.channels]
    frame = describe_items(opened, pl.DataFrame({"item": read.pairs.item.numpy()}))
    if corpus.categories is not None:
        frame = frame.with_columns(categories_of(corpus, read.pairs.item))
    frame = with_weights(frame, read.channels)
    values = torch.stack([*read.channels.values()], 1)  # [N, C]
    tables: list[Table] = []
    rows: list[list[str | Value]] = []
    drawn: dict[str, Tensor] = {}
    for one in users.tolist():
        there = read.pairs.user == one
        count = int(there.sum())
        called = str(one if corpus.user_ids is None else corpus.user_ids[one])
        weighed = values[there & values.any(1)]
        means = weighed.double().mean(0).tolist()
        cells = [Value(mean) if len(weighed) else "–" for mean in means]
        rows.append([printable(called), f"{count:,}", *cells])
        if not count:
            continue
        drawn[printable(called, WIDE)] = values[there]
        position = pl.Series("position", range(1, count + 1))
        own = frame.filter(pl.Series(there.numpy())).insert_column(0, position)
        title = f"User {printable(called)}: sequence of {count} items, the oldest first"
        tables.append(item_table(own, title, f"user-{user_file(corpus, one)}-sequence"))
    by_user = Table(
        "weights-by-user", "Mean weights by user", ["user", "items", *names], rows, deviations=False
    )
    return [
        Section(
            "Sequences",
            "sequences",
            "Channel weights along the sequences from which the model recommends, the oldest item "
            f"first. The mean weights of all users in train are in {USERS}, next to this page.",
            [by_user, *tables],
            {"weights": gate_charts.along(dict([*drawn.items()][:DRAWN]), names)} if drawn else {},
        )
    ]


def categories_of(corpus: TrainingView, items: Tensor) -> pl.Series:
    """Return the names of the categories of each item [N], joined by commas."""
    assert corpus.categories is not None
    item, category, names = corpus.categories
    shown = pl.Series("categories", [printable(name, WIDE) for name in names], dtype=pl.String)
    borne = pl.DataFrame({"item": item.numpy(), "categories": shown.gather(category.numpy())})
    each = borne.group_by("item", maintain_order=True).agg(pl.col("categories").str.join(", "))
    rows = pl.DataFrame({"item": items.numpy()}).join(
        each, on="item", how="left", maintain_order="left"
    )
    return rows["categories"].fill_null("")
