"""Figures of one run. matplotlib is imported lazily, because importing it takes time.

Shapes: I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mmrec.config.errors import DataError
from mmrec.config.paths import replace_file
from mmrec.data import Corpus
from mmrec.training.results import read_epochs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Palette of Okabe and Ito, distinguishable by colour-blind readers and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>"


def write_item_weights(
    folder: Path, weights: Mapping[str, Tensor], corpus: Corpus, *, of_pairs: bool = False
) -> None:
    """Write the channel weights of each item as a table and as a figure.

    `item_weights.parquet` has the columns `item`, `item_id` (if the data have original ids), one
    column per channel, and `train_count`. `item_weights.png` and `.svg` show the distribution of
    each channel's weight, and its mean per decile of popularity.

    Args:
        folder: the run folder.
        weights: weight of each item by channel, [I].
        corpus: the data of the run.
        of_pairs: whether weights are means over the training pairs of an item. Items without
            training pairs then have the mean over all pairs, and are left out of the figure.
    """
    table = pl.DataFrame(
        {
            "item": torch.arange(corpus.n_items).numpy(),
            **{name: weight.cpu().numpy() for name, weight in weights.items()},
            "train_count": corpus.item_counts().numpy(),
        }
    )
    if corpus.item_ids is not None:
        table.insert_column(1, corpus.item_ids.alias("item_id"))
    with replace_file(folder / "item_weights.parquet") as part:
        table.write_parquet(part)

    # If a modality is missing, the others share its weight, so the weights are not comparable.
    whole = torch.ones(corpus.n_items, dtype=torch.bool)
    for modality in corpus.modalities.values():
        whole &= modality.present
    if of_pairs:
        whole &= corpus.item_counts() > 0
    figure = _draw_item_weights(table.filter(whole.numpy()), list(weights), corpus.name)
    for suffix in ("png", "svg"):
        _save(figure, folder / f"item_weights.{suffix}")


def learning_curve(metrics_csv: Path, monitor: str, output: Path) -> None:
    """Draw the loss terms and the validation metric of each epoch, with the best epoch marked.

    Args:
        metrics_csv: `metrics.csv` of a run, with one row per epoch.
        monitor: column that selects the best epoch; larger is better.
        output: path of the figure; its suffix (`.png`, `.svg`, `.pdf`) sets the format.

    Raises:
        DataError: the file has no column `monitor`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    table = read_epochs(metrics_csv)
    if monitor not in table.columns:
        raise DataError(
            file=metrics_csv, found=", ".join(table.columns), expected=f"a column {monitor}"
        )
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)

    terms = [name for name in table.columns if name.startswith("train/")]
    for name, colour, marker in zip(terms, cycle(COLOURS), cycle(MARKERS), strict=False):
        shown = table.select("epoch", name).drop_nulls()
        style = {"color": colour, "marker": marker, "markevery": max(1, len(shown) // 10)}
        left.plot(shown["epoch"], shown[name], label=name.removeprefix("train/"), **style)
    if terms and table.select(pl.min_horizontal(pl.col(terms).min())).item() > 0:
        left.set_yscale("log")
    left.set(xlabel="epoch", ylabel="weighted loss, mean over batches", title="Training")
    if terms:
        left.legend(frameon=False)

    values = table.select("epoch", monitor).drop_nulls()
    right.plot(values["epoch"], values[monitor], color=COLOURS[0])
    best = values.sort(monitor, descending=True, maintain_order=True).row(0)
    label = f"best: {best[1]:.4f} at epoch {best[0]}"
    right.plot(*best, color=COLOURS[1], marker="o", linestyle="none", label=label)
    right.set(xlabel="epoch", ylabel=monitor, title="Validation")
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, output)


def _draw_item_weights(table: pl.DataFrame, channels: list[str], name: str) -> Figure:
    """Draw the distribution of each channel's weight, and its mean per decile of popularity."""
    from matplotlib.figure import Figure

    decile = (pl.col("train_count").rank("ordinal") - 1) * 10 // len(table) + 1
    by_decile = (
        table.group_by(decile.alias("decile"))
        .agg(
            pl.col(channels).mean(),
            (pl.col(channels).std() / pl.len().sqrt()).name.suffix("/error"),
        )
        .sort("decile")
    )
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    # All channels share the bins, which keep a width above 0 even if all weights are equal.
    weights = table.select(channels).to_numpy()
    low, high = (weights.min(), weights.max()) if weights.size else (0.0, 1.0)
    bins = np.linspace(low - 0.01, high + 0.01, 42)
    for channel, colour, marker in zip(channels, cycle(COLOURS), cycle(MARKERS), strict=False):
        left.hist(table[channel], bins=bins, histtype="step", color=colour, label=channel)
        right.errorbar(
            by_decile["decile"].to_numpy(),
            by_decile[channel].to_numpy(),
            by_decile[f"{channel}/error"].fill_null(0).to_numpy(),
            color=colour,
            marker=marker,
            capsize=2,
            label=channel,
        )
    left.set(xlabel="weight of the channel", ylabel="items", title="Distribution")
    right.set(
        xlabel="popularity decile (10: most training interactions)",
        ylabel="mean weight ± standard error",
        title="By popularity",
        xticks=range(1, 11),
    )
    right.legend(frameon=False)
    figure.suptitle(f"{name}: {len(table)} items with all modalities")
    return figure


def _save(figure: Figure, path: Path) -> None:
    with replace_file(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix("."), dpi=150)
