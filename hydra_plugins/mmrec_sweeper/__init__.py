"""Where Hydra looks for sweepers. It executes this file at every start: nothing heavy is here."""

from mmrec.search import sweeper


class OptunaSweeper(sweeper.OptunaSweeper):
    """Search with Optuna; see `mmrec.search`."""


class GridSweeper(sweeper.GridSweeper):
    """Run every combination once; see `mmrec.search.grid`."""
