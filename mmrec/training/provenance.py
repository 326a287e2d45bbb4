"""Provenance of a run: configuration hash, commit, versions and peak memory."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import resource
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmrec import __version__
from mmrec.config.old_runs import without_added

VOLATILE = ("run_dir", "ckpt", "logger")  # do not affect results

# Settings of output and hardware, which may differ between comparable runs.
FREE = (
    *VOLATILE,
    "data.cache",
    "upstream.root",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.deterministic",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
)


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash a resolved configuration without output settings."""
    kept = without_added({key: value for key, value in config.items() if key not in VOLATILE})
    for group, free in (("upstream", "root"), ("data", "cache")):
        if isinstance(node := kept.get(group), Mapping):
            kept[group] = {key: value for key, value in node.items() if key != free}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten settings to dotted names; lists are values."""
    if not isinstance(config, Mapping) or not config:
        return {prefix: config}
    names = {key: f"{prefix}.{key}" if prefix else str(key) for key in config}
    return {
        name: value
        for key, path in names.items()
        for name, value in flat(config[key], path).items()
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    names = ("torch", "lightning", "torchmetrics", "numpy", "polars")
    return {
        "python": platform.python_version(),
        "mmrec": __version__,
        **{name: version(name) for name in names},
    }


def is_free(name: str, free: Sequence[str] = FREE) -> bool:
    """Return whether a setting or its group is in `free`."""
    return name in free or name.partition(".")[0] in free


def git_commit() -> str | None:
    """Return the commit of the checkout, with `-dirty` if the package or conf/ have changes.

    Returns:
        Commit; None if mmrec is not run from a checkout.
    """
    root = Path(str(files("mmrec"))).parent
    if not (root / ".git").exists():  # git would search parent folders and find another repository
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "mmrec", "conf")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def peak_rss_mib() -> float:
    """Return the peak resident memory of this process in MiB.

    On Linux, it is read from /proc, because `getrusage` includes the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1024
    scale = 1024**2 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
