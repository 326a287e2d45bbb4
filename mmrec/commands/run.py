"""Train, select on validation and test once: `python -m mmrec.run model=...`."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mmrec.commands.app import launch
from mmrec.commands.prepare import prepare_missing
from mmrec.commands.run_tables import draw_learning_curve, write_tables
from mmrec.config.errors import SettingError, memory_suffices
from mmrec.config.paths import expand
from mmrec.config.schema import TARGET, conf_dir
from mmrec.config.startup import forget_peak_memory, import_torchmetrics
from mmrec.config.switches import partial
from mmrec.config.text import first_line
from mmrec.search.jobs import AT_END
from mmrec.tables.headers import check_data
from mmrec.training.build import (
    build,
    check_ablation,
    check_config,
    check_trainable,
    warn_of_early_peaks,
)
from mmrec.training.code import code_digest
from mmrec.training.fit import rank, train_and_select
from mmrec.training.processes import config_dirs, of_one_job
from mmrec.training.provenance import config_hash, git_commit, peak_rss_mib, versions
from mmrec.training.results import (
    BEST,
    LAST,
    OVERRIDES,
    for_a_search,
    metrics_table,
    to_continue,
    write_result,
)
from mmrec.training.run_folder import (
    check_continuable,
    check_present,
    check_unused,
    checkpoint_to_continue,
    copy_best,
    locked,
    remove_if_empty,
    write_identity,
    written_link,
)
from mmrec.training.trainer import build_trainer
from mmrec.training.trust import RECORDED, remember
from mmrec.training.upstream import targets

if TYPE_CHECKING:
    from lightning import Trainer

    from mmrec.data import InteractionData
    from mmrec.models import Recommender
    from mmrec.search.pruning import Pruning
    from mmrec.training.callbacks import Checkpoints, Timing

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command with the arguments of the process."""
    with AT_END:
        launch(_main, "config")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _main(config: DictConfig) -> float | dict[str, Any] | None:
    hydra_config = HydraConfig.get()
    job = hydra_config.mode is RunMode.MULTIRUN
    if not job and not hydra_config.run.dir:
        hint = "give a folder, or omit it"
        empty = SettingError(setting="run_dir", value="", problem="it is empty", hint=hint)
        raise SystemExit(1) from empty
    config.run_dir = hydra_config.runtime.output_dir
    watch: str | None = hydra_config.sweeper.get("trial")
    if job:
        forget_peak_memory()
    loggers = config.get("logger")
    for name in {"wandb", "mlflow"} & ({*loggers} if OmegaConf.is_dict(loggers) else set()):
        if OmegaConf.is_dict(loggers[name]):
            from mmrec.training.loggers import name_for_trackers

            name_for_trackers(loggers[name], hydra_config, config.get("seed"))
    try:
        with of_one_job(Path(config.run_dir), watch) if job else nullcontext():
            result = run(config, list(hydra_config.overrides.task), watch)
    except Exception as error:
        if job:
            if hydra_config.sweeper[TARGET].endswith("BasicSweeper"):  # other sweepers log each job
                log.warning("#%s failed: %s", hydra_config.job.num, first_line(error))
            raise
        raise SystemExit(1) from error  # Hydra would log any other exception a second time
    if result["status"] == "interrupted":
        sys.exit(130)
    if watch is not None:
        return for_a_search(result)
    best: float | None = result["best_value"]
    return best


def run(
    config: DictConfig, overrides: list[str] | None, watch: str | None = None
) -> dict[str, Any]:
    """Run a composed configuration, and write the result to its run folder.

    Args:
        config: configuration composed from conf/config.yaml; all files are written to `run_dir`.
        overrides: overrides of the command line, recorded with the result; None: the run was not
            started by a command, for example because it is the upstream of another run.
        watch: `mmrec.search.pruning.ReportTarget` as JSON, for a run of a search; else None.

    Returns:
        Content of `result.json`.

    Raises:
        SettingError: invalid configuration.
        DataError: invalid data.
    """
    with ExitStack() as held, memory_suffices(SettingError):
        return _run(config, overrides, watch, held)


@dataclass(frozen=True)
class Setup:
    """Parts of a run that is ready to train.

    Attributes:
        folder: run folder.
        plain: resolved configuration as plain values.
        data: corpus and loaders.
        model: model to train.
        trainer: Lightning trainer.
        timing: callback that measures epochs.
        checkpoints: callback that keeps the best epoch.
        pruning: callbacks that report to a search; empty outside a search.
        checkpoint: checkpoint to resume from; None: start from scratch.
        result: content of `result.json`, as far as it is known.
    """

    folder: Path
    plain: dict[str, Any]
    data: InteractionData
    model: Recommender
    trainer: Trainer
    timing: Timing
    checkpoints: Checkpoints
    pruning: list[Pruning]
    checkpoint: Path | None
    result: dict[str, Any]

    @property
    def writes(self) -> bool:
        """Whether this process (rank 0) writes to the run folder."""
        return self.trainer.is_global_zero


def _run(
    config: DictConfig, overrides: list[str] | None, watch: str | None, held: ExitStack
) -> dict[str, Any]:
    """Implement `run`; `held` releases the lock of the run folder at the end."""
    folder = expand(config.run_dir)
    config.run_dir = str(folder)
    if link := written_link(folder):
        raise SettingError(
            setting="run_dir",
            value=folder,
            problem=f"{link} is a symbolic link that leads out of the run folder, not followed",
            hint="replace it by its target, or give another run_dir",
        )
    try:
        setup = _set_up(config, overrides, watch, held, folder)
    except BaseException:
        held.close()
        remove_if_empty(folder, parents=not any(w.startswith("run_dir=") for w in overrides or ()))
        raise
    result = setup.result
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        fit_and_test(setup)
    except (KeyboardInterrupt, SystemExit):  # raised by Lightning after Ctrl-C and SIGTERM
        for signum in handlers:
            signal.signal(signum, signal.SIG_IGN)  # a second signal would lose the result
        result["status"] = "interrupted"
    except BaseException as error:
        result["status"] = "failed"
        result["error"] = first_line(error)
        with suppress(OSError):  # report the first error
            _finish(setup)
        raise
    _finish(setup)
    if result["status"] == "interrupted":
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    return result


def _set_up(
    config: DictConfig,
    overrides: list[str] | None,
    watch: str | None,
    held: ExitStack,
    folder: Path,
) -> Setup:
    """Check the configuration, build the run, and write the files that identify it."""
    start = time.perf_counter()
    if OmegaConf.is_dict(config.get("data")):  # report a misspelt column before torch is loaded
        plain_data: Any = OmegaConf.to_container(config.data, resolve=True, throw_on_missing=True)
        prepare_missing(plain_data)
        check_data(plain_data, [*config_dirs(), *(overrides or ())])
    import_torchmetrics()
    from mmrec.training.card import buffer_values, introduce
    from mmrec.training.progress import one_process_speaks
    from mmrec.training.stages import Stage

    one_process_speaks()
    if HydraConfig.initialized() and overrides is not None:
        target = OmegaConf.select(config, f"model.{TARGET}")
        check_ablation(HydraConfig.get().runtime.choices, target)
    plain = check_config(config)
    checkpoint = checkpoint_to_continue(plain["ckpt"], folder)
    pruning = _pruning(watch)
    trainer, timing, checkpoints = build_trainer(plain, folder, *pruning)
    writes = trainer.is_global_zero
    if writes:
        held.enter_context(locked(folder))
        if checkpoint is None:
            check_unused(folder)
    stage = Stage(plain, folder, checkpoint, run) if "upstream" in plain else None
    data, model = build(plain, stage.embeddings if stage else None)
    if not model.closed_form:
        # Report untrainable settings now, before the run folder is written.
        if model.reads_negatives:
            _ = data.sampler
        check_trainable(model)
        warn_of_early_peaks(plain)
    if checkpoint:
        check_continuable(checkpoint, model, plain)
    result = _begin(plain, overrides, data, model) | {"buffers": buffer_values(model)}
    if writes:
        remember(plain[group] for group in RECORDED)
        copy_best(checkpoint, folder)
        write_identity(folder, plain, overrides, data.corpus)
        if stage:
            stage.write(folder)
    for logger in trainer.loggers:
        logger.log_hyperparams(plain)
    result["seconds"]["setup"] = time.perf_counter() - start - (stage.seconds if stage else 0.0)
    if stage and stage.record:
        result["upstream"] = stage.record
    if writes:
        introduce(model, data.corpus, plain, folder, trainer)
    return Setup(
        folder, plain, data, model, trainer, timing, checkpoints, pruning, checkpoint, result
    )


def fit_and_test(run: Setup) -> None:
    """Train and select on validation, then test the best epoch and write its tables.

    Args:
        run: the run; metrics, seconds and status are added to its `result`.
    """
    best = train_and_select(
        run.trainer,
        run.model,
        run.data,
        run.checkpoint,
        run.checkpoints,
        run.timing,
        run.result,
        run.plain,
    )
    with _ended_by_sigterm():
        if any(callback.pruned for callback in run.pruning):
            run.result["status"] = "pruned"
        else:
            tested = time.perf_counter()
            if run.writes:
                check_present(run.folder)
            metrics = rank(run.trainer, run.trainer.test, run.model, run.data, best)
            run.result["metrics"] |= metrics
            run.result["seconds"]["test"] = time.perf_counter() - tested
            run.result.update(write_tables(run.folder, run.model, run.data, writes=run.writes))
        if run.writes and run.timing.train_epochs:
            draw_learning_curve(run.folder, run.plain["monitor"])
        if run.writes:
            check_present(run.folder)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM as an interruption; Lightning only handles it inside its own loops."""
    before = signal.getsignal(signal.SIGTERM)
    ours = before is signal.SIG_DFL and current_thread() is main_thread()
    if ours:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def _pruning(watch: str | None) -> list[Pruning]:
    """Return the callback that reports to a search, if there is one."""
    if watch is None:
        return []
    from mmrec.search.pruning import Pruning

    return [Pruning(watch)]


def _begin(
    plain: dict[str, Any],
    overrides: list[str] | None,
    data: InteractionData,
    model: Recommender,
) -> dict[str, Any]:
    """Return the initial content of `result.json`."""
    parts = partial(plain["trainer"])
    return {
        "status": "completed",
        **({"partial": parts} if parts else {}),
        "model": type(model).__module__.rpartition(".")[2],
        "data": data.corpus.name,
        "seed": plain["seed"],
        "overrides": overrides or [],
        "config_hash": config_hash(plain),
        "code": code_digest(*targets(plain)),
        "git_commit": git_commit(),
        "versions": versions(),
        "data_card": {**data.corpus.card(), **model.evaluation.card(data.corpus)},
        "metrics": {},
        "monitor": plain["monitor"],
        "best_epoch": None,
        "epochs": 0,
        "best_value": None,
        "seconds": dict.fromkeys(("setup", "fit", "train_epoch", "val", "test")),
        "peak_rss_mib": 0.0,
        "peak_gpu_mib": None,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _finish(run: Setup) -> None:
    """Write and log the result, and close the loggers."""
    import torch

    from mmrec.training.loggers import conclude

    result, trainer, checkpoints = run.result, run.trainer, run.checkpoints
    result["metrics"] = checkpoints.best_metrics | result["metrics"]
    result["best_epoch"] = checkpoints.best_epoch
    result["best_value"] = result["metrics"].get(result["monitor"])
    result["seconds"] |= run.timing.medians()
    result["peak_rss_mib"] = peak_rss_mib()
    if torch.cuda.is_available():
        result["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 1024**2
    if trainer.is_global_zero:
        write_result(run.folder, result)
        _tell(run.folder, result)
    for logger in trainer.loggers:
        logger.finalize("success" if result["status"] == "completed" else "failed")
        conclude(logger, result)


def _tell(folder: Path, result: dict[str, Any]) -> None:
    if result["metrics"]:
        log.info("\n%s", metrics_table(result["metrics"]))
    if result["best_epoch"] is not None:
        log.info("best epoch: %d (epochs 0 to %d)", result["best_epoch"], result["epochs"] - 1)
    if "partial" in result:
        log.warning("partial run (%s); reports ignore it", " ".join(result["partial"]))
    log.info("%s: %s", result["status"], folder)
    within = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    if result["status"] != "interrupted" or within:
        return
    if not (folder / OVERRIDES).exists():  # an upstream run: the dependent run logs the command
        return
    if (folder / LAST).exists():
        log.info("resume: %s", to_continue(folder))
    elif not (folder / BEST).exists():
        log.info("no checkpoint was written yet; delete the folder to start again")
