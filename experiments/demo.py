"""Train, compare, and recommend on planted data, with the commands a person would type.

`make demo`, or `python -m experiments.demo`. Everything lands in a new folder under outputs/demo.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch

from mmrec.data import PlantedData
from mmrec.recovery import dominance_areas
from mmrec.report.figures import COLOURS, learning_curve
from mmrec.runs import open_run

log = logging.getLogger(__name__)

MODELS = ("random", "most_pop", "lightgcn", "gated_lightgcn")
# A sparse world, where content has something to tell; rate and epochs chosen on validation.
SETTINGS = (
    "data=planted",
    "data.world.items=2000",
    "data.world.interactions_per_user=8",
    "optimizer.lr=0.01",
    "trainer=cpu",
    "trainer.max_epochs=40",
)
METRICS = ("val/recall@20", "val/ndcg@20", "test/recall@20", "test/ndcg@20")


def main() -> None:
    """The command: words after it are settings of every run, such as `trainer.max_epochs=2`."""
    parser = ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    parser.add_argument("settings", nargs="*", help="as for python -m mmrec.run")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    demo(Path("outputs/demo", f"{datetime.now():%Y-%m-%d_%H-%M-%S}"), arguments.settings)


def demo(folder: Path, settings: list[str]) -> dict[str, dict[str, Any]]:
    """Run every model, and write a table, two figures and recommendations.

    Args:
        folder: is made; must not hold runs already.
        settings: overrides beyond `SETTINGS`.

    Returns:
        The content of each model's `result.json`.
    """
    results = {}
    for model in MODELS:
        run = folder / model
        command("mmrec.run", f"model={model}", *SETTINGS, f"run_dir={run}", *settings)
        results[model] = json.loads((run / "result.json").read_text())
    best = folder / MODELS[-1]
    command("mmrec.recommend", f"run={best}", "k=10", f"output={folder / 'recommendations.csv'}")

    table = pl.DataFrame(
        [{"model": m} | {name: r["metrics"][name] for name in METRICS} for m, r in results.items()]
    )
    table.write_csv(folder / "comparison.csv")
    draw_comparison(table, folder / "comparison.png")
    learning_curve(best / "metrics.csv", "val/recall@20", folder / "learning_curve.png")

    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        log.info("\n%s", table.with_columns(pl.col(METRICS).round(4)))
    for name, area in gate_agreement(best).items():
        log.info(
            "gate of %s finds the items it was planted in: AUC %.3f (0.5 is chance)", name, area
        )
    log.info("see %s", folder)
    return results


def command(module: str, *words: str) -> None:
    """Run a command of mmrec, and show it."""
    log.info("\n$ python -m %s", shlex.join([module, *words]))
    subprocess.run([sys.executable, "-m", module, *words], check=True)


def gate_agreement(run: Path) -> dict[str, float]:
    """How well each modality's gate tells the items that it dominates from those it does not show.

    Only items of a dominant role that have every modality count.

    Returns:
        Modality -> area under the ROC curve; empty if the model has no gate.
    """
    opened = open_run(run)
    assert isinstance(opened.data, PlantedData)
    present = torch.stack([m.present for m in opened.corpus.modalities.values()]).all(0)  # [I]
    weights = {name: w[present] for name, w in opened.model.item_weights().items()}
    truth = opened.data.truth
    return dominance_areas(truth, truth.role[present], weights)


def draw_comparison(table: pl.DataFrame, output: Path) -> None:
    """Test metrics at 20 of every model, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, (metric, colour) in enumerate(zip(METRICS[2:], COLOURS, strict=False)):
        position = [row + 0.4 * place for row in range(len(table))]
        bars = axes.bar(position, table[metric].to_list(), 0.38, color=colour, label=metric)
        axes.bar_label(bars, fmt="%.3f", fontsize=8)
    axes.set_xticks([row + 0.2 for row in range(len(table))], table["model"].to_list())
    axes.set(ylabel="mean over test users", title="Planted data, full ranking")
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(output, dpi=150)


if __name__ == "__main__":
    main()
