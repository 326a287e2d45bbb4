"""Several processes for one job of a multirun."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import read_write

from mmrec.config.words import quoted

PLACES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def of_one_job(folder: Path, watch: str | None) -> Iterator[None]:
    """Let a job start processes that are its own, and leave no trace of them to the next job.

    Lightning starts them with the words of this process's command line, and with Hydra's folder for
    a single run. In a multirun those words would begin everything again, once for each process.

    Args:
        folder: of the job.
        watch: where it reports to a search.
    """
    config: Any = HydraConfig.get()
    words, environment = sys.argv, {name: os.environ.get(name) for name in PLACES}
    reports = [f"+hydra.sweeper.trial={quoted(watch)}"] if watch else []
    sys.argv = [
        words[0],
        *config.overrides.task,
        *reports,
        *config_dirs(),
    ]
    with read_write(config):
        config.run.dir = str(folder)
    try:
        yield
    finally:
        sys.argv = words
        _leave_group()
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def config_dirs() -> list[str]:
    """The words that gave this command more folders of configuration."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    # The one that Hydra's option names stands first in its search path, and last on our line.
    given = [source.path for source in sources if "command-line" in source.provider][::-1]
    return [word for path in given for word in ("--config-dir", path)]


def _leave_group() -> None:
    """The next job's processes make a group of their own."""
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
