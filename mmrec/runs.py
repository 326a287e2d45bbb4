"""The former place of `mmrec.training.open_run`."""

import warnings

from mmrec.training.open_run import OpenRun, open_run

__all__ = ["OpenRun", "open_run"]

warnings.warn(
    "mmrec.runs is now mmrec.training.open_run; import from there",
    DeprecationWarning,
    stacklevel=2,
)
