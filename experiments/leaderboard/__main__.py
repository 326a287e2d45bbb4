"""Models searched with the same number of trials, on three seeds: `make table`."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from experiments.study import provenance, setup_logging
from mmrec.config import conf_dir
from mmrec.report.__main__ import report
from mmrec.report.collect import by_protocol, collect

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
CHOSEN = HERE / "conf"  # settings that searches chose
OUTPUTS = Path("outputs/leaderboard")
KINDS = ("results", "significance", "groups", "costs")
DATA = {
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
}
TRIALS = {"tiktok": 8, "scientific": 8, "beauty": 3, "planted_tail": 8}


def main() -> None:
    """Search, repeat with seeds, report."""
    setup_logging()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--models", nargs="+", choices=models(), default=models())
    parser.add_argument("--trials", type=int, help=f"of a model, in all; by default {TRIALS}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--search", action="store_true", help=f"also where {CHOSEN.name}/ has settings on record"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options, more = parser.parse_known_args()
    parallel = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={options.jobs}"]
    launcher = parallel if options.jobs > 1 else []
    failed = [
        f"{model} on {data}"
        for data in options.data
        for model in options.models
        if not compete(model, data, options, [*launcher, *more])
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the same command runs only what is missing")
    for data in options.data:
        write(data)


def models() -> list[str]:
    """All there are."""
    return sorted(path.stem for path in (conf_dir() / "model").glob("[!_]*.yaml"))


def compete(model: str, data: str, options: argparse.Namespace, more: list[str]) -> bool:
    """Search a model's settings, unless they are on record, and run the best on each seed.

    Returns:
        Whether all went well.
    """
    name = f"{model}-{data}"
    chosen = [f"model={model}", *DATA[data]]
    if (conf_dir() / "sweep" / f"{model}.yaml").exists():
        folder = OUTPUTS / "search" / name
        best = Path("experiment") / f"{name}-best.yaml"
        if options.search or not (CHOSEN / best).exists():
            searched = call(
                f"sweep={model}",
                *chosen,
                *(f"sweep.n_trials={trials(data, options)}", f"sweep.n_jobs={options.jobs}"),
                "sweep.top=1",
                *(f"sweep.study_name={name}", f"hydra.sweep.dir={folder}"),
                *more,
            )
            if not searched:
                return False
            (CHOSEN / best).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / best, CHOSEN / best)
        chosen = [f"experiment={name}-best"]
        more = [*more, "--config-dir", str(CHOSEN)]
    return call(
        "grid=runs",
        *chosen,
        f"seed={options.seeds}",
        f"grid.n_jobs={options.jobs}",
        f"hydra.sweep.dir={OUTPUTS / 'seeds' / name}",
        *more,
    )


def trials(data: str, options: argparse.Namespace) -> int:
    """Of each model on a data set, its own settings among them."""
    return options.trials or TRIALS[data]


def call(*words: str) -> bool:
    """One multirun, in a process of its own."""
    command = [sys.executable, "-m", "mmrec.run", "-m", "trainer.enable_progress_bar=false", *words]
    log.info("%s", " ".join(command[1:]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, check=False).returncode == 0


def write(data: str) -> None:
    """What the report makes of a data set's runs, and where it comes from."""
    folder = OUTPUTS / "report" / data
    seeds = f"{OUTPUTS}/seeds/*-{data}/**"
    report(
        runs=[f"{OUTPUTS}/search/*-{data}/**", seeds],
        output=str(folder),
        title=f"Leaderboard, {data}",
    )
    parts = []
    for protocol, runs in by_protocol(collect([seeds]).runs).items():
        tables = [folder / "tables" / f"{protocol.slug}-{kind}.md" for kind in KINDS]
        results = [run.result for run in runs]
        ran = ",".join(str(seed) for seed in sorted({result["seed"] for result in results}))
        command = f"python -m experiments.leaderboard --data {data} --seeds {ran}"
        parts += [
            f"# {protocol.name}",
            "",
            "How it was done: [README.md](README.md).",
            "",
            *(table.read_text() for table in tables if table.exists()),
            "### Where the figures come from",
            "",
            provenance(results, command),
            "",
        ]
    (HERE / f"{data}.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
