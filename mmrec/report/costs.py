"""Tabulate the cost of each method: parameters, epochs, seconds and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mmrec.report.collect import Method, Run
from mmrec.report.tables import Table, Value, over_seeds


def cost_table(slug: str, whole: Sequence[Method]) -> Table:
    """Tabulate the costs of methods as mean and standard deviation over seeds.

    Args:
        slug: prefix of the file name of the table.
        whole: methods, one row each.
    """
    head = ["model", "parameters", "epoch, s", "epochs", "training, s", "upstream, s", "test, s"]
    head += ["memory, MiB", "GPU, MiB"]
    rows: list[list[str | Value]] = [
        [
            m.name,
            f"{m.runs[0].result['parameters']:,}",
            over_seeds(_seconds(m, "train_epoch"), 2),
            over_seeds([float(run.result["epochs"]) for run in m.runs], 0),
            over_seeds(_seconds(m, "fit"), 1),
            over_seeds([u["seconds"] for run in m.runs if (u := run.result.get("upstream"))], 1),
            over_seeds(_seconds(m, "test"), 2),
            over_seeds([run.result["peak_rss_mib"] for run in m.runs], 0),
            over_seeds([g for run in m.runs if (g := run.result["peak_gpu_mib"])], 0),
        ]
        for m in whole
    ]
    notes = ["Measured by each run on its own machine, including the effect of other load on it."]
    if any(run.result.get("upstream") for m in whole for run in m.runs):
        notes.append(
            "upstream: training time of the model that a run starts from (its folder is in "
            "result.json). An upstream model is trained once and shared by all runs that need it."
        )
    empty = {
        name
        for place, name in enumerate(head)
        if name in ("upstream, s", "GPU, MiB") and not any(type(r[place]) is Value for r in rows)
    }
    kept = [place for place, name in enumerate(head) if name not in empty]
    return Table(
        f"{slug}-costs",
        "Costs",
        [head[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        notes,
    )


def was_cut(run: Run) -> bool:
    """Return whether a run reached `trainer.max_epochs` before early stopping."""
    patience = run.settings.get("callbacks.early_stopping.patience")
    best, epochs = run.result["best_epoch"], run.result["epochs"]
    if not isinstance(patience, int) or best is None:
        return False
    every = run.settings.get("trainer.check_val_every_n_epoch")
    unimproved = (epochs - 1 - best) // (every if isinstance(every, int) and every > 0 else 1)
    return bool(epochs == run.settings.get("trainer.max_epochs") and unimproved < patience)


def _seconds(method: Method, what: Literal["train_epoch", "fit", "test"]) -> list[float]:
    found: list[Any] = [run.result["seconds"][what] for run in method.runs]
    return [value for value in found if value is not None]
