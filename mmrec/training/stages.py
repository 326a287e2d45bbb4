"""Stages: train the teacher that a model needs, once, and pass on its embeddings.

A teacher is an ordinary run, in a folder named after its settings, data and code. It is trained
once, locked during training, and resumed if it was interrupted. The student run stores the
teacher's embeddings in its own checkpoints, so that it does not depend on the folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

import torch
from filelock import FileLock, Timeout
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from mmrec.config.errors import SettingError
from mmrec.config.paths import expand, replace_file
from mmrec.config.schema import TARGET
from mmrec.config.text import first_line
from mmrec.data import Corpus, DataError
from mmrec.models import Embeddings
from mmrec.training.code import code_digest
from mmrec.training.open_run import generators_kept, open_run
from mmrec.training.results import (
    BEST,
    LAST,
    ResultError,
    read_json,
    read_result,
    total_seconds,
)
from mmrec.training.upstream import (
    GROUP,
    below_upstream,
    saved_teacher,
    teacher_config,
    teacher_hash,
)

log = logging.getLogger(__name__)
StageState = Literal["finished", "interrupted", "new"]
Train = Callable[[DictConfig, None], Mapping[str, Any]]
RECORD = "upstream.json"  # in the folder of the student run


class Stage:
    """The teacher of one student run.

    Attributes:
        record: entry about the teacher in `result.json`; empty before `embeddings` is called.
        seconds: duration of `embeddings`.

    Args:
        plain: resolved configuration of the student run.
        folder: folder of the student run.
        checkpoint: checkpoint from which the student run is resumed, with the embeddings; None for
            a new run.
        train: function that runs a configuration, like `mmrec.commands.run.run`.
    """

    def __init__(
        self, plain: Mapping[str, Any], folder: Path, checkpoint: Path | None, train: Train
    ) -> None:
        self.plain, self.folder, self.checkpoint, self.train = plain, folder, checkpoint, train
        self.record: dict[str, Any] = {}
        self.seconds = 0.0

    def embeddings(self, corpus: Corpus) -> Embeddings | None:
        """Return the teacher's embeddings on the CPU, training the teacher if necessary.

        The state of the random generators does not change.

        Args:
            corpus: data of the student run.

        Returns:
            Embeddings; None if the run is resumed from a checkpoint without embeddings.

        Raises:
            SettingError: the teacher cannot be trained, or has no embeddings.
            DataError: `upstream.run` has a different data set or split.
            KeyboardInterrupt: training of the teacher was interrupted.
        """
        start = time.perf_counter()
        try:
            if self.checkpoint is not None:
                with suppress(ResultError):
                    self.record = read_json(self.checkpoint.parent.parent / RECORD)
                return saved_teacher(get_object(self.plain["model"][TARGET]), self.checkpoint)
            with generators_kept():
                folder = ensure_run(self.plain, corpus, self.folder, self.train)
            self.record = _record(folder)
            return embeddings(folder, self.plain["data"].get("root"))
        finally:
            self.seconds = time.perf_counter() - start

    def write(self, folder: Path) -> None:
        """Write the record to the run folder, so that a resumed run can read it."""
        if self.record:
            with replace_file(folder / RECORD) as part:
                part.write_text(json.dumps(self.record, indent=2) + "\n")


def ensure_run(plain: Mapping[str, Any], corpus: Corpus, folder: Path, train: Train) -> Path:
    """Return the folder of the teacher's finished run, training it if necessary.

    If several processes need the same teacher, one trains it and the others wait.

    Args:
        plain: resolved configuration of the student run.
        corpus: data of the student run.
        folder: folder of the student run; by default, teachers are in `upstream` next to it.
        train: function that runs a configuration, like `mmrec.commands.run.run`.

    Raises:
        SettingError: a setting of the teacher is invalid.
        DataError: `upstream.run` has a different data set or split.
        KeyboardInterrupt: training of the teacher was interrupted.
    """
    node = plain[GROUP]
    if "run" in node:
        return _given(expand(node["run"]), corpus)
    root = expand(node["root"]) if node.get("root") else folder.absolute().parent / GROUP
    code = code_digest(node["model"][TARGET])
    settings = teacher_hash(teacher_config(plain, folder))
    kind = get_object(node["model"][TARGET])
    model = kind.__module__.rpartition(".")[2]
    prefix = f"{model}-{settings[:8]}"
    digest = hashlib.sha256(f"{corpus.fingerprint}\n{code}".encode()).hexdigest()[:8]
    target = root.absolute() / f"{prefix}-{digest}"
    with _locked(target):
        state = _state(target, corpus, code)
        if state == "finished":
            log.info("%s: reusing %s, %s", GROUP, target, _cost(target))
            return target
        for other in sorted(root.glob(f"{prefix}-*")):
            if other != target:
                log.info("%s: not reusing %s, which has different data or code", GROUP, other)
        log.info("%s: %s %s", GROUP, "resuming" if state == "interrupted" else "training", target)
        _train(plain, target, state, train)
        log.info("%s: finished %s, %s", GROUP, target, _cost(target))
    return target


def embeddings(folder: Path, data_root: str | None = None) -> Embeddings:
    """Return the embeddings of the model of a finished run on the CPU.

    Args:
        folder: folder of the run.
        data_root: folder of data sets; None uses the folder recorded in the run.

    Raises:
        SettingError: the model has no user and item embeddings.
    """
    run = open_run(folder, data_root=data_root)
    with torch.no_grad():
        encoded = run.model.encode()
    if not isinstance(encoded, Embeddings):
        raise SettingError(
            setting=GROUP,
            problem=f"{type(run.model).__name__} in {folder} has no user and item embeddings",
            hint="use a model whose encode() returns Embeddings",
        )
    return Embeddings(*(table.detach().float().clone() for table in encoded))


def _given(folder: Path, corpus: Corpus) -> Path:
    """Check the run of `upstream.run`."""
    setting = f"{GROUP}.run"
    try:
        result = read_result(folder)
    except ResultError as error:
        problem = first_line(error)
        raise SettingError(setting=setting, value=folder, problem=problem) from None
    if result["status"] != "completed":
        raise SettingError(
            setting=setting,
            value=folder,
            problem=f"the status of the run is {result['status']}",
            expected=f"a completed run with {BEST}",
        )
    if not is_whole(folder / BEST):
        raise SettingError(
            setting=setting,
            value=folder,
            problem=f"{BEST} is missing or damaged",
            hint="run it again",
        )
    found, expected = result["data_card"], corpus.card()
    for name in ("fingerprint", "split", "train", "val", "test"):
        if found[name] != expected[name]:
            raise DataError(
                file=f"{setting}={folder}",
                column=name,
                found=str(found[name]),
                expected=str(expected[name]),
                hint="a teacher trained on different data or another split could leak held-out "
                "interactions",
            )
    if "partial" in result:
        log.warning("%s=%s: a partial run (%s)", setting, folder, " ".join(result["partial"]))
    log.info("%s: reusing %s, %s", GROUP, folder, _cost(folder))
    return folder


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    path = target.parent / ".locks" / f"{target.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        log.info("%s: waiting for another process that trains %s", GROUP, target)
        held = lock.acquire()
    with held:
        yield


def _state(target: Path, corpus: Corpus, code: str) -> StageState:
    """Return the state of a teacher's run, and remove the run if it is not usable."""
    if not target.exists():
        return "new"
    try:
        result = read_result(target)
    except ResultError as error:
        problem = first_line(error)
        if (target / LAST).is_file():
            return "interrupted"
    else:
        card = corpus.card()
        same = all(result["data_card"].get(key) == card[key] for key in ("fingerprint", "split"))
        if not same or result.get("code") != code:
            problem = "it has different data or code"
        elif result["status"] == "completed":
            if is_whole(target / BEST):
                return "finished"
            problem = f"{BEST} is missing or damaged"
        elif result["status"] == "interrupted" and (target / LAST).is_file():
            return "interrupted"
        else:
            problem = f"it {result['status']}" + (": " + result.get("error", "")).rstrip(": ")
    log.warning("%s: %s is not usable (%s); training it again", GROUP, target, problem)
    shutil.rmtree(target)
    return "new"


def is_whole(checkpoint: Path) -> bool:
    """Return whether a checkpoint exists and is complete, by its checksums.

    Args:
        checkpoint: file written by `torch.save`, which may be missing.
    """
    if not checkpoint.is_file():
        return False
    try:
        with ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (BadZipFile, EOFError):
        return False


def _train(plain: Mapping[str, Any], target: Path, state: StageState, train: Train) -> None:
    config = teacher_config(plain, target)
    if state == "interrupted":
        try:
            _run({**config, "ckpt": "last"}, train)
        except (SettingError, DataError, ResultError) as error:
            log.warning(
                "%s: %s cannot be resumed (%s); training it again",
                *(GROUP, target, first_line(error)),
            )
            shutil.rmtree(target)
        else:
            return
    _run(config, train)


def _run(config: Mapping[str, Any], train: Train) -> None:
    with below_upstream():
        result = train(OmegaConf.create(dict(config)), None)
    if result["status"] != "completed":
        log.info("%s: interrupted; repeat the command to resume it", GROUP)
        raise KeyboardInterrupt


def _record(folder: Path) -> dict[str, Any]:
    result = read_result(folder)
    kept = ("model", "config_hash", "code")
    return {
        "folder": str(folder),
        **{name: result[name] for name in kept if name in result},
        "seconds": total_seconds(result),
    }


def _cost(folder: Path) -> str:
    return f"trained in {total_seconds(read_result(folder)):.1f} seconds"
