"""Models searched with the same number of trials, on three seeds: `make table`."""

from __future__ import annotations

from pathlib import Path

from experiments.contest import Contest, models
from experiments.study import provenance, setup_logging
from mmrec.commands.report import report
from mmrec.report.collect import by_protocol, collect

HERE = Path(__file__).parent
OUTPUTS = Path("outputs/leaderboard")
KINDS = ("results", "significance", "groups", "costs")
COLD = ("clcrec", "content_bpr", "dropoutnet", "mamex")  # theirs is experiments/mamex
SOFTMAX = {f"{name}_softmax": name for name in ("lightgcn", "gated_lightgcn", "magnet")}
CONTEST = Contest(
    chosen=HERE / "conf",
    outputs=OUTPUTS,
    data={
        "tiktok": ("data=tiktok", "callbacks.early_stopping.patience=10"),
        "scientific": ("data=scientific", "data.split=random_per_user"),
        "beauty": (
            "data=beauty",
            "data.split=random_per_user",
            "data.batch_size=8192",
            "trainer.max_epochs=100",
            "trainer.check_val_every_n_epoch=5",
            "callbacks.early_stopping.patience=3",
        ),
        "planted_tail": ("data=planted_tail",),
    },
    trials={"tiktok": 16, "scientific": 16, "beauty": 3, "planted_tail": 8},
    over="seed",
    values="0,1,2",
    models=[*(name for name in models() if name not in COLD), *SOFTMAX],
    own=dict.fromkeys(SOFTMAX, ("model.loss=softmax", "data.batch_size=2048")),
    variants=SOFTMAX,
)


def main() -> None:
    """Search, repeat with seeds, report."""
    setup_logging()
    for data in CONTEST.main(__doc__):
        write(data)


def write(data: str) -> None:
    """What the report makes of a data set's runs, and where it comes from."""
    folder = OUTPUTS / "report" / data
    ran_in = [CONTEST.repeats(model, data) for model in CONTEST.entries()]
    seeds = [f"{folder}/**" for folder in ran_in if folder.exists()]
    found = collect(seeds).runs
    has_losses = any("model.loss" in run.settings for run in found)
    report(
        runs=[f"{OUTPUTS}/search/*-{data}/**", *seeds],
        output=str(folder),
        by=["model.loss"] if has_losses else [],
        title=f"Leaderboard, {data}",
    )
    parts = []
    for protocol, runs in by_protocol(found).items():
        tables = [folder / "tables" / f"{protocol.slug}-{kind}.md" for kind in KINDS]
        results = [run.result for run in runs]
        ran = ",".join(str(seed) for seed in sorted({result["seed"] for result in results}))
        command = f"python -m experiments.leaderboard --data {data} --seeds {ran}"
        parts += [
            f"# {protocol.name}",
            "",
            "How it was done: [README.md](README.md).",
            "",
            *(without(table.read_text(), "tried") for table in tables if table.exists()),
            "### Where the figures come from",
            "",
            provenance(results, command),
            "",
        ]
    (HERE / f"{data}.md").write_text("\n".join(parts))


def without(table: str, column: str) -> str:
    """A Markdown table less a column: of trials, only those of this machine could be counted."""
    lines = table.split("\n")
    head = next((line for line in lines if f"| {column} |" in line), None)
    if head is None:
        return table
    place = [cell.strip() for cell in head.split("|")].index(column)
    return "\n".join(
        "|".join(cell for n, cell in enumerate(line.split("|")) if n != place)
        if line.startswith("|")
        else line
        for line in lines
    )


if __name__ == "__main__":
    main()
