"""CAMMSR without each of its parts, and with wrong categories, at the settings of its search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt

from experiments.contest import Contest, call
from experiments.study import provenance
from mmrec.report.collect import Run, collect

METRIC = "test/ndcg@5"
WRONG = "noisy_labels_"  # ablations in which a percentage of the items has wrong categories


def ablate(contest: Contest, data: str) -> bool:
    """Train CAMMSR, and with each ablation that a data set allows, on the first seed.

    Returns:
        Whether all went well.
    """
    return call(
        "grid=ablations",
        f"experiment=cammsr-{data}-best",
        *contest.words("cammsr", data),
        "seed=0",
        f"hydra.sweep.dir={folder_of(contest, data)}",
        *("--config-dir", str(contest.chosen)),
    )


def folder_of(contest: Contest, data: str) -> Path:
    """Return the folder of the ablations' runs; those of other settings have another."""
    return contest.outputs / "ablations" / contest.repeats("cammsr", data).name


def section(contest: Contest, data: str, here: Path) -> list[str]:
    """Write the figure of wrong categories, and return the section of the page.

    Args:
        contest: with CAMMSR.
        data: name of the data set in it.
        here: folder of the page and the figure.
    """
    folder = folder_of(contest, data)
    runs = {run.ablation: run for run in collect([f"{folder}/**"]).runs} if folder.exists() else {}
    if None not in runs:
        return []
    lines = [
        "### CAMMSR without its parts",
        "",
        "One seed, at the settings of the search; the best on validation first.",
        "",
        "| ablation | validation NDCG@10 | test NDCG@5 | difference | test NDCG@10 |",
        "|---|--:|--:|--:|--:|",
        *rows(runs),
        "",
    ]
    if draw_wrong_categories(runs, here / f"{data}_categories.png"):
        lines += [f"![NDCG@5 against wrong categories]({data}_categories.png)", ""]
    command = f"python -m experiments.cammsr.ablate --data {data}"
    return [*lines, provenance([run.result for run in runs.values()], command), ""]


def rows(runs: Mapping[str | None, Run]) -> list[str]:
    """A row an ablation, with its relative difference from the whole model in the test metric."""
    whole = runs[None].metrics[METRIC]
    return [
        f"| {name or '**none**'} | {run.metrics['val/ndcg@10']:.4f} | {run.metrics[METRIC]:.4f} "
        f"| {run.metrics[METRIC] / whole - 1:+.1%} | {run.metrics['test/ndcg@10']:.4f} |"
        for name, run in sorted(runs.items(), key=lambda each: -each[1].metrics["val/ndcg@10"])
    ]


def draw_wrong_categories(runs: Mapping[str | None, Run], path: Path) -> bool:
    """Draw the test metric against the share of wrong categories; False if none was run."""
    wrong = {
        int(name.removeprefix(WRONG)): run.metrics[METRIC]
        for name, run in runs.items()
        if name is not None and name.startswith(WRONG)
    }
    if not wrong:
        return False
    curve = {0: runs[None].metrics[METRIC], **dict(sorted(wrong.items()))}
    figure, axes = plt.subplots(figsize=(4.8, 3.2), layout="constrained")
    axes.plot(list(curve), list(curve.values()), marker="o", label="CAMMSR")
    if "no_guidance" in runs:
        value = runs["no_guidance"].metrics[METRIC]
        axes.axhline(value, linestyle=":", color="grey", label="without guidance")
    axes.set(xlabel="items with categories of others, %", ylabel="test NDCG@5")
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return True
