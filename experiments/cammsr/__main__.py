"""Models of sequences with content, searched alike, on three seeds: `make sequences`."""

from __future__ import annotations

from pathlib import Path

from experiments.cammsr.ablations import section
from experiments.contest import SEQUENTIAL, Contest
from experiments.pages import page
from experiments.study import setup_logging

HERE = Path(__file__).parent
COMMAND = "python -m experiments.cammsr"
NEXT_ITEM = ("evaluation.seen=none", "evaluation.history=train+val", "monitor=val/ndcg@10")
GENERAL = ("most_pop", "item_knn", "ease", "lightgcn")  # under the protocol of next items
CONTEST = Contest(
    chosen=HERE / "conf",
    outputs=Path("outputs/cammsr"),
    data={
        "scientific": (
            "data=scientific",
            "data.keep_repeats=false",  # so that all models have the same held-out items
            "callbacks.early_stopping.patience=10",
        ),
        "beauty": ("data=beauty", "callbacks.early_stopping.patience=10"),
    },
    trials={"scientific": 8, "beauty": 8},
    over="seed",
    values="0,1,2",
    models=(*SEQUENTIAL, *GENERAL),
    own=dict.fromkeys(GENERAL, NEXT_ITEM),
)
METRICS = ("hit_rate@5", "ndcg@5", "hit_rate@10", "ndcg@10", "hit_rate@20", "ndcg@20", "mrr@20")


def main() -> None:
    """Search, repeat with seeds, and write a page for each data set."""
    setup_logging()
    for data in CONTEST.main(__doc__):
        write(data)


def write(data: str) -> None:
    """Write the page of a data set, with the ablations that were run."""
    further = section(CONTEST, data, HERE)
    text = page(
        CONTEST,
        data,
        title="Sequences",
        command=COMMAND,
        further=further,
        metric="ndcg@5",
        metrics=METRICS,
    )
    (HERE / f"{data}.md").write_text(text)


if __name__ == "__main__":
    main()
