"""Train a model, select it on validation, test it once: `python -m mmrec.run model=...`."""

from __future__ import annotations

import logging
import shlex
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mmrec.app import forget_peak_memory, import_torchmetrics, launch
from mmrec.code import code_digest
from mmrec.config import ROOT, TARGET, ConfigError, check_call, check_monitor, conf_dir, nearest
from mmrec.paths import replace_file
from mmrec.processes import config_dirs, of_one_job
from mmrec.results import (
    BEST,
    CONFIG,
    EPOCHS,
    LAST,
    OVERRIDES,
    PER_USER,
    VOLATILE,
    config_hash,
    first_line,
    flat,
    for_a_search,
    git_commit,
    metrics_table,
    peak_rss_mib,
    versions,
    write_result,
)

if TYPE_CHECKING:
    import polars as pl
    from lightning import Callback, Trainer

    from mmrec.callbacks import Checkpoints, Timing
    from mmrec.data import Corpus, InteractionData
    from mmrec.models import Recommender
    from mmrec.sweep.pruning import Pruning

log = logging.getLogger(__name__)
# Groups whose settings are arguments.
GROUPS = ("model", "data", "optimizer", "trainer", "callbacks", "evaluation", "router_schedule")
CHANGEABLE = (*VOLATILE, "trainer.", "data.root")  # when a run continues


def main() -> None:
    """The command."""
    launch(_main, "config")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _main(config: DictConfig) -> float | dict[str, Any] | None:
    hydra_config = HydraConfig.get()
    config.run_dir = hydra_config.runtime.output_dir
    watch: str | None = hydra_config.sweeper.get("trial")
    job = hydra_config.mode is RunMode.MULTIRUN
    if job:
        forget_peak_memory()
    for name in {"wandb", "mlflow"} & {*config.logger}:
        _name_for_trackers(config.logger[name], hydra_config, config.seed)
    try:
        with of_one_job(Path(config.run_dir), watch) if job else nullcontext():
            result = run(config, list(hydra_config.overrides.task), watch)
    except Exception as error:
        if job:
            raise
        raise SystemExit(1) from error  # passes Hydra, which would announce the error a second time
    if result["status"] == "interrupted":
        sys.exit(130)
    if watch is not None:
        return for_a_search(result)
    best: float | None = result["best_value"]
    return best


def _check_ablation(choices: Mapping[str, Any], target: str) -> None:
    """Refuse a model's ablation with another model: it would be settings that are not there."""
    ablation = choices.get("ablation")
    of = ablation.rpartition("/")[0] if isinstance(ablation, str) else ""
    path = conf_dir() / "model" / f"{of}.yaml"
    if path.is_file() and OmegaConf.select(OmegaConf.load(path), TARGET) != target:
        raise ConfigError(
            f"ablation={ablation}: it is one of model={of}; leave out model={choices['model']}"
        )


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
    start = time.perf_counter()
    import_torchmetrics()
    folder = Path(config.run_dir)
    try:
        if HydraConfig.initialized():
            _check_ablation(HydraConfig.get().runtime.choices, config.model[TARGET])
        plain = check(config)
        checkpoint = checkpoint_to_continue(plain["ckpt"], folder)
        pruning = _pruning(watch)
        trainer, timing, checkpoints = build_trainer(plain, folder, *pruning)
        writes = trainer.is_global_zero  # of several processes, one
        if checkpoint is None and writes and (folder / CONFIG).exists():
            way = "give another run_dir"
            if (folder / LAST).exists():
                way = f"continue it with ckpt=last, or {way}"
            elif not (folder / BEST).exists():
                way = f"it has no checkpoint, so delete it, or {way}"
            raise ConfigError(f"{folder} holds a run already: {way}")
        data, model = build(plain)
        if not model.closed_form:
            # These say now, not in a folder of their own, what cannot be trained.
            _ = data.sampler
            _try_optimizer(model)
        if checkpoint:
            _check_continuable(checkpoint, model, plain)
        result = _begin(plain, overrides, data, model)
        if writes:
            _bring_best(checkpoint, folder)
            _write_identity(folder, plain, overrides, data.corpus)
    except BaseException:
        _remove_if_empty(folder, parents=not any(w.startswith("run_dir=") for w in overrides))
        raise
    for logger in trainer.loggers:
        logger.log_hyperparams(plain)
    result["seconds"]["setup"] = time.perf_counter() - start
    if writes:
        log.info("%s on %s: %d parameters", result["model"], result["data"], result["parameters"])

    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        best = _select(trainer, model, data, checkpoint, checkpoints, timing, result)
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would lose the result
        result["status"] = "interrupted"
    except BaseException as error:
        result["status"] = "failed"
        result["error"] = first_line(error)
        with suppress(OSError):  # the first error is the one to tell
            _finish(folder, result, trainer, timing, checkpoints)
        raise
    _finish(folder, result, trainer, timing, checkpoints)
    if result["status"] == "interrupted":
        signal.signal(signal.SIGINT, on_interrupt)
    return result


def check(config: DictConfig) -> dict[str, Any]:
    """Resolve a configuration, and refuse what cannot be right, before anything is built.

    Raises:
        ConfigError: says which setting, what it is, and what it may be.
    """
    from mmrec.evaluation import ACCURACY

    for group, what in (("sweep", "searches"), ("grid", "combines")):
        if group in config:
            raise ConfigError(f"{group}=... {what}, and that is many runs: add -m")
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    unknown = set(plain) - set(ROOT)
    if unknown:
        word = min(unknown)
        raise ConfigError(f"{word}: no such setting{nearest(word, ROOT)}")
    for group in GROUPS:
        check_call(plain[group], group)
    if not isinstance(plain["seed"], int) or plain["seed"] < 0:
        raise ConfigError(f"seed={plain['seed']}: expected a whole number of at least 0")
    check_monitor(plain["monitor"], plain["evaluation"]["cutoffs"], ACCURACY)
    checked: dict[str, Any] = plain
    return checked


def checkpoint_to_continue(ckpt: str | None, folder: Path) -> Path | None:
    """The checkpoint that `ckpt` means.

    Raises:
        ConfigError: there is none.
    """
    if ckpt is None:
        return None
    path = folder / LAST if ckpt == "last" else Path(ckpt)
    if not path.is_file():
        raise ConfigError(
            f"ckpt={ckpt}: there is no {path}; give the path of a last.ckpt, or ckpt=last together "
            "with the run_dir of the run to continue"
        )
    return path


def build(plain: dict[str, Any]) -> tuple[InteractionData, Recommender]:
    """The data module and the model of a resolved configuration.

    Seeds everything first, so the same configuration gives the same model.
    """
    from lightning import seed_everything

    seed_everything(plain["seed"], verbose=False)
    data: InteractionData = hydra.utils.instantiate(plain["data"], _convert_="all")
    model: Recommender = hydra.utils.instantiate(plain["model"], _convert_="all")(data.corpus)
    model.evaluation = hydra.utils.instantiate(plain["evaluation"], _convert_="all")
    model.optimizer = hydra.utils.instantiate(plain["optimizer"], _convert_="all")
    _give_schedule(model, plain["router_schedule"])
    model.setup("validate")  # says now, not after a first epoch, that a ranking cannot be judged
    return data, model


def _try_optimizer(model: Recommender) -> None:
    """Let torch refuse what it cannot have, as a negative learning rate."""
    try:
        model.optimizer(model.parameters())
    except ValueError as error:
        raise ConfigError(f"optimizer: {error}") from None


def _give_schedule(model: Recommender, node: dict[str, Any]) -> None:
    """Let a routed model have the schedule of its router; without one, none of its terms count."""
    from mmrec.models import RoutedRecommender
    from mmrec.schedules import Constant

    if isinstance(model, RoutedRecommender):
        schedule = hydra.utils.instantiate(node, _convert_="all") if node else Constant(top_k=None)
        model.route_by(schedule)
    elif node:
        raise ConfigError(
            f"router_schedule: {type(model).__name__} has no router; leave the setting out"
        )


def build_trainer(
    plain: dict[str, Any], folder: Path, *more: Callback
) -> tuple[Trainer, Timing, Checkpoints]:
    """A Lightning trainer with what every run has: seeds, timings, and whole checkpoints."""
    import torch

    from mmrec.callbacks import AtomicCheckpointIO, Checkpoints, EpochSeed, EpochTable, Timing
    from mmrec.tracking import Guarded

    # What Lightning tells at INFO the run says itself. The warnings are about Lightning's own code,
    # and about metrics that are summed over processes before they are logged.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (r"`isinstance\(treespec, LeafSpec\)` is deprecated", r".*sync_dist=True"):
        warnings.filterwarnings("ignore", message)

    # Filling every new tensor with NaN finds bugs in kernels, and costs a pass over memory each.
    # The name stands on an object that torch puts in the place of the module.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    timing, checkpoints = Timing(), Checkpoints(folder, plain["monitor"])
    kept = [] if plain["trainer"]["fast_dev_run"] else [checkpoints]
    watchers = hydra.utils.instantiate(plain["callbacks"], _convert_="all").values()
    trainer: Trainer = hydra.utils.instantiate(
        plain["trainer"],
        _convert_="all",
        callbacks=[EpochSeed(plain["seed"]), timing, *watchers, *more, *kept],
        logger=[
            logger if isinstance(logger, EpochTable) else Guarded(logger)
            for logger in hydra.utils.instantiate(plain["logger"], _convert_="all").values()
        ],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
    )
    return trainer, timing, checkpoints


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


def _check_continuable(checkpoint: Path, model: Recommender, plain: dict[str, Any]) -> None:
    """Refuse a checkpoint that this run cannot go on from, before it overwrites anything."""
    from mmrec.callbacks import AtomicCheckpointIO
    from mmrec.data import DataError

    content = AtomicCheckpointIO().load_checkpoint(checkpoint, weights_only=True)
    try:
        model.on_load_checkpoint(content)
    except DataError as error:
        words = checkpoint.parent.parent / OVERRIDES
        hint = f"; the run began with the words of {words}" if words.is_file() else ""
        raise DataError(f"{error}{hint}") from None
    if "optimizer_states" not in content:
        raise ConfigError(f"{checkpoint} holds weights only; continue from the last.ckpt beside it")
    config = checkpoint.parent.parent / CONFIG
    if not config.is_file():
        raise ConfigError(f"there is no {config}; continue from where the run left its last.ckpt")
    earlier, now = flat(OmegaConf.to_container(OmegaConf.load(config))), flat(plain)
    for name in sorted({*earlier, *now}):
        before, after = earlier.get(name, "nothing"), now.get(name, "nothing")
        if before != after and not name.startswith(CHANGEABLE):
            raise ConfigError(
                f"{name}={after}: the run to continue has {before}, and keeps it; give the "
                f"settings of {config} again, of which only those of trainer and logger may change"
            )


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
            result["epochs"] = trainer.current_epoch
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
    for content, name in ((plain, CONFIG), (overrides, OVERRIDES)):
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
    from mmrec.data import PlantedData
    from mmrec.models import RoutedRecommender
    from mmrec.recovery import role_recovery, rounded

    per_user = _of_all_processes(model.test_ranking.per_user())
    if not writes:
        return {}
    with replace_file(folder / PER_USER) as part:
        per_user.write_parquet(part)
    weights = model.eval().item_weights()  # a trainer leaves it as it was in training
    if not weights:
        return {}
    from mmrec.report.figures import write_item_weights

    write_item_weights(folder, weights, model.corpus)
    if not isinstance(data, PlantedData):
        return {}
    group = None
    if isinstance(model, RoutedRecommender):
        group = rounded(model.item_gates()).argmax(1)
    recovery = role_recovery(model.corpus, data.truth, weights, group)
    return {"recovery": recovery} if recovery else {}


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
        log.info("best epoch %d of %d", result["best_epoch"], result["epochs"])
    log.info("%s: %s", result["status"], folder)
    within = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    if result["status"] != "interrupted" or within:
        return
    if (folder / LAST).exists():
        kept = [word for word in result["overrides"] if not word.startswith(("run_dir=", "ckpt="))]
        words = shlex.join([*config_dirs(), *kept, f"run_dir={folder}", "ckpt=last"])
        log.info("continue: python -m mmrec.run %s", words)
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
