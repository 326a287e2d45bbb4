"""From a composed configuration to what a run needs, or to an error that names the setting."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mmrec.app import leave_memory_unfilled
from mmrec.config import ROOT, TARGET, ConfigError, check_call, check_monitor, conf_dir, nearest
from mmrec.results import CONFIG, LAST, VOLATILE, flat, to_continue

if TYPE_CHECKING:
    from lightning import Callback, Trainer

    from mmrec.callbacks import Checkpoints, Timing
    from mmrec.data import InteractionData
    from mmrec.models import Recommender

log = logging.getLogger(__name__)
# Groups whose settings are arguments.
GROUPS = ("model", "data", "optimizer", "trainer", "callbacks", "evaluation", "router_schedule")
EARLY = 100  # epochs of patience: with less, cold items ended runs at a third of what they came to
CHANGEABLE = (*VOLATILE, "trainer.", "data.root")  # when a run continues


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
    if type(plain["seed"]) is not int or not 0 <= plain["seed"] < 2**32:
        raise ConfigError(f"seed={plain['seed']}: expected a whole number from 0 to 2^32 - 1")
    unknown = set(plain) - set(ROOT)
    if unknown:
        word = min(unknown)
        raise ConfigError(f"{word}: no such setting{nearest(word, ROOT)}")
    for group in GROUPS:
        if TARGET not in plain[group] and group not in ("callbacks", "router_schedule"):
            raise ConfigError(f"{group}: it has no {TARGET}, the name of what makes it")
        check_call(plain[group], group)
    if not plain["model"].get("_partial_"):
        raise ConfigError("model: give it _partial_: true, as its corpus comes later")
    for name, node in plain["callbacks"].items():
        # Data with cold items bring a patience, which nobody has with callbacks=none.
        if node and TARGET not in node and (name, *node) != ("early_stopping", "patience"):
            raise ConfigError(
                f"callbacks.{name}: it has no _target_; name the class of the callback, or leave "
                f"the callback out with ~callbacks.{name}"
            )
    instantiate(plain["evaluation"], _convert_="all")  # says which cutoffs it can't have
    check_monitor(plain["monitor"], plain["evaluation"]["cutoffs"], ACCURACY)
    checked: dict[str, Any] = plain
    return checked


def check_ablation(choices: Mapping[str, Any], target: str | None) -> None:
    """Refuse a model's ablation with another model: it would be settings that are not there."""
    ablation = choices.get("ablation")
    of = ablation.rpartition("/")[0] if isinstance(ablation, str) else ""
    path = conf_dir() / "model" / f"{of}.yaml"
    if path.is_file() and OmegaConf.select(OmegaConf.load(path), TARGET) != target:
        raise ConfigError(
            f"ablation={ablation}: it is one of model={of}; leave out model={choices['model']}"
        )


def build(plain: dict[str, Any]) -> tuple[InteractionData, Recommender]:
    """The data module and the model of a resolved configuration.

    Seeds everything first, so the same configuration gives the same model.
    """
    from lightning import seed_everything

    from mmrec.protocol import check_rankable

    seed_everything(plain["seed"], verbose=False)
    data: InteractionData = instantiate(plain["data"], _convert_="all")
    model: Recommender = instantiate(plain["model"], _convert_="all")(data.corpus)
    model.evaluation = instantiate(plain["evaluation"], _convert_="all")
    model.optimizer = instantiate(plain["optimizer"], _convert_="all")
    _give_schedule(model, plain["router_schedule"])
    check_rankable(data.corpus, model.evaluation)
    return data, model


def check_trainable(model: Recommender, plain: Mapping[str, Any]) -> None:
    """Refuse what no epoch can be trained with.

    Raises:
        ConfigError: says which setting.
    """
    trainer = plain["trainer"]
    for name in ("max_epochs", "check_val_every_n_epoch", "limit_train_batches"):
        # Without end, max_epochs is -1; Lightning checks what is below that itself.
        if trainer.get(name) == 0:
            raise ConfigError(f"trainer.{name}=0: nothing would be chosen; expected 1 or more")
    stopping = plain["callbacks"].get("early_stopping") or {}
    if (stopping.get("patience") or 0) < 0:
        raise ConfigError(
            f"callbacks.early_stopping.patience={stopping['patience']}: expected 0 or more; "
            "~callbacks.early_stopping trains all epochs"
        )
    try:
        model.optimizer(model.parameters())
    except ValueError as error:
        raise ConfigError(f"optimizer: {error}") from None


def _give_schedule(model: Recommender, node: dict[str, Any]) -> None:
    """Let a routed model have the schedule of its router; without one, none of its terms count."""
    from mmrec.models import RoutedRecommender
    from mmrec.schedules import Constant

    if isinstance(model, RoutedRecommender):
        schedule = instantiate(node, _convert_="all") if node else Constant(top_k=None)
        model.route_by(schedule)
    elif node:
        raise ConfigError(
            f"router_schedule: {type(model).__name__} has no router; leave the setting out"
        )


def quiet_lightning() -> None:
    """What Lightning tells at INFO the commands say themselves."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build_trainer(
    plain: dict[str, Any], folder: Path, *more: Callback
) -> tuple[Trainer, Timing, Checkpoints]:
    """A Lightning trainer with what every run has: seeds, timings, and whole checkpoints."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import ProgressBar

    from mmrec.bars import in_terminal
    from mmrec.callbacks import AtomicCheckpointIO, Checkpoints, EpochSeed, EpochTable, Timing
    from mmrec.progress import Progress
    from mmrec.tracking import Guarded

    quiet_lightning()
    # These warnings are about Lightning's own code, and about metrics that are summed over
    # processes before they are logged.
    for message in (r"`isinstance\(treespec, LeafSpec\)` is deprecated", r".*sync_dist=True"):
        warnings.filterwarnings("ignore", message)

    leave_memory_unfilled()

    timing, checkpoints = Timing(), Checkpoints(folder, plain["monitor"])
    kept = [] if plain["trainer"]["fast_dev_run"] else [checkpoints]
    asked = {name: node for name, node in plain["callbacks"].items() if node and TARGET in node}
    watchers = instantiate(asked, _convert_="all").values()
    shown = plain["trainer"]["enable_progress_bar"]
    others = any(isinstance(watcher, ProgressBar) for watcher in watchers)  # bars of the user's own
    progress = Progress(plain["monitor"], bar=shown and not others and in_terminal())
    loggers = [
        logger if isinstance(logger, EpochTable) else Guarded(logger)
        for logger in instantiate(plain["logger"], _convert_="all").values()
    ]
    try:
        trainer: Trainer = instantiate(
            {**plain["trainer"], **_validated(plain["trainer"])},
            enable_progress_bar=shown and others,
            _convert_="all",
            callbacks=[EpochSeed(plain["seed"]), timing, *watchers, *more, progress, *kept],
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=str(folder),
        )
    except InstantiationException as error:
        if not isinstance(error.__cause__, MisconfigurationException):
            raise
        wanted = plain["trainer"]["accelerator"]
        raise ConfigError(
            f"trainer: {error.__cause__} (accelerator={wanted}); trainer=auto takes what there is"
        ) from None
    return trainer, timing, checkpoints


def _validated(trainer: Mapping[str, Any]) -> dict[str, int]:
    """How often a run is validated: once, where it is shorter than the time between two."""
    every, epochs = trainer["check_val_every_n_epoch"], trainer["max_epochs"]
    if every is None or epochs is None or not 0 < epochs < every:
        return {}
    log.info(
        "validated after the last epoch only: trainer.check_val_every_n_epoch=%d, and "
        "trainer.max_epochs=%d",
        every,
        epochs,
    )
    return {"check_val_every_n_epoch": epochs}


def warn_of_early_peaks(plain: Mapping[str, Any]) -> None:
    """Say that a run on cold items may end before it has begun to learn."""
    data, every = plain["data"], plain["trainer"]["check_val_every_n_epoch"]
    epochs = plain["trainer"]["max_epochs"]
    stopping = plain["callbacks"].get("early_stopping") or {}
    patience: Any = stopping.get("patience") if TARGET in stopping else None
    if data.get("split") != "item_cold" or None in (every, patience) or every * patience >= EARLY:
        return
    if epochs is not None and 0 <= epochs <= every * (patience + 1):  # it never stops a run
        return
    log.warning(
        "data.split=item_cold: few items decide a validation, and %d epochs without a better one "
        "may end a run at an early peak; trainer.check_val_every_n_epoch=10 "
        "callbacks.early_stopping.patience=20, as the data sets with _cold have them, wait 200",
        every * patience,
    )


def checkpoint_to_continue(ckpt: str | None, folder: Path) -> Path | None:
    """The checkpoint that `ckpt` means.

    Raises:
        ConfigError: there is none.
    """
    if ckpt is None:
        return None
    path = folder / LAST if ckpt == "last" else Path(ckpt)
    if not path.is_file():
        way = "give the path of a last.ckpt, or ckpt=last and the run_dir of the run to continue"
        if ckpt == "last" and (folder / CONFIG).is_file():
            way = "the run was stopped before its first one; delete the folder to begin again"
        raise ConfigError(f"ckpt={ckpt}: there is no {path}; {way}")
    return path


def check_continuable(checkpoint: Path, model: Recommender, plain: dict[str, Any]) -> None:
    """Refuse a checkpoint that this run cannot go on from, before it overwrites anything."""
    from mmrec.callbacks import AtomicCheckpointIO
    from mmrec.data import DataError

    content = AtomicCheckpointIO().load_checkpoint(checkpoint, weights_only=True)
    try:
        model.on_load_checkpoint(content)
    except DataError as error:
        way = to_continue(checkpoint.parent.parent)
        raise DataError(f"{error}; what goes on with it is {way}") from None
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
