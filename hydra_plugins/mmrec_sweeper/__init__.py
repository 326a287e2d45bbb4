"""Sweeper plugins for Hydra. Hydra imports this file at every start, so it is kept light."""

from mmrec.search import sweeper


class OptunaSweeper(sweeper.OptunaSweeper):
    """Search with Optuna; see `mmrec.search`."""


class GridSweeper(sweeper.GridSweeper):
    """Run every combination once; see `mmrec.search.grid`."""
