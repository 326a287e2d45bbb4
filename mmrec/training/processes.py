"""Processes of a multirun job that trains on several devices."""

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
    """Let a job start its own processes, and clean up after them for the next job.

    Lightning starts processes with the command line of this process and Hydra's folder of a single
    run. In a multirun, this command line would repeat the whole multirun in each process. It is
    therefore replaced by the overrides of the job.

    Args:
        folder: folder of the job.
        watch: path where the job reports to a search; None without a search.
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
    """Return the command line arguments for additional configuration folders."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    # The folder of Hydra's own option is first in the search path, and must be last on our line.
    given = [source.path for source in sources if "command-line" in source.provider][::-1]
    return [word for path in given for word in ("--config-dir", path)]


def _leave_group() -> None:
    """Destroy the process group, so that the next job can create its own."""
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
