"""Offer what the searches chose as `experiment=<model>_<data>`: `python -m experiments.settings`.

Each file of `conf/experiment` that this writes holds the settings of one search, and in its comment
the figures of the page that reports them. A test compares the files with the contests' commands.
"""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from experiments.contest import Contest
from experiments.leaderboard.__main__ import CONTEST as LEADERBOARD
from experiments.mamex.__main__ import CONTEST as COLD
from experiments.study import setup_logging
from mmrec.config.schema import conf_dir

log = logging.getLogger(__name__)
CONTESTS = {"leaderboard": LEADERBOARD, "mamex": COLD}
ROOT = Path(__file__).parent.parent
WIDTH = 100


@dataclass(frozen=True)
class Tuned:
    """The settings that a search chose for a model on a data set.

    Attributes:
        study: name of the contest's folder in `experiments`.
        entry: model, or variant of one, in the contest.
        data: name of the data set in the contest.
    """

    study: str
    entry: str
    data: str

    @property
    def contest(self) -> Contest:
        """Where the search was made."""
        return CONTESTS[self.study]

    @property
    def model(self) -> str:
        """Choice of the config group `model`."""
        return self.contest.variants.get(self.entry, self.entry)

    @property
    def name(self) -> str:
        """Choice of the config group `experiment`."""
        choices = dict(word.split("=", 1) for word in self.contest.data[self.data])
        return f"{self.entry}_{choices['data']}"

    @property
    def best(self) -> Path:
        """The file that the search wrote."""
        return self.contest.best(self.entry, self.data)

    @property
    def page(self) -> Path:
        """Where the figures are reported."""
        return ROOT / "experiments" / self.study / f"{self.data}.md"

    def figures(self) -> str:
        """Return the test figures of the page, or that it has none."""
        labels = (self.entry, f"{self.entry}, loss=bpr")
        if self.entry != self.model:
            labels = (self.entry, f"{self.model}, loss=softmax")
        for row in first_table(self.page.read_text()):
            if row["model"].removesuffix("†").strip() in labels:
                repeated = "draws" if "draws" in row else "seeds"
                what = {"draws": "draws of cold items", "seeds": "seeds"}[repeated]
                values = ", ".join(f"{m} {row[m].strip('*')}" for m in ("recall@20", "ndcg@20"))
                return f"Test, mean ± standard deviation of {row[repeated]} {what}: {values}."
        return "The page has no figures of it yet."

    def source(self) -> str:
        """Return where the figures come from: page, commits and fingerprint of the data."""
        text = self.page.read_text()
        commits = re.findall(r"`([0-9a-f]{7})[0-9a-f]*`", re.findall(r"- commit: .*", text)[0])
        prints = sorted(set(re.findall(r"fingerprint `([0-9a-f]+)`", text)))
        return (
            f"Page: {self.page.relative_to(ROOT)}, commit {', '.join(commits)}, "
            f"data fingerprint {', '.join(prints)}."
        )

    def text(self) -> str:
        """Return the content of the file in `conf/experiment`."""
        trial = re.findall(r"# (Trial .*)", self.best.read_text())[0]
        content = OmegaConf.load(self.best)
        assert isinstance(content, DictConfig)
        trainer = content.get("trainer", {})
        trainer.pop("enable_progress_bar", None)
        if not trainer:
            content.pop("trainer", None)
        notes = [
            f"Settings for {self.entry} on {self.data} that a search chose on validation. {trial}.",
            self.figures(),
            self.source(),
            f"Written by python -m experiments.settings from {self.best.relative_to(ROOT)}",
        ]
        comments = [
            line
            for note in notes
            for line in textwrap.wrap(
                note,
                WIDTH,
                initial_indent="# ",
                subsequent_indent="#   ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        ]
        return "\n".join(["# @package _global_", *comments, OmegaConf.to_yaml(content)])


def tuned() -> Iterator[Tuned]:
    """Yield every model and data set with settings on record."""
    for study, contest in CONTESTS.items():
        for data in contest.data:
            for entry in contest.entries():
                if contest.best(entry, data).exists():
                    yield Tuned(study, entry, data)


def first_table(page: str) -> Iterator[dict[str, str]]:
    """Yield the rows of the first Markdown table of a page, by column."""
    lines = page.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    head = _cells(lines[start])
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        yield dict(zip(head, _cells(line), strict=True))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def main() -> None:
    """Write the files."""
    setup_logging()
    for settings in tuned():
        path = conf_dir() / "experiment" / f"{settings.name}.yaml"
        path.write_text(settings.text())
        log.info("%s", path.relative_to(ROOT))


if __name__ == "__main__":
    main()
