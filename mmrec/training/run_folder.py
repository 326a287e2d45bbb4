"""Run folders: locking, identity and resuming."""

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


# Files written to a run folder; W&B writes its logs, with links, to a separate folder.
WRITTEN = (
    *(CONFIG, OVERRIDES, RESULT, EPOCHS, PER_USER, ".running"),
    *("user_ids.parquet", "item_ids.parquet", "item_weights.parquet", "learning_curve.png"),
    *("wandb_run.json", "mlflow_run.json", "upstream.json", "profile*"),
    *("checkpoints", "explain", "explain-last", "tensorboard"),
)


def written_link(folder: Path) -> Path | None:
    """Return the first link through which a run would write outside its folder; else None."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    written = [path for path in found if any(fnmatch(path.name, name) for name in WRITTEN)]
    links = (outward_link(folder, below=path) for path in written)
    return next((link for link in links if link), None)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder, and lock it for other processes.

    The lock of a killed process is ignored.

    Raises:
        SettingError: another process is writing to the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".running"
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        raise SettingError(
            setting="run_dir",
            value=folder,
            problem="another process is writing to this run folder",
            hint="wait for it to end, or stop it",
        ) from None
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def check_unused(folder: Path) -> None:
    """Check that a folder does not contain a run.

    Raises:
        SettingError: it contains a run; the hint has the command to resume it, if possible.
    """
    if not (folder / CONFIG).exists():
        return
    way = "use another run_dir"
    if (folder / LAST).exists():
        way += f", or resume that run with {to_continue(folder)}"
    elif not (folder / BEST).exists():
        way += "; that run has no checkpoint and can be deleted if it is no longer running"
    raise SettingError(
        setting="run_dir", value=folder, problem="it already contains a run", hint=way
    )


def copy_best(checkpoint: Path | None, folder: Path) -> None:
    """Copy the best checkpoint of a resumed run to its new folder.

    It is needed if the resumed run does not find a better epoch.

    Args:
        checkpoint: `last.ckpt` of the run to resume, next to its `best.ckpt`; None for a new run.
        folder: new folder of the run.

    Raises:
        SettingError: `best.ckpt` does not exist.
    """
    if checkpoint is None or (folder / BEST).exists():
        return
    best = checkpoint.with_name(BEST.name)
    if not best.is_file():
        raise SettingError(
            setting="ckpt",
            value=checkpoint,
            problem=f"{best} does not exist",
            hint=f"copy it next to {checkpoint.name}",
        )
    (folder / BEST).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / BEST) as part:
        shutil.copy(best, part)


def write_identity(
    folder: Path, plain: dict[str, Any], overrides: Sequence[str] | None, corpus: Corpus
) -> None:
    """Write the resolved configuration, the overrides, and the names of users and items.

    Args:
        folder: folder of the run.
        plain: resolved configuration.
        overrides: overrides of the command line; None to not write them.
        corpus: data; names are written only if they differ from row numbers.
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
    """Check that the folder of the current run still exists.

    Raises:
        ResultError: the configuration is missing.
    """
    if not (folder / CONFIG).is_file():
        raise ResultError(
            f"{folder / CONFIG} no longer exists: the run folder was removed or changed during the "
            "run; start the run again"
        )


def remove_if_empty(folder: Path, *, parents: bool) -> None:
    """Remove a run folder if it is empty, because Hydra creates it before settings are checked.

    Args:
        folder: folder of the run.
        parents: also remove up to three empty parent folders.
    """
    for path in (folder, *folder.parents[: 3 * parents]):
        try:
            path.rmdir()
        except OSError:
            return


def checkpoint_to_continue(ckpt: str | None, folder: Path) -> Path | None:
    """Return the checkpoint selected by the setting `ckpt`; None for a new run.

    Raises:
        SettingError: the checkpoint does not exist.
    """
    if ckpt is None:
        return None
    path = folder / LAST if ckpt == "last" else expand(ckpt)
    if not path.is_file():
        way = "use the path of a last.ckpt, or ckpt=last with the run_dir of the run to resume"
        if ckpt == "last" and (folder / CONFIG).is_file():
            way = "the run was stopped before its first checkpoint; delete the folder to restart it"
        problem = f"the checkpoint {path} does not exist"
        raise SettingError(setting="ckpt", value=ckpt, problem=problem, hint=way)
    return path


def check_continuable(checkpoint: Path, model: Recommender, plain: dict[str, Any]) -> None:
    """Check that a run can be resumed from a checkpoint, before anything is overwritten.

    Raises:
        SettingError: the checkpoint has only weights, or settings differ from the original run.
        DataError: the checkpoint belongs to another model, data set or split.
    """
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
            problem="it contains only weights",
            hint="resume from the last.ckpt next to it",
        )
    home = checkpoint.parent.parent
    config = home / CONFIG
    if not config.is_file():
        raise SettingError(
            setting="ckpt",
            value=checkpoint,
            problem=f"{config} does not exist",
            hint="resume from the last.ckpt in the original run folder",
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
                    problem="the run to resume has no upstream model",
                    hint="add upstream=none",
                )
            raise SettingError(
                setting=name,
                value=after,
                problem=f"the run to resume has {one_line(before)}",
                hint=f"use the settings of {config}; only those of trainer and logger can change",
            )
