"""Models searched alike, and the best settings of each run several times."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmrec.config.schema import conf_dir

log = logging.getLogger(__name__)
# Models of sequences.
SEQUENTIAL = ("cammsr", "gru4rec", "hm4sr", "sasrec", "sasrecf", "sequence_knn", "unisrec")


@dataclass(frozen=True)
class Contest:
    """A contest on some data sets.

    Attributes:
        chosen: folder in which the settings that searches chose are kept.
        outputs: folder of the runs.
        data: the words that choose each data set and what else all its models share.
        trials: of each model's search, its own settings among them.
        over: the setting that the runs of a model differ in.
        values: of that setting, as on a command line.
        models: by default, of variants those whose settings are on record.
        own: words that a model has in place of its data set's, by `model` or `model-data`.
        variants: the model of an entry that is one with words of its `own`, by the entry's name,
            which may have a space of its own too.
        least: trials of a model whose few settings are all tried, by model.
        most: trials of a model that has fewer than the others, by model.
    """

    chosen: Path
    outputs: Path
    data: Mapping[str, tuple[str, ...]]
    trials: Mapping[str, int]
    over: str
    values: str
    models: Sequence[str]
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variants: Mapping[str, str] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=lambda: {"item_knn": 5})
    most: Mapping[str, int] = field(default_factory=dict)

    def main(self, description: str | None) -> Iterator[str]:
        """Run what the command line asks for and is missing.

        Yields:
            The data sets, as each is done.
        """
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--data", nargs="+", choices=self.data, default=list(self.data))
        parser.add_argument(
            "--models",
            nargs="+",
            choices=self.entries(),
            help="by default all, but variants that were never searched on a data set",
        )
        parser.add_argument(
            "--trials", type=int, help=f"of a model, in all; by default {dict(self.trials)}"
        )
        parser.add_argument("--seeds", default=self.values, help=f"values of {self.over}")
        parser.add_argument(
            "--search", action="store_true", help="anew, also where settings are on record"
        )
        parser.add_argument(
            "--more", action="store_true", help="search on from the trials run here, up to --trials"
        )
        parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
        options, more = parser.parse_known_args()
        parallel = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={options.jobs}"]
        launcher = parallel if options.jobs > 1 else []
        failed = []
        for data in options.data:
            chosen = options.models or self.known(data)
            lost = [
                f"{model} on {data}"
                for model in chosen
                if not self.compete(model, data, options, [*launcher, *more])
            ]
            failed += lost
            if len(lost) < len(chosen):
                yield data
        if failed:
            sys.exit(f"failed: {', '.join(failed)}; the same command runs only what is missing")

    def compete(
        self, model: str, data: str, options: argparse.Namespace, more: Sequence[str]
    ) -> bool:
        """Search a model's settings, unless they are on record, and repeat the best.

        Returns:
            Whether all went well.
        """
        name = f"{model}-{data}"
        of = self.variants.get(model, model)
        words = [f"model={of}", *self.words(model, data)]
        spaces = [n for n in (model, of) if (conf_dir() / "sweep" / f"{n}.yaml").exists()]
        if spaces:
            folder = self.outputs / "search" / name
            best = self.best(model, data)
            if options.search and not options.more:
                shutil.rmtree(folder, ignore_errors=True)  # what is there would count as done
            if options.search or options.more or not best.exists():
                usual = min(self.trials[data], self.most.get(model, self.trials[data]))
                trials = max(options.trials or usual, self.least.get(model, 0))
                searched = call(
                    f"sweep={spaces[0]}",
                    *words,
                    f"sweep.n_trials={trials}",
                    f"sweep.n_jobs={options.jobs}",
                    "sweep.top=1",
                    *(f"sweep.study_name={name}", f"hydra.sweep.dir={folder}"),
                    *more,
                )
                if not searched:
                    return False
                best.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / "experiment" / best.name, best)
            words = [f"experiment={name}-best", *self.words(model, data)]
            more = [*more, "--config-dir", str(self.chosen)]
        return call(
            "grid=runs",
            *words,
            f"{self.over}={options.seeds}",
            f"grid.n_jobs={options.jobs}",
            f"hydra.sweep.dir={self.repeats(model, data)}",
            *more,
        )

    def words(self, model: str, data: str) -> list[str]:
        """What a model is run with on a data set, before what a search chooses."""
        chosen = {}
        own = (*self.own.get(model, ()), *self.own.get(f"{model}-{data}", ()))
        for word in (*self.data[data], *own):
            chosen[word.partition("=")[0]] = word
        return list(chosen.values())

    def known(self, data: str) -> list[str]:
        """The models that run by default: a variant's search, of hours, is for who asks for it."""
        return [m for m in self.models if m not in self.variants or self.best(m, data).exists()]

    def entries(self) -> list[str]:
        """All models, and those with words of their own."""
        return sorted([*models(), *self.variants])

    def best(self, model: str, data: str) -> Path:
        """Where the settings that a search chose are kept."""
        return self.chosen / "experiment" / f"{model}-{data}-best.yaml"

    def repeats(self, model: str, data: str) -> Path:
        """Folder of the runs of a model at its best settings; other settings have another."""
        best = self.best(model, data)
        settings = [*self.words(model, data), best.read_text() if best.exists() else ""]
        digest = hashlib.sha256("\n".join(settings).encode()).hexdigest()[:8]
        return self.outputs / "seeds" / f"{model}-{data}-{digest}"


def models() -> list[str]:
    """All there are."""
    return sorted(path.stem for path in (conf_dir() / "model").glob("[!_]*.yaml"))


def call(*words: str) -> bool:
    """One multirun, in a process of its own."""
    command = [sys.executable, "-m", "mmrec.run", "-m", "trainer.enable_progress_bar=false", *words]
    log.info("%s", " ".join(command[1:]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, check=False).returncode == 0
