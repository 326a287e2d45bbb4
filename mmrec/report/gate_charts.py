"""Figures of gates and of item measures.

Shapes: G groups, C channels, Q measures, L items of a sequence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mmrec.report.charts import SIZE, TEXT, add_legend, new_axes
from mmrec.report.figures import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

HATCHES = ("", "//", "..", "xx", "--", "\\\\", "++", "oo")
DASHES = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 1)), (0, (3, 1, 1, 1)), (0, (8, 4)))


def looks(names: Sequence[str], channels: Sequence[str]) -> list[tuple[str, int]]:
    """Choose a colour for each name.

    A name gets the colour of the first channel that it contains, for example
    `balanced/visual+textual` or `visual/2`, so that a channel and its experts have the same colour
    in all figures. A name without a channel gets the colour of its position.

    Args:
        names: of channels or experts.
        channels: names of all channels.

    Returns:
        The colour of each name, and how many earlier names have the same colour.
    """
    found: list[tuple[str, int]] = []
    for n, name in enumerate(names):
        place = [channels.index(part) for part in re.split("[/+]", name) if part in channels]
        colour = COLOURS[(place[0] if place else n) % len(COLOURS)]
        found.append((colour, sum(colour == other for other, _ in found)))
    return found


def loads(
    table: pl.DataFrame, experts: Sequence[str], channels: Sequence[str], trigger: int | None
) -> Figure:
    """Draw the share of the load of each expert per epoch.

    Args:
        table: metrics per epoch, with a column `load/<expert>` for each expert.
        experts: names of the experts.
        channels: names of the channels, which set the colours.
        trigger: first epoch of the second stage; None: no line is drawn.
    """
    figure, axes = new_axes("epoch", "share of the load", "Load of the experts")
    shown = table.select("epoch", *(f"load/{name}" for name in experts)).drop_nulls()
    lines = zip(experts, looks(experts, channels), cycle(MARKERS), strict=False)
    for name, (colour, again), marker in lines:
        axes.plot(
            shown["epoch"],
            shown[f"load/{name}"],
            color=colour,
            linestyle=DASHES[again % len(DASHES)],
            marker=marker,
            markersize=3,
            markevery=max(1, len(shown) // 8),
            linewidth=1,
            label=name,
        )
    axes.set_ylim(bottom=0)
    mark_trigger(axes, trigger)
    add_legend(axes)
    return figure


def entropy_curves(table: pl.DataFrame, trigger: int | None) -> Figure:
    """Draw the routing entropies per epoch, each divided by its maximum."""
    figure, axes = new_axes("epoch", "entropy / maximum", "Routing entropy")
    names = {
        "router/gate_entropy": "mean gates",
        "router/load_entropy": "load",
        "router/pair_entropy": "gates per pair",
    }
    for (name, label), colour in zip(names.items(), COLOURS, strict=False):
        shown = table.select("epoch", name).drop_nulls()
        axes.plot(shown["epoch"], shown[name], color=colour, label=label)
    axes.set_ylim(0, 1.02)
    mark_trigger(axes, trigger)
    add_legend(axes)
    return figure


def stacked(
    means: Tensor, parts: Sequence[str], channels: Sequence[str], groups: Sequence[str], title: str
) -> Figure:
    """Draw the mean weights of channels or experts as one stacked bar per group.

    Args:
        means: weights, [G, C]; NaN counts as 0.
        parts: names of the C channels or experts.
        channels: names of the channels, which set the colours.
        groups: names of the G groups.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0], 1.4 + 0.24 * len(groups)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(groups))
    shares = means.nan_to_num().T.numpy()
    for values, part, (colour, again) in zip(shares, parts, looks(parts, channels), strict=True):
        axes.barh(
            range(len(groups)),
            values,
            left=left,
            color=colour,
            hatch=HATCHES[again % len(HATCHES)],
            edgecolor="white" if again else None,
            linewidth=0,
            label=part,
        )
        left += values
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set(xlabel="mean weight", title=title)
    add_legend(axes)
    return figure


def panels(means: Tensor, names: Sequence[str], groups: Sequence[str]) -> Figure:
    """Draw the means of groups, one panel per measure.

    Args:
        means: [G, Q]; NaN counts as 0.
        names: of the Q measures.
        groups: names of the G groups.
    """
    from matplotlib.figure import Figure

    height = 0.5 + (0.7 + 0.24 * len(groups)) * len(names)
    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    every = np.atleast_1d(figure.subplots(len(names)))
    for axes, name, values in zip(every, names, means.nan_to_num().T.numpy(), strict=True):
        axes.barh(range(len(groups)), values, color=COLOURS[0])
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        axes.set(title=f"Mean {name}")
    return figure


def along(users: Mapping[str, Tensor], channels: Sequence[str]) -> Figure:
    """Draw channel weights along sequences, one panel per user.

    Args:
        users: weights at the positions of each user's sequence, [L, C], by name of the user.
        channels: names of the C channels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(SIZE[0], 0.8 + 1.2 * len(users)), layout="constrained")
    every = figure.subplots(len(users), squeeze=False)[:, 0]
    top = max(float(weights.max()) for weights in users.values())
    for axes, (name, weights) in zip(every, users.items(), strict=True):
        position = range(1, len(weights) + 1)
        lines = zip(weights.T.numpy(), channels, looks(channels, channels), strict=True)
        for values, channel, (colour, again) in lines:
            axes.plot(
                position,
                values,
                color=colour,
                linestyle=DASHES[again % len(DASHES)],
                marker="o",
                markersize=2,
                linewidth=1,
                label=channel if axes is every[0] else None,
            )
        axes.set_ylim(0, 1.05 * top)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=f"User {name}", ylabel="weight")
    every[-1].set_xlabel("position in the sequence")
    add_legend(every[0])
    return figure


def mark_trigger(axes: Axes, trigger: int | None) -> None:
    """Draw a vertical line at the first epoch of the second stage, if there is one."""
    if trigger is not None:
        axes.axvline(trigger, color=TEXT, linewidth=0.8, linestyle="--", label="second stage")
