"""MAMEX beside what ranks cold items, searched alike, on five draws of cold items: `make cold`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from experiments.contest import Contest
from experiments.study import provenance, setup_logging, spread
from mmrec.report.collect import Run, collect
from mmrec.report.significance import Values, holm, interval, sign_flip
from mmrec.results import PER_USER

HERE = Path(__file__).parent
OUTPUTS = Path("outputs/cold")
RANDOM = "data.cold_items=random"
SMALL = (RANDOM, "callbacks.early_stopping.patience=10")
LARGE = (
    RANDOM,
    "data.batch_size=8192",
    "trainer.check_val_every_n_epoch=2",
    "callbacks.early_stopping.patience=5",
)
CONTEST = Contest(
    chosen=HERE / "conf",
    outputs=OUTPUTS,
    data={
        "scientific": ("data=scientific_cold", *SMALL),
        "beauty": ("data=beauty_cold", *LARGE),
        "tiktok": ("data=tiktok_cold", *SMALL),
        "planted": ("data=planted_cold", *SMALL),
    },
    trials={"scientific": 12, "beauty": 5, "tiktok": 8, "planted": 12},
    over="data.split_seed",
    values="0,1,2,3,4",
    models=("mamex", "content_bpr", "dropoutnet", "clcrec", "vbpr", "item_knn", "random"),
)
FIRST = "mamex"
METRICS = ("recall@20", "ndcg@20")
RESAMPLES = 10_000


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

    def by_user(self, metric: str) -> Values:
        """Of every user of every draw, one draw after the other."""
        tables = [
            pl.read_parquet(run.folder / PER_USER, columns=["user", metric]).sort("user")
            for run in self.runs.values()
        ]
        found: Values = np.concatenate([table[metric].to_numpy() for table in tables])
        return found


def entries(data: str) -> list[Entry]:
    """The models that were repeated, those that validation likes best first."""
    found = []
    for folder in sorted((OUTPUTS / "seeds").glob(f"*-{data}")):
        runs = {run.result["data_card"]["split"]: run for run in collect([f"{folder}/**"]).runs}
        found.append(Entry(folder.name.removesuffix(f"-{data}"), dict(sorted(runs.items()))))
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
        *(differences(known, metric) for metric in METRICS),
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


def differences(known: Sequence[Entry], metric: str) -> str:
    """MAMEX less each other: over users of all draws, and over draws."""
    ours = next((entry for entry in known if entry.model == FIRST), None)
    if ours is None:
        return ""
    others = [e for e in known if e.model != FIRST and e.runs.keys() == ours.runs.keys()]
    if not others:
        return ""
    by_user = [ours.by_user(metric) - other.by_user(metric) for other in others]
    corrected = holm([sign_flip(x, resamples=RESAMPLES) or 1.0 for x in by_user])
    lines = [
        f"## {FIRST} less the others, test {metric}",
        "",
        "| model | difference | relative | 95 % interval | p, users | p, draws |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for other, apart, p_users in zip(others, by_user, corrected, strict=True):
        one, two = (np.array(e.values(f"test/{metric}")) for e in (ours, other))
        low, high = interval(apart, resamples=RESAMPLES)
        p_draws = sign_flip(one - two, resamples=RESAMPLES)
        lines.append(
            f"| {other.model} | {np.mean(one - two):+.4f} | {one.mean() / two.mean() - 1:+.1%} "
            f"| {low:+.4f} to {high:+.4f} | {p_users:.4f} "
            f"| {'–' if p_draws is None else f'{p_draws:.4f}'} |"
        )
    note = (
        "Users of all draws together, permutation test with Holm's correction; the same over "
        "draws, where five can give no p below 0.0625."
    )
    return "\n".join([*lines, "", note, ""])


if __name__ == "__main__":
    main()
