"""The data card: a page and a Markdown file about a data set, written beside it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrec.config.paths import replace_file
from mmrec.config.text import first_line, one_line, printable
from mmrec.data.prepare.card import Card, Content, Item, Neighbour
from mmrec.data.tables import shown
from mmrec.report import charts
from mmrec.report.figures import COLOURS
from mmrec.report.page import Section, Tile, page
from mmrec.report.tables import Table, Value, markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
PAGE, TEXT = "card.html", "card.md"
SIDE = 160  # pixels of a picture in the page
PIXELS = 50_000_000  # of a picture that is opened
NUMBERS = ("interactions", "users", "items", "train", "val", "test")  # of a stage
WIDE = 3.0  # a larger lift makes the axis logarithmic
QUANTILES = {"least": 0.0, "1/4": 0.25, "median": 0.5, "3/4": 0.75, "9/10": 0.9, "most": 1.0}
LIFT = (
    "Lift: how many times as often as random pairs of items an item and its nearest neighbours by "
    "content have a user in common. Shuffled: the largest of {} values of features that were given "
    "to other items at random. A lift near 1 says that the features are weak, or those of other "
    "items."
)


def write_card(folder: Path, card: Card, manifest: Mapping[str, Any] | None = None) -> Path:
    """Write `card.html`, which needs no network, and `card.md`.

    Args:
        folder: of the data set.
        card: its numbers.
        manifest: how the data set was made, if that is known.

    Returns:
        The page.
    """
    with charts.style():
        sections = [_counts(card), _interactions(card)]
        if card.content:
            sections += [_content(card), *_neighbours(card)]
        if manifest is not None:
            sections += _origin(manifest)
        title = f"Data set {one_line(card.name)}"
        html = page(title, _summary(card), card.warnings, sections)
    text = _markdown(title, _summary(card), card.warnings, sections)
    for name, content in ((PAGE, html), (TEXT, text)):
        with replace_file(folder / name) as part:
            part.write_text(content)
    return folder / PAGE


def _summary(card: Card) -> str:
    return (
        f"{card.interactions:,} interactions of {card.users:,} users with {card.items:,} items; "
        f"{100 * card.density:.3g} % of all pairs."
    )


def _counts(card: Card) -> Section:
    rows = [
        ["users", f"{card.users:,}"],
        ["items", f"{card.items:,}"],
        ["items without an interaction", f"{int((card.item_degree == 0).sum()):,}"],
        ["interactions", f"{card.interactions:,}"],
        ["repeated user-item pairs", f"{card.repeats:,}"],
        ["density", f"{100 * card.density:.3g} %"],
        *([f"{part} interactions", f"{number:,}"] for part, number in card.parts.items()),
    ]
    if card.categories is not None:
        rows += [
            ["categories", f"{card.categories:,}"],
            ["items without a category", f"{card.uncategorised:,}"],
        ]
    if card.untitled is not None:
        rows.append(["items without a title", f"{card.untitled:,}"])
    degrees = [
        [name, *(f"{value:,.0f}" for value in np.quantile(degree, [*QUANTILES.values()]))]
        for name, degree in _degrees(card).items()
    ]
    return Section(
        "Counts",
        "counts",
        tables=[
            Table("counts", "Data set", ["", "number"], rows),
            Table("degrees", "Interactions", ["of each", *QUANTILES], degrees),
        ],
    )


def _degrees(card: Card) -> dict[str, Any]:
    """Interactions of each user and item that has any."""
    degrees = {"user": card.user_degree, "item": card.item_degree}
    return {name: degree[degree > 0] for name, degree in degrees.items()}


def _interactions(card: Card) -> Section:
    figures = {"degrees": _degree_figure(card), "popularity": _popularity_figure(card)}
    if card.periods is not None:
        figures["time"] = _time_figure(*card.periods)
    return Section("Interactions", "interactions", figures=figures, suffixes=["svg"])


def _degree_figure(card: Card) -> Figure:
    figure, axes = charts.new_axes(
        "interactions n", "share with at least n", "Activity and popularity"
    )
    for (name, degree), colour in zip(_degrees(card).items(), COLOURS, strict=False):
        number, count = np.unique(degree, return_counts=True)
        share = count[::-1].cumsum()[::-1] / len(degree)
        axes.plot(number, share, color=colour, label=f"{name}s", marker=".", markersize=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    charts.plain(axes.xaxis)
    charts.plain(axes.yaxis)
    charts.add_legend(axes)
    return figure


def _popularity_figure(card: Card) -> Figure:
    degree = np.sort(card.item_degree)[::-1]
    share = np.concatenate([[0.0], degree.cumsum() / degree.sum()])
    places = np.linspace(0, len(degree), min(len(degree), 400) + 1).astype(np.int64)
    fifth = float(share[max(1, round(0.2 * len(degree)))])
    figure, axes = charts.new_axes(
        "share of items, most popular first", "share of interactions", "Concentration"
    )
    label = f"the most popular 20 % have {100 * fifth:.0f} %"
    axes.plot(places / len(degree), share[places], color=COLOURS[0], label=label)
    axes.plot([0, 1], [0, 1], color=charts.TEXT, linewidth=0.8, label="all alike")
    charts.add_legend(axes)
    return figure


def _time_figure(edges: Any, counts: Any) -> Figure:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure, axes = charts.new_axes("", "interactions", "Over time")
    axes.stairs(counts, edges / 86_400, fill=True, color=COLOURS[0])  # days since 1970
    locator = AutoDateLocator(tz=UTC, maxticks=7)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    return figure


def _content(card: Card) -> Section:
    from mmrec.data.prepare.lift import SHUFFLES

    rows = [_modality_row(card, kind, each) for kind, each in card.content.items()]
    head = ["modality", "width", "missing", "missing, %", "all zero", "lift", "shuffled"]
    note = f"Items without any modality: {card.contentless:,}."
    table = Table("content", "Modalities", head, rows, [note, LIFT.format(SHUFFLES)])
    figures = {}
    if any(each.lift is not None and each.lift.value for each in card.content.values()):
        figures["lift"] = _lift_figure(card)
    return Section("Content", "content", tables=[table], figures=figures, suffixes=["svg"])


def _modality_row(card: Card, kind: str, content: Content) -> list[str | Value]:
    lift = content.lift
    values = (None, None) if lift is None else (lift.value, lift.shuffled)
    return [
        kind,
        f"{content.width:,}",
        f"{content.missing:,}",
        f"{100 * content.missing / card.items:.1f}",
        f"{content.zero:,}",
        *("–" if value is None else Value(value, digits=2) for value in values),
    ]


def _lift_figure(card: Card) -> Figure:
    figure, axes = charts.new_axes("lift", "", "Content neighbours share users")
    lifts = {kind: each.lift for kind, each in card.content.items() if each.lift is not None}
    known = {kind: lift for kind, lift in lifts.items() if lift.value and lift.shuffled}
    for place, lift in enumerate(known.values()):
        low, high = sorted((1.0, float(lift.value or 1)))
        axes.barh(place, high - low, 0.4, left=low, color=COLOURS[1 if lift.suspicious else 0])
        label = "" if place else "largest of shuffled features"
        axes.vlines(float(lift.shuffled or 1), place - 0.35, place + 0.35, charts.TEXT, label=label)
    axes.axvline(1, color=charts.TEXT, linewidth=0.8)
    axes.set_yticks(range(len(known)), [one_line(kind, 30) for kind in known])
    axes.set_ylim(-0.8, len(known) - 0.2)
    if max([float(lift.value or 1) for lift in known.values()], default=1) > WIDE:
        axes.set_xscale("log")
        charts.plain(axes.xaxis)
    charts.add_legend(axes)
    return figure


def _neighbours(card: Card) -> list[Section]:
    return [
        Section(
            f"Neighbours by {one_line(kind)}",
            f"neighbours-{place}",
            text="Random items, each with its nearest by cosine, and the users that both share.",
            tiles=[
                [_tile(item, ""), *map(_neighbour_tile, neighbours)]
                for item, neighbours in each.samples
            ],
        )
        for place, (kind, each) in enumerate(card.content.items())
        if each.samples
    ]


def _neighbour_tile(neighbour: Neighbour) -> Tile:
    users = f"{neighbour.users:,} user{'s' * (neighbour.users != 1)}"
    return _tile(neighbour.item, f"{neighbour.cosine:.2f} · {users}")


def _tile(item: Item, note: str) -> Tile:
    picture = None if item.picture is None else _thumbnail(item.picture)
    name, title = one_line(item.name, 40), one_line(item.title, 90)
    return Tile(title or name, note or (name if title else ""), picture)


def _thumbnail(path: Path) -> bytes | None:
    """A small JPEG of a picture; None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            image.draft("RGB", (SIDE, SIDE))
            small = image.convert("RGB")
    except Exception as error:  # decoders raise many kinds
        log.warning("%s is not shown (%s)", shown(path), printable(first_line(error), 200))
        return None
    small.thumbnail((SIDE, SIDE))
    file = BytesIO()
    small.save(file, "JPEG", quality=80)
    return file.getvalue()


def _origin(manifest: Mapping[str, Any]) -> list[Section]:
    """How the data set was made; what is not as `mmrec prepare` writes it is left out."""
    stages = [stage for stage in _listed(manifest, "stages") if isinstance(stage, Mapping)]
    used = [name for name in NUMBERS if any(name in stage for stage in stages)]
    rows = [
        [str(stage.get("stage", "")), *(_number(stage, name) for name in used)] for stage in stages
    ]
    sources = manifest.get("sources")
    files = [
        [role, str(file.get("file", "")), _number(file, "bytes"), str(file.get("sha256", ""))[:12]]
        for role, file in (sources.items() if isinstance(sources, Mapping) else ())
        if isinstance(file, Mapping)
    ]
    notes = [f"Split: {manifest['split']}."] if "split" in manifest else []
    if manifest.get("unexpected"):
        notes.append(f"It is not the published set (found, expected): {manifest['unexpected']}.")
    tables = [
        Table("stages", "After each stage", ["stage", *used], rows, notes),
        Table("sources", "Files", ["role", "file", "bytes", "sha256"], files),
    ]
    return [Section("Origin", "origin", tables=tables)]


def _listed(manifest: Mapping[str, Any], name: str) -> list[Any]:
    found = manifest.get(name)
    return found if isinstance(found, list) else []


def _number(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return f"{value:,}" if isinstance(value, int) else ""


def _markdown(
    title: str, summary: str, warnings: Sequence[str], sections: Sequence[Section]
) -> str:
    """The card without its figures."""
    lines = [f"# {_escaped(title)}", "", _escaped(summary), ""]
    for warning in warnings:
        lines += [f"**Warning:** {_escaped(warning)}", ""]
    for section in sections:
        tables = [_as_table(section)] if section.tiles else section.tables
        if not tables:
            continue
        lines += [f"## {_escaped(section.title)}", ""]
        lines += [f"{section.text}\n"] if section.text else []
        lines += [markdown(_safe(table)) for table in tables]
    return "\n".join(lines)


def _as_table(section: Section) -> Table:
    """Tiles as rows, one for each pair of an item and a neighbour."""
    rows = [
        [query.caption if place == 0 else "", tile.caption, tile.note]
        for query, *neighbours in section.tiles
        for place, tile in enumerate(neighbours)
    ]
    return Table(section.slug, "Nearest items", ["item", "neighbour", "cosine, users"], rows)


def _safe(table: Table) -> Table:
    rows = [[cell if isinstance(cell, Value) else _escaped(cell) for cell in r] for r in table.rows]
    head, notes = ([*map(_escaped, each)] for each in (table.head, table.notes))
    return Table(table.name, table.title, head, rows, notes)


def _escaped(text: str) -> str:
    """Text in which nothing is Markdown or HTML; `markdown` escapes the pipe."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]~$])", r"\\\1", text)
