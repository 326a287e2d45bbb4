"""Measure recall as the content of more and more items is corrupted: `make study-noise`.

The features of corrupted items are noise, or those of another item, in every modality. The study
compares EGRA with each of its item graphs, MGCN and FREEDOM.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from experiments.study import Cell, Result, provenance, run_cells, setup_logging, spread

HERE = Path(__file__).parent
STUDY = "noise"
RATES = (0.0, 0.1, 0.3, 0.5)
HOW = {"noise": "features of noise", "shuffle": "the features of another item"}
DATA: dict[str, tuple[Cell, tuple[str, ...]]] = {
    "tiktok": (("data=tiktok",), ("image", "audio")),
    "scientific": (("data=scientific", "data.split=random_per_user"), ("image", "text")),
    "planted": (("data=planted",), ("visual", "textual")),
}
MODELS: dict[str, Cell] = {
    "EGRA, graph of MGCN": ("model=egra",),
    "EGRA, graph of FREEDOM": ("model=egra", "upstream=freedom"),
    "EGRA, graph of LightGCN": ("model=egra", "upstream=lightgcn"),
    "EGRA, graph of raw content": ("model=egra", "upstream=none"),
    "MGCN": ("model=mgcn",),
    "FREEDOM": ("model=freedom",),
}
METRIC = "test/recall@20"
Curves = Mapping[str, Mapping[float, Sequence[float]]]  # by model and share, of each seed


def main() -> None:
    """Run the missing trainings, then write a page, a figure and the numbers of each data set."""
    setup_logging()
    parser = argparse.ArgumentParser(prog="python -m experiments.noise", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=["tiktok", "scientific"])
    parser.add_argument("--how", choices=HOW, default="noise", help="what corrupted items have")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="at most; for a quick look")
    options = parser.parse_args()
    for data in options.data:
        study(data, options.how, options.seeds, options.epochs)


def study(data: str, how: str, seeds: Sequence[int], epochs: int | None) -> None:
    """Run and write one data set."""
    cells = {
        (model, rate): [cell(data, model, rate, how, seed, epochs) for seed in seeds]
        for model in MODELS
        for rate in RATES
    }
    results = run_cells(STUDY, [each for group in cells.values() for each in group])
    curves = {
        model: {
            rate: [results[each]["metrics"][METRIC] for each in cells[model, rate]]
            for rate in RATES
        }
        for model in MODELS
    }
    words = [f"--data {data}", f"--how {how}", f"--seeds {' '.join(map(str, seeds))}"]
    words += [f"--epochs {epochs}"] if epochs else []
    command = " ".join(["python -m experiments.noise", *words])
    write(f"{data}_{how}", page(data, how, curves, list(results.values()), command), curves)


def cell(data: str, model: str, rate: float, how: str, seed: int, epochs: int | None) -> Cell:
    """Overrides of one run."""
    words, modalities = DATA[data]
    corrupt = [f"+data.corrupt.{name}={rate}" for name in modalities] if rate else []
    how_word = [f"data.corrupt_how={how}"] if rate else []
    limit = [f"trainer.max_epochs={epochs}"] if epochs else []
    return (*MODELS[model], *words, *corrupt, *how_word, *limit, "trainer=cpu", f"seed={seed}")


def page(data: str, how: str, curves: Curves, results: list[Result], command: str) -> str:
    """The page of a data set, as Markdown."""
    shares = " | ".join(f"{rate:.0%}" for rate in RATES)
    rows = [
        f"| {model} | {' | '.join(spread(values[rate]) for rate in RATES)} |"
        for model, values in curves.items()
    ]
    return "\n".join(
        [
            f"# Noise in the content of {data}",
            "",
            "Test recall@20, mean and deviation over seeds. A share of the items has "
            f"{HOW[how]} in every modality; the teachers of EGRA have the same data.",
            "",
            f"| model | {shares} |",
            "|---" + "|--:" * len(RATES) + "|",
            *rows,
            "",
            f"![recall against noise]({data}_{how}.png)",
            "",
            "## Where the figures come from",
            "",
            provenance(results, command),
            "",
        ]
    )


def write(name: str, text: str, curves: Curves) -> None:
    """Write the page, the numbers and the figure."""
    (HERE / f"{name}.md").write_text(text)
    (HERE / f"{name}.json").write_text(json.dumps(curves, indent=1) + "\n")
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for model, values in curves.items():
        means = [statistics.fmean(values[rate]) for rate in RATES]
        axes.plot([100 * rate for rate in RATES], means, marker="o", label=model)
    axes.set(xlabel="corrupted items, %", ylabel="test recall@20")
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(HERE / f"{name}.png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
