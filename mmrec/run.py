"""Train a model, select it on validation, test it once: `python -m mmrec.run model=...`."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

import hydra
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mmrec.app import forget_peak_memory, import_torchmetrics, launch
from mmrec.build import (
    build,
    build_trainer,
    check,
    check_ablation,
    check_continuable,
    check_trainable,
    checkpoint_to_continue,
    warn_of_early_peaks,
)
from mmrec.code import code_digest
from mmrec.config import TARGET, ConfigError, conf_dir
from mmrec.paths import replace_file
from mmrec.processes import config_dirs, of_one_job
from mmrec.results import (
    BEST,
    CONFIG,
    EPOCHS,
    LAST,
    OVERRIDES,
    PER_USER,
    config_hash,
    first_line,
    for_a_search,
    git_commit,
    metrics_table,
    peak_rss_mib,
    to_continue,
    versions,
    write_result,
)
from mmrec.sweep.jobs import AT_END

if TYPE_CHECKING:
    import polars as pl
    from lightning import Trainer

    from mmrec.callbacks import Checkpoints, Timing
    from mmrec.data import Corpus, InteractionData
    from mmrec.models import Recommender
    from mmrec.sweep.pruning import Pruning

log = logging.getLogger(__name__)


def main() -> None:
    """The command."""
    with AT_END:
        launch(_main, "config")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _main(config: DictConfig) -> float | dict[str, Any] | None:
    hydra_config = HydraConfig.get()
    job = hydra_config.mode is RunMode.MULTIRUN
    if not job and not hydra_config.run.dir:
        raise SystemExit(1) from ConfigError("run_dir= is empty: give a folder, or leave it out")
    config.run_dir = hydra_config.runtime.output_dir
    watch: str | None = hydra_config.sweeper.get("trial")
    if job:
        forget_peak_memory()
    for name in {"wandb", "mlflow"} & {*config.logger}:
        _name_for_trackers(config.logger[name], hydra_config, config.seed)
    try:
        with of_one_job(Path(config.run_dir), watch) if job else nullcontext():
            result = run(config, list(hydra_config.overrides.task), watch)
    except Exception as error:
        if job:
            if hydra_config.sweeper[TARGET].endswith("BasicSweeper"):  # others tell of each job
                log.warning("#%s failed: %s", hydra_config.job.num, first_line(error))
            raise
        raise SystemExit(1) from error  # passes Hydra, which would announce the error a second time
    if result["status"] == "interrupted":
        sys.exit(130)
    if watch is not None:
        return for_a_search(result)
    best: float | None = result["best_value"]
    return best


def _name_for_trackers(tracker: DictConfig, hydra_config: Any, seed: int) -> None:
    """What only the multirun knows: where a run belongs."""
    choices, many = hydra_config.runtime.choices, hydra_config.mode is RunMode.MULTIRUN
    ablation, trial = choices.get("ablation"), hydra_config.sweeper.get("trial")
    given = {
        "group": Path(hydra_config.sweep.dir).name if many else None,
        "job_type": "trial" if trial else "ablation" if ablation else "train",
        "name": "-".join([choices.model, choices.data, *filter(None, [ablation]), f"seed{seed}"]),
    }
    for key, value in given.items():
        if tracker[key] is None:
            tracker[key] = value


def run(config: DictConfig, overrides: list[str], watch: str | None = None) -> dict[str, Any]:
    """One run, from a composed configuration to a folder that holds its result.

    Args:
        config: as composed from conf/config.yaml; `run_dir` is where everything is written.
        overrides: what was asked for, to be kept beside the result.
        watch: of a run in a search: where to report, as `mmrec.sweep.pruning.Watch` has it.

    Returns:
        The content of `result.json`.

    Raises:
        ConfigError: a setting cannot be.
        DataError: the data cannot be what it claims to be.
    """
    with ExitStack() as held:
        return _run(config, overrides, watch, held)


def _run(
    config: DictConfig, overrides: list[str], watch: str | None, held: ExitStack
) -> dict[str, Any]:
    """As `run`, with what is let go at its end."""
    start = time.perf_counter()
    import_torchmetrics()
    from mmrec.card import buffer_values, introduce
    from mmrec.progress import one_process_speaks

    one_process_speaks()
    folder = Path(config.run_dir)
    try:
        if HydraConfig.initialized():
            check_ablation(HydraConfig.get().runtime.choices, config.model.get(TARGET))
        plain = check(config)
        checkpoint = checkpoint_to_continue(plain["ckpt"], folder)
        pruning = _pruning(watch)
        trainer, timing, checkpoints = build_trainer(plain, folder, *pruning)
        writes = trainer.is_global_zero  # of several processes, one
        if writes:
            held.enter_context(_alone(folder))
        if checkpoint is None and writes and (folder / CONFIG).exists():
            way = "give another run_dir"
            if (folder / LAST).exists():
                way += f", or continue it: {to_continue(folder)}"
            elif not (folder / BEST).exists():
                way += "; it has no checkpoint: if it does not run any more, it can be deleted"
            raise ConfigError(f"{folder} holds a run already: {way}")
        data, model = build(plain)
        if not model.closed_form:
            # These say now, not in a folder of their own, what cannot be trained.
            if model.reads_negatives:
                _ = data.sampler
            check_trainable(model, plain)
            warn_of_early_peaks(plain)
        if checkpoint:
            check_continuable(checkpoint, model, plain)
        result = _begin(plain, overrides, data, model) | {"buffers": buffer_values(model)}
        if writes:
            _bring_best(checkpoint, folder)
            _write_identity(folder, plain, overrides, data.corpus)
    except BaseException:
        held.close()
        _remove_if_empty(folder, parents=not any(w.startswith("run_dir=") for w in overrides))
        raise
    for logger in trainer.loggers:
        logger.log_hyperparams(plain)
    result["seconds"]["setup"] = time.perf_counter() - start
    if writes:
        introduce(model, plain, folder, trainer)

    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        best = _select(trainer, model, data, checkpoint, checkpoints, timing, result)
        with _ended_by_sigterm():
            if any(callback.pruned for callback in pruning):
                result["status"] = "pruned"
            else:
                tested = time.perf_counter()
                result["metrics"] |= _rank(trainer, trainer.test, model, data, best)
                result["seconds"]["test"] = time.perf_counter() - tested
                result |= _write_tables(folder, model, data, writes=writes)
            if writes and timing.train_epochs and (folder / EPOCHS).exists():
                _draw(folder, plain["monitor"])
    except (KeyboardInterrupt, SystemExit):  # Lightning makes these of Ctrl-C and SIGTERM
        for signum in handlers:
            signal.signal(signum, signal.SIG_IGN)  # a second one would lose the result
        result["status"] = "interrupted"
    except BaseException as error:
        result["status"] = "failed"
        result["error"] = first_line(error)
        with suppress(OSError):  # the first error is the one to tell
            _finish(folder, result, trainer, timing, checkpoints)
        raise
    _finish(folder, result, trainer, timing, checkpoints)
    if result["status"] == "interrupted":
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    return result


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep every other process from writing this run, as one that continues it would.

    Raises:
        ConfigError: one is writing it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".running"  # one that a killed process has left holds nobody up
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{folder}: a process is writing this run; wait for its end, or stop it"
        ) from None
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM is an interruption here too; Lightning sees to it only between its batches."""
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
    """What reports to a search, if there is one."""
    if watch is None:
        return []
    from mmrec.sweep.pruning import Pruning

    return [Pruning(watch)]


def _begin(
    plain: dict[str, Any], overrides: list[str], data: InteractionData, model: Recommender
) -> dict[str, Any]:
    """The result before anything has happened."""
    return {
        "status": "completed",
        "model": type(model).__module__.rpartition(".")[2],
        "data": data.corpus.name,
        "seed": plain["seed"],
        "overrides": overrides,
        "config_hash": config_hash(plain),
        "code": code_digest(plain["model"][TARGET]),
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


def _bring_best(checkpoint: Path | None, folder: Path) -> None:
    """A run that continues in another folder may not find a better epoch than it already had."""
    if checkpoint is None or (folder / BEST).exists():
        return
    best = checkpoint.with_name(BEST.name)
    if not best.is_file():
        raise ConfigError(f"there is no {best}; put it beside {checkpoint.name}")
    (folder / BEST).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / BEST) as part:
        shutil.copy(best, part)


def _select(
    trainer: Trainer,
    model: Recommender,
    data: InteractionData,
    checkpoint: Path | None,
    checkpoints: Checkpoints,
    timing: Timing,
    result: dict[str, Any],
) -> Path | None:
    """Train, if there is anything to train.

    Returns:
        The checkpoint that validation chose; None: the model as it is.
    """
    trial = trainer.checkpoint_callback is not checkpoints  # fast_dev_run
    if not model.closed_form:
        try:
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        finally:
            result["seconds"]["fit"] = timing.fit()
            # Lightning counts an epoch after its hooks; one that they have chosen counts already.
            chosen = -1 if checkpoints.best_epoch is None else checkpoints.best_epoch
            result["epochs"] = max(trainer.current_epoch, chosen + 1)
        if not trial and checkpoints.best_epoch is None:
            raise ConfigError(
                "no epoch was validated, so none can be chosen: raise trainer.max_epochs, or lower "
                "trainer.check_val_every_n_epoch"
            )
        if not trial:
            return checkpoints.best
    result["metrics"] = _rank(trainer, trainer.validate, model, data, None)
    if not trial:
        trainer.save_checkpoint(checkpoints.best, weights_only=True)
    return None


def _rank(
    trainer: Trainer,
    loop: Callable[..., Any],
    model: Recommender,
    data: InteractionData,
    checkpoint: Path | None,
) -> dict[str, float]:
    """The metrics of one pass over validation or test users."""
    loop(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(("val/", "test"))
    }


def _write_identity(
    folder: Path, plain: dict[str, Any], overrides: list[str], corpus: Corpus
) -> None:
    """What was run, and what its indices mean."""
    folder.mkdir(parents=True, exist_ok=True)
    for content, name in ((plain, CONFIG), ([*config_dirs(), *overrides], OVERRIDES)):
        with replace_file(folder / name) as part:
            OmegaConf.save(OmegaConf.create(content), part)
    for name, ids in (("user", corpus.user_ids), ("item", corpus.item_ids)):
        if ids is not None:
            ids.alias(f"{name}_id").to_frame().with_row_index(name).write_parquet(
                folder / f"{name}_ids.parquet"
            )


def _write_tables(
    folder: Path, model: Recommender, data: InteractionData, *, writes: bool
) -> dict[str, dict[str, float]]:
    """Test metrics of each user, and what the model found to matter for each item.

    Returns:
        For the result, what a known truth says of it.
    """
    import torch

    from mmrec.data import PlantedData
    from mmrec.models import ContentRecommender, RoutedRecommender
    from mmrec.models.base import weighs_pairs
    from mmrec.recovery import role_recovery, rounded

    per_user = _of_all_processes(model.test_ranking.per_user())
    if not writes:
        return {}
    with replace_file(folder / PER_USER) as part:
        per_user.write_parquet(part)
    with torch.no_grad():
        weights = model.eval().item_weights()  # a trainer leaves it as it was in training
    if not weights:
        return {}
    from mmrec.report.figures import write_item_weights

    write_item_weights(folder, weights, model.corpus, of_pairs=weighs_pairs(model))
    if not isinstance(data, PlantedData):
        return {}
    group = None
    if isinstance(model, RoutedRecommender):
        group = rounded(model.item_gates()).argmax(1)
    recovery = role_recovery(model.corpus, data.truth, weights, group)
    cold = model.corpus.cold
    if cold is not None and isinstance(model, ContentRecommender):  # others know nothing of them
        of_cold = role_recovery(model.corpus, data.truth, weights, group, items=cold > 0)
        recovery |= {_cold(name): value for name, value in of_cold.items()}
    return {"recovery": recovery} if recovery else {}


def _cold(name: str) -> str:
    """What a figure of recovery is called where it is of cold items."""
    chance = "chance/"
    return (
        f"{chance}cold/{name.removeprefix(chance)}" if name.startswith(chance) else f"cold/{name}"
    )


def _draw(folder: Path, monitor: str) -> None:
    """How it learned."""
    from mmrec.report.figures import learning_curve

    learning_curve(folder / EPOCHS, monitor, folder / "learning_curve.png")


def _of_all_processes(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of every process, by user."""
    import polars as pl
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return frame
    frames = [frame] * distributed.get_world_size()
    distributed.all_gather_object(frames, frame)
    return pl.concat(frames).sort("user")


def _finish(
    folder: Path,
    result: dict[str, Any],
    trainer: Trainer,
    timing: Timing,
    checkpoints: Checkpoints,
) -> None:
    """Write the result, say it, and let the trackers go."""
    import torch

    from mmrec.tracking import Guarded

    result["metrics"] = checkpoints.best_metrics | result["metrics"]
    result["best_epoch"] = checkpoints.best_epoch
    result["best_value"] = result["metrics"].get(result["monitor"])
    result["seconds"] |= timing.medians()
    result["peak_rss_mib"] = peak_rss_mib()
    if torch.cuda.is_available():
        result["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 1024**2
    if trainer.is_global_zero:
        write_result(folder, result)
        _tell(folder, result)
    for logger in trainer.loggers:
        logger.finalize("success" if result["status"] == "completed" else "failed")
        if isinstance(logger, Guarded):
            logger.conclude(result)


def _tell(folder: Path, result: dict[str, Any]) -> None:
    if result["metrics"]:
        log.info("\n%s", metrics_table(result["metrics"]))
    if result["best_epoch"] is not None:
        log.info("best epoch %d, of 0 to %d", result["best_epoch"], result["epochs"] - 1)
    log.info("%s: %s", result["status"], folder)
    within = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    if result["status"] != "interrupted" or within:
        return
    if (folder / LAST).exists():
        log.info("continue: %s", to_continue(folder))
    elif not (folder / BEST).exists():
        log.info("no checkpoint was written yet: delete the folder to begin again")


def _remove_if_empty(folder: Path, *, parents: bool) -> None:
    """Hydra has made the run's folder; an error at the door leaves none behind."""
    for path in (folder, *folder.parents[: 3 * parents]):
        try:
            path.rmdir()
        except OSError:
            return


if __name__ == "__main__":
    main()
