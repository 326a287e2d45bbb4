"""Train a model, select it on validation, test it once: `python -m mmrec.run model=... data=...`."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mmrec.app import launch
from mmrec.config import ConfigError, check_call, check_monitor, conf_dir
from mmrec.paths import replace_file
from mmrec.results import (
    BEST,
    CONFIG,
    LAST,
    OVERRIDES,
    PER_USER,
    config_hash,
    git_commit,
    metrics_table,
    peak_rss_mib,
    versions,
    write_result,
)

if TYPE_CHECKING:
    from lightning import Trainer

    from mmrec.callbacks import Timing
    from mmrec.data import Corpus, InteractionData
    from mmrec.models import Recommender

log = logging.getLogger(__name__)


def main() -> None:
    """The command."""
    launch(_main, "config")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _main(config: DictConfig) -> float | None:
    hydra_config = HydraConfig.get()
    config.run_dir = hydra_config.runtime.output_dir
    result = run(config, list(hydra_config.overrides.task))
    if result["status"] == "interrupted":
        sys.exit(130)
    return result["best_value"]


def run(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """One run, from a composed configuration to a folder that holds its result.

    Args:
        config: as composed from conf/config.yaml; `run_dir` is where everything is written.
        overrides: what was asked for, to be kept beside the result.

    Returns:
        The content of `result.json`.

    Raises:
        ConfigError: a setting cannot be.
        DataError: the data cannot be what it claims to be.
    """
    start = time.perf_counter()
    folder = Path(config.run_dir)
    try:
        plain = check(config)
        checkpoint = checkpoint_to_continue(plain["ckpt"], folder)
        data, model = build(plain)
        trainer, timing = build_trainer(plain, folder)
    except BaseException:
        _remove_if_empty(folder)
        raise
    _write_identity(folder, plain, overrides, data.corpus)
    result = _begin(plain, overrides, data, model)
    result["seconds"]["setup"] = time.perf_counter() - start
    log.info("%s on %s: %d parameters", result["model"], result["data"], result["parameters"])

    # A trial batch writes no checkpoint, and a closed form is what it is: both are ranked as they are.
    trained = not (model.closed_form or plain["trainer"]["fast_dev_run"])
    best = folder / BEST if trained else None
    try:
        if not model.closed_form:
            _fit(trainer, model, data, checkpoint, result)
        if best is None or best.exists():
            result["metrics"] = _rank(trainer, trainer.validate, model, data, best)
        if model.closed_form and not plain["trainer"]["fast_dev_run"]:
            trainer.save_checkpoint(folder / BEST, weights_only=True)
        if result["status"] == "completed":
            tested = time.perf_counter()
            result["metrics"] |= _rank(trainer, trainer.test, model, data, best)
            result["seconds"]["test"] = time.perf_counter() - tested
            _write_tables(folder, model)
    except (KeyboardInterrupt, SystemExit):  # Lightning makes the one into the other
        result["status"] = "interrupted"
    except BaseException as error:
        result["status"] = "failed"
        result["error"] = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise
    finally:
        result["seconds"] |= timing.medians()
        _finish(folder, result, trainer)
    return result


def check(config: DictConfig) -> dict[str, Any]:
    """Resolve a configuration, and refuse what cannot be right, before anything is built.

    Raises:
        ConfigError: says which setting, what it is, and what it may be.
    """
    from mmrec.evaluation import ACCURACY

    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    for group in ("model", "data", "optimizer", "evaluation"):
        check_call(plain[group], group)
    if not isinstance(plain["seed"], int) or plain["seed"] < 0:
        raise ConfigError(f"seed={plain['seed']}: expected a whole number of at least 0")
    check_monitor(plain["monitor"], plain["evaluation"]["cutoffs"], ACCURACY)
    return plain


def checkpoint_to_continue(ckpt: str | None, folder: Path) -> Path | None:
    """The checkpoint that `ckpt` means.

    Raises:
        ConfigError: there is none, or a new run would overwrite another.
    """
    if ckpt is None:
        if (folder / CONFIG).exists():
            raise ConfigError(
                f"{folder} holds a run already: continue it with ckpt=last, or give another run_dir"
            )
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
    return data, model


def build_trainer(plain: dict[str, Any], folder: Path) -> tuple[Trainer, Timing]:
    """A Lightning trainer with what every run has: seeds, timings, and whole checkpoints."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    from mmrec.callbacks import AtomicCheckpointIO, EpochSeed, Timing

    best = ModelCheckpoint(
        folder / BEST.parent,
        filename=BEST.stem,
        monitor=plain["monitor"],
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(folder / LAST.parent, filename=LAST.stem, enable_version_counter=False)
    timing = Timing()
    fast = plain["trainer"]["fast_dev_run"]
    watchers = hydra.utils.instantiate(plain["callbacks"], _convert_="all").values()
    trainer: Trainer = hydra.utils.instantiate(
        plain["trainer"],
        _convert_="all",
        callbacks=[EpochSeed(plain["seed"]), timing, *watchers, *([] if fast else [best, last])],
        logger=list(hydra.utils.instantiate(plain["logger"], _convert_="all").values()),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
    )
    return trainer, timing


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
        "git_commit": git_commit(),
        "versions": versions(),
        "data_card": {**data.corpus.card(), "seen": plain["evaluation"]["seen"]},
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


def _fit(
    trainer: Trainer,
    model: Recommender,
    data: InteractionData,
    checkpoint: Path | None,
    result: dict[str, Any],
) -> None:
    """Train, and note how long and how far; an interruption is a status, no error."""
    start = time.perf_counter()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # how Lightning ends after Ctrl-C
        if not trainer.interrupted:
            raise
        result["status"] = "interrupted"
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
        result["seconds"]["fit"] = time.perf_counter() - start
        result["epochs"] = trainer.current_epoch


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
        if name.startswith(("val/", "test/"))
    }


def _write_identity(
    folder: Path, plain: dict[str, Any], overrides: list[str], corpus: Corpus
) -> None:
    """What was run, and what its indices mean."""
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(plain), folder / CONFIG)
    OmegaConf.save(OmegaConf.create(overrides), folder / OVERRIDES)
    for name, ids in (("user", corpus.user_ids), ("item", corpus.item_ids)):
        if ids is not None:
            ids.alias(f"{name}_id").to_frame().with_row_index(name).write_parquet(
                folder / f"{name}_ids.parquet"
            )


def _write_tables(folder: Path, model: Recommender) -> None:
    """Test metrics of each user, and what the model found to matter for each item."""
    with replace_file(folder / PER_USER) as part:
        model.test_ranking.per_user().write_parquet(part)
    weights = model.item_weights()
    if weights:
        from mmrec.report import write_item_weights

        write_item_weights(folder, weights, model.corpus)


def _finish(folder: Path, result: dict[str, Any], trainer: Trainer) -> None:
    """Write the result, say it, and let the trackers go."""
    import torch

    if (folder / BEST).exists() and result["epochs"]:
        saved = torch.load(folder / BEST, weights_only=True, mmap=True)
        result["best_epoch"] = saved["epoch"]
    result["best_value"] = result["metrics"].get(result["monitor"])
    result["peak_rss_mib"] = peak_rss_mib()
    if torch.cuda.is_available():
        result["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 1024**2
    write_result(folder, result)
    if result["metrics"]:
        log.info("\n%s", metrics_table(result["metrics"]))
    log.info("%s: %s", result["status"], folder)
    if result["status"] == "interrupted":
        words = " ".join(result["overrides"])
        log.info("continue: python -m mmrec.run %s run_dir=%s ckpt=last", words, folder)
    for logger in trainer.loggers:
        logger.finalize("success" if result["status"] == "completed" else "failed")
    if "wandb" in sys.modules:  # else the next job of a multirun would write into this one's run
        import wandb

        wandb.finish(exit_code=int(result["status"] == "failed"))


def _remove_if_empty(folder: Path) -> None:
    """Hydra has made the run's folder; an error at the door leaves none behind."""
    for path in (folder, *folder.parents[:2]):
        try:
            path.rmdir()
        except OSError:
            return


if __name__ == "__main__":
    main()
