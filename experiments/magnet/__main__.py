"""`python -m experiments.magnet`: does MAGNET's routing find the roles, and what does it cost?

On planted data the true role of each item is known. The model as it is, its neighbours without a
router or without stages, and Gated LightGCN run on three seeds at one learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from experiments.study import (
    Cell,
    Result,
    plus_minus,
    provenance,
    run_cells,
    save,
    setup_logging,
    spread,
    summarize,
)
from mmrec.training.results import EPOCHS, read_epochs

SEEDS = (0, 1, 2)
SHARED = ("data=planted", "optimizer.lr=5e-3")
DEFAULTS: dict[str, Cell] = {
    "tiktok": ("model=magnet", "data=tiktok", "trainer=cpu", "seed=0"),
    "planted": ("model=magnet", "data=planted", "trainer=cpu", "seed=0"),
}
ROWS: dict[str, Cell] = {
    "MAGNET": ("model=magnet",),
    "stage 1 for ever": ("ablation=magnet/stage_1",),
    "equal gates": ("ablation=magnet/equal_gates",),
    "content not added late": ("ablation=magnet/no_late_add",),
    "Gated LightGCN": ("model=gated_lightgcn",),
}
METRICS = ("val/recall@20", "test/recall@20", "test/ndcg@20", "test/tail/recall@20")
RECOVERY = ("auc", "nmi", "nmi/expert")
NAMES = (
    "val recall@20",
    "test recall@20",
    "test NDCG@20",
    "test recall@20, tail",
    "AUC",
    "NMI",
    "NMI of experts",
)


def main() -> None:
    """Run what is missing, write README.md."""
    setup_logging()
    cells = {
        name: [(*words, *SHARED, "trainer=cpu", f"seed={seed}") for seed in SEEDS]
        for name, words in ROWS.items()
    }
    wanted = [*DEFAULTS.values(), *(cell for of_row in cells.values() for cell in of_row)]
    results = run_cells("magnet", wanted)
    folder = Path(__file__).parent
    save(folder, results)
    by_row = {name: [results[cell] for cell in of_row] for name, of_row in cells.items()}
    health = router_health({data: results[cell] for data, cell in DEFAULTS.items()})
    parts = [HEAD, table(by_row), "", verdict(by_row), HEALTH, health, TAIL]
    origin = provenance(results.values(), "python -m experiments.magnet")
    (folder / "README.md").write_text("\n".join([*parts, origin, ""]))


def table(results: dict[str, list[Result]]) -> str:
    """A row a variant: mean and deviation over seeds."""
    lines = header(NAMES)
    for name, runs in results.items():
        columns = [plus_minus(*summarize(runs, metric)) for metric in METRICS]
        columns += [recovered(runs, key) for key in RECOVERY]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    by_chance = [recovered(results["MAGNET"], f"chance/{key}") for key in RECOVERY]
    lines.append(f"| random weights |{' |' * len(METRICS)} {' | '.join(by_chance)} |")
    return "\n".join(lines)


def header(names: Sequence[str]) -> list[str]:
    """Of a table whose first column says what a row is."""
    return [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]


def recovered(runs: list[Result], key: str) -> str:
    """How well weights tell roles; a dash where there are no weights."""
    if any(key not in run.get("recovery", {}) for run in runs):
        return "–"
    return plus_minus(*summarize([{"metrics": run["recovery"]} for run in runs], key))


def router_health(results: Mapping[str, Result]) -> str:
    """A row a data set: what the router did from the first epoch to the last."""
    names = (
        *("epochs", "stage 2 from", "least H_m in stage 1", "H_s before", "H_s at the end"),
        *("largest load", "smallest load", "dead", "test recall@20", "AUC"),
    )
    lines = header(names)
    for data, result in results.items():
        epochs = read_epochs(Path(result["run_dir"]) / EPOCHS)
        first = epochs.filter(pl.col("router/stage") == 1).to_dict(as_series=False)
        last = epochs.row(-1, named=True)
        columns = [
            f"{len(epochs)}",
            f"{len(first['epoch'])}" if last["router/stage"] == 2 else "–",
            f"{min(first['router/gate_entropy']):.3f}",
            f"{first['router/pair_entropy'][-1]:.3f}",
            f"{last['router/pair_entropy']:.3f}",
            f"{last['router/largest_load']:.3f}",
            f"{last['router/smallest_load']:.3f}",
            f"{last['router/dead']:.0%}",
            f"{result['metrics']['test/recall@20']:.4f}",
            f"{result['recovery']['auc']:.4f}" if "recovery" in result else "–",
        ]
        lines.append(f"| {data} | {' | '.join(columns)} |")
    return "\n".join(lines)


def verdict(results: dict[str, list[Result]]) -> str:
    """Paired differences."""

    def values(name: str) -> list[float]:
        return [run["metrics"]["test/recall@20"] for run in results[name]]

    told = []
    for name in results:
        if name != "MAGNET":
            apart = [a - b for a, b in zip(values("MAGNET"), values(name), strict=True)]
            told.append(f"{name} {spread(apart)}")
    return (
        f"MAGNET less the others, test recall@20, seed by seed: {', '.join(told)}. Differences of "
        "less than twice their deviation are none that three seeds could show. All have one "
        "learning rate; the [leaderboard](../leaderboard/README.md) has what each reaches when "
        "searched."
    )


HEAD = """\
# MAGNET: does the routing mean something?

On planted data three items in five have one informative modality, and the other is noise. AUC: how
well the weight of a modality, averaged over an item's users, tells the items that it informs (.5:
not at all); NMI: between the modality of largest weight and the true role; of experts: between the
expert of the largest gate and the true role. There are four roles and two modalities, so weights
that are exact where one modality informs, and a coin elsewhere, have an NMI of .40. Each row is on
three seeds with a learning rate of 5e-3.
"""
HEALTH = """
## The router's health

`python -m mmrec.run model=magnet data=...` with nothing else, seed 0. H_m: entropy of the mean
gate; H_s: mean entropy of a pair's gates; both over that of equal gates. Load: share of the gates
that an expert has among pairs of train; with less than a hundredth it is dead.
"""
TAIL = """
## Quality

[leaderboard](../leaderboard/README.md): MAGNET and its baselines, searched alike, on tiktok,
scientific, beauty and planted_tail, with NDCG, items by popularity, costs and tests.

## Schedule

[schedule.md](schedule.md): when the second stage begins, and what the router is worth
against equal gates on other data, with BPR and with a softmax.

## Ablations

[ablations.md](ablations.md): those of `conf/ablation/magnet` that planted data allow, some of them
on tiktok, scientific and beauty, and what they say.

## Where the figures come from
"""

if __name__ == "__main__":
    main()
