"""What a data card says about a data set, as numbers; `mmrec.report.data_card` shows them.

Shape legend: U users, I items, N interactions, Q sampled items, k neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from mmrec.data.corpus import SPLITS, Modality, Source
from mmrec.data.prepare.lift import (
    CoInteraction,
    Lift,
    Rows,
    content_lift,
    lift_warning,
    nearest,
    usable,
)

log = logging.getLogger(__name__)
SAMPLES = 6  # items of each modality whose neighbours are shown
SHOWN = 5  # neighbours of each
PERIODS = 48  # parts of the time span
PICTURES = "images"  # folder of pictures in the folder of a data set
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Item:
    """An item as the card shows it.

    Attributes:
        row: its number.
        name: original id, or its number.
        title: empty if unknown.
        picture: file; None if there is none.
    """

    row: int
    name: str
    title: str
    picture: Path | None


@dataclass(frozen=True)
class Neighbour:
    """A content neighbour of an item.

    Attributes:
        item: the neighbour.
        cosine: of the features of both.
        users: number of users that both share.
    """

    item: Item
    cosine: float
    users: int


@dataclass(frozen=True, eq=False)
class Content:
    """A modality.

    Attributes:
        width: F.
        missing: items without it.
        zero: items whose features are all zero.
        lift: of content neighbours; None if too few items have features and interactions.
        samples: items with their nearest neighbours.
    """

    width: int
    missing: int
    zero: int
    lift: Lift | None
    samples: list[tuple[Item, list[Neighbour]]]

    def __str__(self) -> str:
        told = f"width {self.width}, {self.missing:,} items without it, {self.zero:,} all zero"
        if self.lift is None or self.lift.value is None:
            return f"{told}, too few pairs for a lift"
        return f"{told}, lift {self.lift.value:.2f} (shuffled features {self.lift.shuffled:.2f})"


@dataclass(frozen=True, eq=False)
class Card:
    """A description of a data set.

    Attributes:
        name: of the data set.
        users: with an interaction.
        items: of the catalogue.
        interactions: N.
        repeats: rows that repeat a user-item pair.
        user_degree: [U] interactions of each user.
        item_degree: [I] interactions of each item.
        parts: rows of each part of the split that is given with the data; empty if there is none.
        periods: edges of the parts of the time span, in seconds, and the interactions in each; None
            without a clock.
        categories: number of different ones; None if unknown.
        uncategorised: items without a category.
        untitled: items without a title; None if titles are unknown.
        contentless: items without any modality.
        content: by modality.
    """

    name: str
    users: int
    items: int
    interactions: int
    repeats: int
    user_degree: Rows
    item_degree: Rows
    parts: dict[str, int]
    periods: tuple[npt.NDArray[np.float64], Rows] | None
    categories: int | None
    uncategorised: int
    untitled: int | None
    contentless: int
    content: dict[str, Content] = field(default_factory=dict)

    @property
    def density(self) -> float:
        """Share of all user-item pairs that occur."""
        pairs = self.interactions - self.repeats
        return pairs / (self.users * self.items) if self.users and self.items else 0.0

    @property
    def warnings(self) -> list[str]:
        """What is suspicious about the features."""
        found = (lift_warning(kind, each.lift) for kind, each in self.content.items())
        return [text for text in found if text]

    def alignment(self) -> dict[str, Any]:
        """Return the lift of each modality for the manifest."""
        return {
            kind: None
            if (lift := each.lift) is None
            else {
                "lift": None if lift.value is None else round(lift.value, 3),
                "shuffled": None if lift.shuffled is None else round(lift.shuffled, 3),
                "suspicious": lift.suspicious,
            }
            for kind, each in self.content.items()
        }


def describe(source: Source, folder: Path, *, seed: int = 0) -> Card:
    """Describe a data set, and warn of features that may be those of other items.

    Args:
        source: as it was read.
        folder: of the data set; a folder `images` in it has pictures named by id or row number.
        seed: of samples.
    """
    rows = source.interactions
    shared = CoInteraction(rows, source.n_users, source.n_items)
    user_degree = torch.bincount(rows.user, minlength=source.n_users).numpy()
    there = [each.present for each in source.modalities.values()]
    contentless = int((~torch.stack(there).any(0)).sum()) if there else source.n_items
    label, categories, titles = source.label, source.categories, source.item_titles
    categorised = 0 if categories is None else len(torch.unique(categories.item))
    order = np.random.default_rng(seed).permutation(shared.items())
    pictures = _pictures(folder, source.item_ids)
    card = Card(
        name=source.name,
        users=int((user_degree > 0).sum()),
        items=source.n_items,
        interactions=len(rows),
        repeats=len(rows) - shared.pairs,
        user_degree=user_degree,
        item_degree=torch.bincount(rows.item, minlength=source.n_items).numpy(),
        parts={}
        if label is None
        else {part: int((label == value).sum()) for value, part in enumerate(SPLITS)},
        periods=_periods(source),
        categories=None if categories is None else len(categories.names),
        uncategorised=source.n_items - categorised,
        untitled=None if titles is None else int((titles == "").sum()),
        contentless=contentless,
        content={
            kind: _content(source, modality, shared, order, pictures, seed)
            for kind, modality in source.modalities.items()
        },
    )
    for kind, each in card.content.items():
        log.info("%s: %s: %s", source.name, kind, each)
    for text in card.warnings:
        log.warning("%s: %s", source.name, text)
    return card


def _content(
    source: Source,
    modality: Modality,
    shared: CoInteraction,
    order: Rows,
    pictures: Mapping[int, Path],
    seed: int,
) -> Content:
    """Describe a modality, with neighbours of the first items of an order that have it."""
    present = np.flatnonzero(modality.present.numpy())
    known = usable(modality, present)
    chosen = order[np.isin(order, known)][:SAMPLES]
    samples = []
    if len(known) > 1 and len(chosen):
        k = min(SHOWN, len(known) - 1)
        found, cosine = nearest(modality, chosen, known, k)
        users = shared.users(chosen.repeat(k), found.flatten()).reshape(found.shape)
        samples = [
            (
                _item(source, pictures, query),
                [
                    Neighbour(_item(source, pictures, item), float(alike), int(count))
                    for item, alike, count in zip(*rows, strict=True)
                ],
            )
            for query, *rows in zip(chosen, found, cosine, users, strict=True)
        ]
    return Content(
        width=modality.width,
        missing=source.n_items - len(present),
        zero=len(present) - len(known),
        lift=content_lift(modality, shared, seed=seed),
        samples=samples,
    )


def _periods(source: Source) -> tuple[npt.NDArray[np.float64], Rows] | None:
    time = source.interactions.time
    if time is None or not source.clock or not len(time):
        return None
    counts, edges = np.histogram(time.numpy(), bins=PERIODS)
    return edges, counts.astype(np.int64)


def _pictures(folder: Path, ids: pl.Series | None) -> dict[int, Path]:
    """Pictures by the row of their item; links are not followed.

    Files are named by ids of items or, if no file has such a name, by row numbers.
    """
    place = folder / PICTURES
    if place.is_symlink() or not place.is_dir():
        return {}
    files = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
    named = {path.stem: path for path in files if path.is_file() and not path.is_symlink()}
    rows = {} if ids is None else {name: row for row, name in enumerate(ids.cast(pl.String))}
    by_id = {rows[stem]: path for stem, path in named.items() if stem in rows}
    return by_id or {int(stem): path for stem, path in named.items() if stem.isdecimal()}


def _item(source: Source, pictures: Mapping[int, Path], row: int) -> Item:
    row = int(row)
    name = str(row if source.item_ids is None else source.item_ids[row])
    title = "" if source.item_titles is None else str(source.item_titles[row])
    return Item(row, name, title, pictures.get(row))
