"""The pages of a contest: what `mmrec report` makes of its runs, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.contest import Contest
from experiments.study import provenance
from mmrec.commands.report import report
from mmrec.report.collect import by_protocol, collect

KINDS = ("results", "significance", "groups", "costs")


def page(
    contest: Contest,
    data: str,
    *,
    title: str,
    command: str,
    further: Sequence[str] = (),
    **asked: Any,
) -> str:
    """Write the report of a data set below the contest's outputs, and make Markdown of it.

    Args:
        contest: whose runs are shown.
        data: name of the data set in the contest.
        title: of the report.
        command: that runs what is shown; `--data` and `--seeds` are added.
        further: paragraphs before the provenance of the first protocol.
        asked: what else `mmrec.commands.report.report` is given.
    """
    folder = contest.outputs / "report" / data
    ran_in = [contest.repeats(model, data) for model in contest.entries()]
    seeds = [f"{each}/**" for each in ran_in if each.exists()]
    found = collect(seeds).runs
    has_losses = any("model.loss" in run.settings for run in found)
    report(
        runs=[f"{contest.outputs}/search/*-{data}/**", *seeds],
        output=str(folder),
        by=["model.loss"] if has_losses else [],
        title=f"{title}, {data}",
        **asked,
    )
    parts: list[str] = []
    for protocol, runs in by_protocol(found).items():
        tables = [folder / "tables" / f"{protocol.slug}-{kind}.md" for kind in KINDS]
        results = [run.result for run in runs]
        ran = ",".join(str(seed) for seed in sorted({result["seed"] for result in results}))
        parts += [
            f"# {protocol.name}",
            "",
            "How it was done: [README.md](README.md).",
            "",
            *(without(table.read_text(), "tried") for table in tables if table.exists()),
            *(further if not parts else ()),
            "### Where the figures come from",
            "",
            provenance(results, f"{command} --data {data} --seeds {ran}"),
            "",
        ]
    return "\n".join(parts)


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
