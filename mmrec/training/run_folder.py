"""The folder of a run: opened once, written by one process, and identified by its settings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from mmrec.config.errors import SettingError
from mmrec.config.old_runs import ADDED
from mmrec.config.paths import expand, outward_link, replace_file
from mmrec.config.text import one_line
from mmrec.training.processes import config_dirs
from mmrec.training.provenance import VOLATILE, flat
from mmrec.training.results import (
    BEST,
    CONFIG,
    EPOCHS,
    LAST,
    OVERRIDES,
    PER_USER,
    RESULT,
    ResultError,
    read_config,
    to_continue,
)

if TYPE_CHECKING:
    from mmrec.data import Corpus
    from mmrec.models import Recommender

# Settings that may differ after a resume.
CHANGEABLE = (*VOLATILE, "trainer.", "data.cache", "data.root", "upstream.root")


# What is written to the folder of a run; W&B links its own logs in a folder of its own.
WRITTEN = (
    *(CONFIG, OVERRIDES, RESULT, EPOCHS, PER_USER, ".running"),
    *("user_ids.parquet", "item_ids.parquet", "item_weights.parquet", "learning_curve.png"),
    *("wandb_run.json", "mlflow_run.json", "upstream.json", "profile*"),
    *("checkpoints", "explain", "explain-last", "tensorboard"),
)


def written_link(folder: Path) -> Path | None:
    """The first symbolic link out of a run folder that a run would write through, else None."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    written = [path for path in found if any(fnmatch(path.name, name) for name in WRITTEN)]
    links = (outward_link(folder, below=path) for path in written)
    return next((link for link in links if link), None)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and keep every other process from writing to it.

    A lock that a killed process has left does not count.

    Raises:
        SettingError: another process is writing this run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".running"
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        raise SettingError(
            setting="run_dir",
            value=folder,
            problem="a process is writing this run",
            hint="wait for its end, or stop it",
        ) from None
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def check_unused(folder: Path) -> None:
    """Refuse to overwrite a run.

    Raises:
        SettingError: the folder holds a run; the message says how to resume it, if possible.
    """
    if not (folder / CONFIG).exists():
        return
    way = "give another run_dir"
    if (folder / LAST).exists():
        way += f", or resume that run with its own settings: {to_continue(folder)}"
    elif not (folder / BEST).exists():
        way += "; it has no checkpoint: if it does not run any more, it can be deleted"
    raise SettingError(setting="run_dir", value=folder, problem="it holds a run already", hint=way)


def copy_best(checkpoint: Path | None, folder: Path) -> None:
    """Copy the best checkpoint of a resumed run to its new folder.

    The resumed run may not find a better epoch than the one it already had.

    Args:
        checkpoint: `last.ckpt` of the run to resume, with its `best.ckpt` beside it; None: a new
            run.
        folder: of the run that resumes it.

    Raises:
        SettingError: there is no `best.ckpt`.
    """
    if checkpoint is None or (folder / BEST).exists():
        return
    best = checkpoint.with_name(BEST.name)
    if not best.is_file():
        raise SettingError(
            setting="ckpt",
            value=checkpoint,
            problem=f"there is no {best}",
            hint=f"put it beside {checkpoint.name}",
        )
    (folder / BEST).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / BEST) as part:
        shutil.copy(best, part)


def write_identity(
    folder: Path, plain: dict[str, Any], overrides: Sequence[str] | None, corpus: Corpus
) -> None:
    """Write the resolved configuration, the overrides, and the names of users and items.

    Args:
        folder: of the run.
        plain: the resolved configuration.
        overrides: words of the command line; None: they are not written.
        corpus: the data; names are written only if the data have names of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = None if overrides is None else [*config_dirs(), *overrides]
    for content, name in ((plain, CONFIG), (words, OVERRIDES)):
        if content is None:
            continue
        with replace_file(folder / name) as part:
            OmegaConf.save(OmegaConf.create(content), part)
    for name, ids in (("user", corpus.user_ids), ("item", corpus.item_ids)):
        if ids is not None:
            table = ids.alias(f"{name}_id").to_frame().with_row_index(name)
            with replace_file(folder / f"{name}_ids.parquet") as part:
                table.write_parquet(part)


def check_present(folder: Path) -> None:
    """Refuse to complete a run whose folder was removed or changed while it was running.

    Raises:
        ResultError: the configuration is missing.
    """
    if not (folder / CONFIG).is_file():
        raise ResultError(
            f"there is no {folder / CONFIG} any more: the run folder was removed or changed while "
            "the run was writing to it; start the run again"
        )


def remove_if_empty(folder: Path, *, parents: bool) -> None:
    """Remove the run's folder if it is empty: Hydra makes it before any setting is checked.

    Args:
        folder: of the run.
        parents: also up to three empty folders above it.
    """
    for path in (folder, *folder.parents[: 3 * parents]):
        try:
            path.rmdir()
        except OSError:
            return


def checkpoint_to_continue(ckpt: str | None, folder: Path) -> Path | None:
    """The checkpoint that `ckpt` means.

    Raises:
        SettingError: there is none.
    """
    if ckpt is None:
        return None
    path = folder / LAST if ckpt == "last" else expand(ckpt)
    if not path.is_file():
        way = "give the path of a last.ckpt, or ckpt=last and the run_dir of the run to continue"
        if ckpt == "last" and (folder / CONFIG).is_file():
            way = "the run was stopped before its first one; delete the folder to begin again"
        raise SettingError(setting="ckpt", value=ckpt, problem=f"no checkpoint at {path}", hint=way)
    return path


def check_continuable(checkpoint: Path, model: Recommender, plain: dict[str, Any]) -> None:
    """Refuse a checkpoint that this run cannot go on from, before it overwrites anything."""
    from mmrec.data import DataError
    from mmrec.training.callbacks import AtomicCheckpointIO

    content = AtomicCheckpointIO().load_checkpoint(checkpoint, weights_only=True)
    try:
        model.on_load_checkpoint(content)
    except DataError as error:
        way = to_continue(checkpoint.parent.parent)
        hint = "; ".join(part for part in (error.hint, f"resume the run with {way}") if part)
        raise error.in_file(checkpoint, hint) from None
    if "optimizer_states" not in content:
        raise SettingError(
            setting="ckpt",
            value=checkpoint,
            problem="it holds weights only",
            hint="continue from the last.ckpt beside it",
        )
    home = checkpoint.parent.parent
    config = home / CONFIG
    if not config.is_file():
        raise SettingError(
            setting="ckpt",
            value=checkpoint,
            problem=f"there is no {config}",
            hint="continue from where the run left its last.ckpt",
        )
    earlier, now = flat(read_config(home)), flat(plain)
    for name in sorted({*earlier, *now}):
        before, after = earlier.get(name, ADDED.get(name, "nothing")), now.get(name, "nothing")
        if before != after and not name.startswith(CHANGEABLE):
            if name.startswith("upstream.") and not any(
                each.startswith("upstream.") for each in earlier
            ):
                raise SettingError(
                    setting="upstream",
                    problem="the run to continue has no upstream model",
                    hint="add upstream=none",
                )
            raise SettingError(
                setting=name,
                value=after,
                problem=f"the run to continue has {one_line(before)}, and keeps it",
                hint=f"give the settings of {config} again, of which only those of trainer and "
                "logger may change",
            )
