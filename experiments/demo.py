"""Train, compare and recommend on planted data, with the commands that a user would type.

`make demo`, or `python -m experiments.demo`. Each model trains until early stopping, which takes a
few minutes in all on two cores. Everything is written to a new folder under outputs/demo.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch

from mmrec.data import PlantedData
from mmrec.evaluation.recovery import dominance_areas
from mmrec.report.figures import COLOURS, learning_curve
from mmrec.training.open_run import open_run

log = logging.getLogger(__name__)

MODELS = {
    "random": "ranks the items in a random order, to show what chance gives",
    "most_pop": "gives everybody the items with most interactions",
    "lightgcn": "learns from interactions alone",
    "gated_lightgcn": "also reads item content and learns a gate for each modality",
}
# Sparse data, where content adds information; the learning rate was chosen on validation.
SETTINGS = (
    "data=planted",
    "data.world.items=2000",
    "data.world.interactions_per_user=8",
    "optimizer.lr=0.01",
    "trainer=cpu",
    "callbacks.early_stopping.patience=10",
)
METRICS = ("val/recall@20", "val/ndcg@20", "test/recall@20", "test/ndcg@20")
FILES = (
    "comparison.csv and comparison.png hold the table above.",
    "learning_curve.png shows the loss and val/recall@20 of the last model by epoch.",
    "recommendations.csv holds its 10 best unseen items of each user, best first.",
)


def main() -> None:
    """Run the command; its arguments are overrides of every run, such as `trainer.max_epochs=2`."""
    parser = ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    parser.add_argument("settings", nargs="*", help="as for python -m mmrec.run")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    demo(Path("outputs/demo", f"{datetime.now():%Y-%m-%d_%H-%M-%S}"), arguments.settings)


def demo(folder: Path, settings: list[str]) -> dict[str, dict[str, Any]]:
    """Run every model, write a table, two figures and recommendations, and explain them.

    Args:
        folder: where to write; it must not hold runs already.
        settings: overrides beyond `SETTINGS`.

    Returns:
        The content of each model's `result.json`.
    """
    results = {}
    for model, what in MODELS.items():
        log.info("\n%s %s.", model, what)
        run = folder / model
        command("mmrec.run", f"model={model}", *SETTINGS, f"run_dir={run}", *settings)
        results[model] = json.loads((run / "result.json").read_text())
    best = folder / [*MODELS][-1]
    command("mmrec.recommend", f"run={best}", "k=10", f"output={folder / 'recommendations.csv'}")

    table = pl.DataFrame(
        [{"model": m} | {name: r["metrics"][name] for name in METRICS} for m, r in results.items()]
    )
    table.write_csv(folder / "comparison.csv")
    draw_comparison(table, folder / "comparison.png")
    learning_curve(best / "metrics.csv", "val/recall@20", folder / "learning_curve.png")

    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        log.info("\n%s\n", table.with_columns(pl.col(METRICS).round(4)))
    for sentence in [*explained(results), *explained_gate(gate_agreement(best)), *FILES]:
        log.info("- %s", sentence)
    log.info("\nEverything is in %s", folder)
    return results


def explained(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Explain the figures of the table, in a sentence each.

    Args:
        results: `result.json` of each model.
    """
    items = next(iter(results.values()))["data_card"]["items"]
    sentences = [
        f"recall@20 is the share of a user's held-out items that are among the first 20 of "
        f"{items:,} ranked items; chance gives about {20 / items:.3f}.",
        "ndcg@20 also counts where they are: 1 if all held-out items come first, less the "
        "further down they are.",
        "val is the validation part, which chose the best epoch; test was computed once, at the "
        "end, with the weights of that epoch.",
    ]
    for model, result in results.items():
        if result["epochs"]:
            sentences.append(
                f"{model} trained for {result['epochs']} epochs and was best in epoch "
                f"{result['best_epoch']}, counted from 0."
            )
    trained = [model for model, result in results.items() if result["epochs"]]
    if len(trained) > 1:
        name, (first, last) = "test/recall@20", (trained[0], trained[-1])
        one, two = (results[model]["metrics"][name] for model in (first, last))
        sentences.append(
            f"{last} has a {name} of {two:.4f} and {first} of {one:.4f}: the difference is what "
            "item content is worth on these data."
        )
    return sentences


def explained_gate(areas: Mapping[str, float]) -> list[str]:
    """Explain how well each modality's gate finds its items, in a sentence each.

    Args:
        areas: as `gate_agreement` returns them.
    """
    return [
        f"The {name} gate has an AUC of {area:.3f}: of an item whose users were planted to like "
        f"its {name} content and one whose users were not, it is larger for the first in "
        f"{area:.0%} of pairs; 50% is chance."
        for name, area in areas.items()
    ]


def command(module: str, *words: str) -> None:
    """Show a command of mmrec and run it."""
    log.info("\n$ python -m %s", shlex.join([module, *words]))
    subprocess.run([sys.executable, "-m", module, *words], check=True)


def gate_agreement(run: Path) -> dict[str, float]:
    """Measure how well each modality's gate finds the items whose dominant modality it is.

    Only items that have a dominant modality and lack none are counted.

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
    """Draw the test metrics of every model side by side."""
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
