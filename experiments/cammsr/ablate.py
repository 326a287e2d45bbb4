"""Run CAMMSR's ablations at the settings on record, and write the pages again."""

from __future__ import annotations

import argparse
import sys

from experiments.cammsr.__main__ import CONTEST, write
from experiments.cammsr.ablations import ablate
from experiments.study import setup_logging


def main() -> None:
    """Run what is missing of each data set, then write its page."""
    setup_logging()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.cammsr.ablate", description=__doc__
    )
    parser.add_argument("--data", nargs="+", choices=CONTEST.data, default=list(CONTEST.data))
    for data in parser.parse_args().data:
        if not CONTEST.best("cammsr", data).exists():
            parser.error(f"--data {data}: run python -m experiments.cammsr --data {data} first")
        if not ablate(CONTEST, data):
            sys.exit(f"some ablations on {data} failed; the same command runs what is missing")
        write(data)


if __name__ == "__main__":
    main()
