"""Weights of channels along the sequences that a model reads, for the pages of `explain`.

N items of sequences, C channels.
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
BLOCK = 2048  # users that are read at a time
DRAWN = 8  # users in the figure
OF_PAIRS = (
    "What gates give to each channel, the mean over train pairs; a channel of longer vectors "
    "adds more to a score than its weight says. Where an item lacks a modality, the others "
    "have its share; one without content has none to give, and does not count."
)
OF_SEQUENCES = (
    "Weights of the channels at each item that the model reads in train, the mean over these. "
    "docs/sequences.md says what the weights are in each model. An item without any does not count."
)


class Weights(NamedTuple):
    """Pairs and what a model weighs in them.

    Attributes:
        pairs: N of them; in sequences, those of a user from the oldest to the latest.
        channels: [N] by name; empty if nothing is weighed.
        in_sequences: whether they are weighed where they stand in sequences.
    """

    pairs: Interactions
    channels: Mapping[str, Tensor]
    in_sequences: bool

    @property
    def about(self) -> str:
        """What they are, for a page."""
        return OF_SEQUENCES if self.in_sequences else OF_PAIRS


def weights_in_train(opened: OpenRun) -> Weights:
    """Return the weights of train pairs, as sequences have them where the model reads these."""
    corpus = opened.corpus
    read = of_sequences(opened, torch.arange(corpus.n_users), "train")
    if read.channels:
        return read
    weights = opened.pair_weights(corpus.train.user, corpus.train.item)
    return Weights(corpus.train, weights, in_sequences=False)


def of_sequences(opened: OpenRun, users: Tensor, known: Known | None = None) -> Weights:
    """Return the weights at each item that the model reads of users [U].

    Args:
        opened: the run; nothing is weighed unless its model reads sequences.
        users: [U] int64.
        known: parts that histories are made of; None: those of the run's test.
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
    """One row per user: how many items are read in train, and the mean weights of channels."""
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
    """Show what the model weighs along the sequences of some users; nothing if it weighs nothing.

    Args:
        opened: the run.
        users: [U] int64.
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
        title = f"User {printable(called)}: {count} items that are read, the oldest first"
        tables.append(item_table(own, title, f"user-{user_file(corpus, one)}-sequence"))
    by_user = Table("weights-by-user", "By user", ["user", "items", *names], rows, deviations=False)
    return [
        Section(
            "Sequences",
            "sequences",
            "Weights of the channels along what the model reads of some users to recommend, the "
            f"oldest item first. {USERS}, beside this page, has the mean over train of every user.",
            [by_user, *tables],
            {"weights": gate_charts.along(dict([*drawn.items()][:DRAWN]), names)} if drawn else {},
        )
    ]


def categories_of(corpus: TrainingView, items: Tensor) -> pl.Series:
    """Names of the categories that each of some items [N] bears."""
    assert corpus.categories is not None
    item, category, names = corpus.categories
    shown = pl.Series("categories", [printable(name, WIDE) for name in names], dtype=pl.String)
    borne = pl.DataFrame({"item": item.numpy(), "categories": shown.gather(category.numpy())})
    each = borne.group_by("item", maintain_order=True).agg(pl.col("categories").str.join(", "))
    rows = pl.DataFrame({"item": items.numpy()}).join(
        each, on="item", how="left", maintain_order="left"
    )
    return rows["categories"].fill_null("")
