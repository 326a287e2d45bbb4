"""What many runs cost beside the runs themselves: a search, and a report of a thousand."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from experiments.benchmarks.parts import Row, mmrec, seconds
from mmrec.commands.report import report
from mmrec.training.provenance import config_hash, peak_rss_mib
from mmrec.training.results import CONFIG, PER_USER, read_result, write_result

MODELS = ("bpr", "ease", "lightgcn", "vbpr", "gated_lightgcn")
SEEDS = 5
RUN = (
    *("data=planted", "data.world.users=4000", "data.world.items=2000", "model=bpr"),
    *("trainer=cpu", "trainer.enable_progress_bar=false"),
)


def trials(number: int = 6) -> Row:
    """A trial of a search beside the same run alone, which pays for the imports each time."""
    words = [*RUN, "trainer.max_epochs=40", "callbacks=none"]
    space = ["model.l2=interval(1e-6,1e-2)", "optimizer.lr=interval(1e-3,1e-2)"]
    search = ["-m", "sweep=bpr", *words, *space, f"sweep.n_trials={number}"]
    with tempfile.TemporaryDirectory() as folder:
        before = seconds(partial(mmrec, folder, *words, "run_dir=before"))
        whole = seconds(partial(mmrec, folder, *search))
        after = seconds(partial(mmrec, folder, *words, "run_dir=after"))
    trial, alone = whole / number, (before + after) / 2
    return {"part": f"search of {number}", "seconds": trial, "alone": alone, "ratio": trial / alone}


def report_of(number: int = 1_000) -> Row:
    """A report over so many folders: a run of each model, copied to settings and seeds."""
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            mmrec(folder, *RUN, f"model={model}", "trainer.max_epochs=20", f"run_dir=base/{model}")
        rng = np.random.default_rng(0)
        for place in range(number):
            _copy(Path(folder), place, rng)
        pages = Path(folder, "report")
        spent = seconds(lambda: report(runs=str(Path(folder, "runs")), output=str(pages)))
        size = (pages / "index.html").stat().st_size
    return {
        "part": f"report of {number:,} runs",
        "seconds": spent,
        "peak_mib": peak_rss_mib(),
        "page_mib": size / 2**20,
    }


def _copy(folder: Path, place: int, rng: np.random.Generator) -> None:
    """A folder of a model, with a setting, a seed and users' values of its own."""
    model, setting = MODELS[place % len(MODELS)], place // len(MODELS) // SEEDS
    source, target = folder / "base" / model, folder / "runs" / f"{place}"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoints"))
    config: Any = yaml.safe_load((source / CONFIG).read_text())
    config["seed"] = place // len(MODELS) % SEEDS
    config["model"]["copy"] = setting
    (target / CONFIG).write_text(yaml.safe_dump(config))
    result = read_result(source)
    result |= {"seed": config["seed"], "config_hash": config_hash(config)}
    gain = float(rng.normal(0, 0.01))
    result["metrics"] = {name: max(0.0, v + gain) for name, v in result["metrics"].items()}
    write_result(target, result)
    users = pl.read_parquet(source / PER_USER)
    noise = pl.Series(rng.normal(gain, 0.01, len(users)))
    users.with_columns(pl.col(pl.Float32, pl.Float64) + noise).write_parquet(target / PER_USER)
