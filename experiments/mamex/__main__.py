"""MAMEX beside what ranks cold items, searched alike, on five draws of cold items: `make cold`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from experiments.contest import Contest
from experiments.study import provenance, setup_logging, spread
from mmrec.report.collect import Run, collect
from mmrec.report.significance import holm

HERE = Path(__file__).parent
OUTPUTS = Path("outputs/cold")
DRAWN = "data.cold_items=random"
FEW = (DRAWN, "callbacks.early_stopping.patience=10")  # items, whose early epochs have peaks
MANY = (DRAWN, "callbacks.early_stopping.patience=4", "trainer.max_epochs=100")
BATCH = "data.batch_size=8192"
CONTEST = Contest(
    chosen=HERE / "conf",
    outputs=OUTPUTS,
    data={
        "scientific": ("data=scientific_cold", *FEW),
        "beauty": ("data=beauty_cold", *MANY, BATCH),
        "tiktok": ("data=tiktok_cold", *FEW, BATCH),
        "planted": ("data=planted_cold", *FEW),
    },
    trials={"scientific": 8, "beauty": 3, "tiktok": 4, "planted": 8},
    over="data.split_seed",
    values="0,1,2,3,4",
    models=("mamex", "mamex_softmax", "content_bpr", "dropoutnet", "clcrec", "item_knn", "random"),
    own={
        # Their steps cost what a batch holds, squared.
        "clcrec": ("data.batch_size=1024",),
        "mamex_softmax": ("model.loss=softmax", "data.batch_size=2048"),
        "mamex_softmax-beauty": ("trainer.max_epochs=30",),  # 65 steps each, not 17
    },
    variants={"mamex_softmax": "mamex"},
)
OURS = ("mamex", *CONTEST.variants)
METRICS = ("recall@20", "ndcg@20")


def main() -> None:
    """Search, repeat on each draw, write a page for each data set."""
    setup_logging()
    for data in CONTEST.main(__doc__):
        write(data)


@dataclass(frozen=True)
class Entry:
    """A model's runs, by the draw of cold items."""

    model: str
    runs: Mapping[str, Run]

    def values(self, metric: str) -> list[float]:
        """Of each draw."""
        return [run.metrics[metric] for run in self.runs.values()]


def entries(data: str) -> list[Entry]:
    """The models that were repeated, those that validation likes best first."""
    found = []
    for model in CONTEST.entries():
        folder = CONTEST.repeats(model, data)
        runs: dict[str, Run] = {}
        for run in collect([f"{folder}/**"]).runs if folder.exists() else []:
            split = run.result["data_card"]["split"]
            if split in runs:
                raise SystemExit(
                    f"two runs of {split}: {runs[split].folder} and {run.folder}; remove the one "
                    "of older code"
                )
            runs[split] = run
        if runs:
            found.append(Entry(model, dict(sorted(runs.items()))))
    return sorted(found, key=lambda e: -statistics.fmean(e.values("val/ndcg@10")))


def write(data: str) -> None:
    """The page of a data set."""
    known = entries(data)
    results = [run.result for entry in known for run in entry.runs.values()]
    parts = [
        f"# Cold items of {data}",
        "",
        "How it was done: [README.md](README.md).",
        "",
        ranking(known),
        "",
        *(differences(known, metric, of) for of in OURS for metric in METRICS),
        *roles(known),
        "## Where the figures come from",
        "",
        provenance(results, f"python -m experiments.mamex --data {data}"),
        "",
    ]
    (HERE / f"{data}.md").write_text("\n".join(parts))


def ranking(known: Sequence[Entry]) -> str:
    """A row a model: mean and deviation over draws."""
    columns = {
        "val ndcg@10": "val/ndcg@10",
        **{name: f"test/{name}" for name in METRICS},
        "warm recall@20": "test_warm/recall@20",
        "all recall@20": "test_all/recall@20",
    }
    lines = [f"| model | draws | {' | '.join(columns)} |", "|---|--:" + "|--:" * len(columns) + "|"]
    for entry in known:
        cells = [spread(entry.values(metric)) for metric in columns.values()]
        lines.append(f"| {entry.model} | {len(entry.runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def roles(known: Sequence[Entry]) -> list[str]:
    """How well weights tell which modality an item has its taste from, where that is known."""
    lines = []
    for entry in known:
        found = [run.result.get("recovery", {}) for run in entry.runs.values()]
        for key, items in (("auc", "warm"), ("cold/auc", "cold")):
            values = [recovery[key] for recovery in found if key in recovery]
            if len(values) == len(found):
                lines.append(f"| {entry.model} | {items} | {spread(values)} |")
    if not lines:
        return []
    head = ["## Roles found again", "", "| model | items | AUC of its modality |", "|---|---|--:|"]
    return [*head, *lines, ""]


def differences(known: Sequence[Entry], metric: str, of: str = OURS[0]) -> str:
    """One model less each other, on the same draws; a draw of items is what was repeated."""
    ours = next((entry for entry in known if entry.model == of), None)
    if ours is None:
        return ""
    others = [e for e in known if e.model != of and e.runs.keys() == ours.runs.keys()]
    if not others or len(ours.runs) < 2:
        return ""
    one = ours.values(f"test/{metric}")
    tests = [stats.ttest_rel(one, other.values(f"test/{metric}")) for other in others]
    corrected = holm([test.pvalue for test in tests])
    lines = [
        f"## {of} less the others, test {metric}",
        "",
        "| model | difference | relative | 95 % interval | ahead in | p | p, Holm |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for other, test, p_holm in zip(others, tests, corrected, strict=True):
        two = other.values(f"test/{metric}")
        apart = statistics.fmean(one) - statistics.fmean(two)
        bounds = test.confidence_interval(0.95)
        ahead = sum(a > b for a, b in zip(one, two, strict=True))
        lines.append(
            f"| {other.model} | {apart:+.4f} | {apart / statistics.fmean(two):+.1%} "
            f"| {bounds.low:+.4f} to {bounds.high:+.4f} | {ahead} of {len(two)} "
            f"| {test.pvalue:.4f} | {p_holm:.4f} |"
        )
    note = "Paired t-test over draws of cold items, and its interval."
    return "\n".join([*lines, "", note, ""])


if __name__ == "__main__":
    main()
