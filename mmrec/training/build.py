"""Check a composed configuration, and build the data module and the model of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from mmrec.config.errors import SettingError, memory_suffices
from mmrec.config.schema import (
    OPTIONAL,
    ROOT,
    TARGET,
    check_call,
    check_monitor,
    check_value,
    conf_dir,
    nearest,
    unread_search_setting,
)
from mmrec.config.switches import check_switches
from mmrec.config.text import first_line
from mmrec.config.words import refuse_numbers
from mmrec.training.lr_schedule import check_lr_schedule, give_lr_schedule
from mmrec.training.upstream import below_upstream, check_upstream, teacher_config

if TYPE_CHECKING:
    from mmrec.data import Corpus, InteractionData
    from mmrec.evaluation.protocol import Evaluation
    from mmrec.models import Embeddings, Recommender

log = logging.getLogger(__name__)
# Groups whose settings are arguments of a class.
GROUPS = (
    *("model", "data", "optimizer", "trainer", "logger", "callbacks", "evaluation"),
    *("router_schedule", "lr_schedule"),
)
LATER = {
    "model": "its data",
    "optimizer": "its parameters",
    "lr_schedule": "its optimizer",
}
NAMED = ("logger", "callbacks")  # groups that contain several named nodes
SCALARS: dict[str, Any] = {
    "monitor": str,
    "ckpt": str | None,
    "run_dir": str,
}
EARLY = 100  # minimum patience in epochs for cold-start items; less stopped runs far too early


def check_config(config: DictConfig) -> dict[str, Any]:
    """Resolve a configuration and check it before anything is built.

    Raises:
        SettingError: a setting is invalid.
    """
    from mmrec.evaluation import ACCURACY

    for group in ("sweep", "grid"):
        if group in config and "params" in config[group]:
            raise SettingError(setting=group, problem="it requires a multirun", hint="add -m")
        for name in config.get(group) or ():  # added without a search or grid that uses it
            if unread := unread_search_setting(f"{group}.{name}"):
                raise unread
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    refuse_numbers(plain)
    for name in OPTIONAL:  # keeps hashes and files of runs without these settings unchanged
        if plain.get(name) in (None, {}):
            plain.pop(name, None)
    _check_root(plain)
    for group in GROUPS:
        check_call(plain.get(group, {}), group)
    plain["data"].pop("prepare", None)  # the command has read it, and results do not depend on it
    check_switches(plain)
    check_lr_schedule(plain)
    if "upstream" in plain:
        check_upstream(plain)
        if "run" not in plain["upstream"]:
            with below_upstream():
                check_config(OmegaConf.create(teacher_config(plain, Path())))
    evaluation = evaluation_of(plain)
    check_monitor(plain["monitor"], evaluation.cutoffs, ACCURACY)
    needs = needs_history(plain)
    resolved = evaluation.resolved(needs)
    plain["evaluation"] |= {"seen": resolved.seen, "history": resolved.history}
    if not needs and plain["evaluation"]["history"] == "train":
        del plain["evaluation"]["history"]  # unchanged since before sequential models existed
    checked: dict[str, Any] = plain
    return checked


def needs_history(plain: Mapping[str, Any]) -> bool:
    """Return whether the model of a configuration uses histories."""
    return bool(getattr(get_object(plain["model"][TARGET]), "needs_history", False))


def _check_root(plain: Mapping[str, Any]) -> None:
    """Check that all groups are present and have the right type, and that no others are."""
    unknown = set(plain) - {*ROOT, *OPTIONAL}
    if unknown:
        word = min(unknown)
        raise unread_search_setting(word) or SettingError(
            setting=word, problem=f"no such setting{nearest(word, [*ROOT, *OPTIONAL])}"
        )
    for name in ROOT:
        if name not in plain:
            raise SettingError(setting=f"~{name}", problem="a run requires this setting")
    if type(plain["seed"]) is not int or not 0 <= plain["seed"] < 2**32:
        raise SettingError(
            setting="seed", value=plain["seed"], expected="an integer from 0 to 2^32 - 1"
        )
    for name, hint in SCALARS.items():
        check_value(hint, plain[name], name)
    for group in (group for group in GROUPS if group in plain):
        node = plain[group]
        if not isinstance(node, Mapping):
            raise SettingError(
                setting=group, value=node, expected="an option of the group, or a mapping"
            )
        optional = group in NAMED or (group == "router_schedule" and not node)
        if TARGET not in node and not optional:
            raise SettingError(
                setting=group, problem=f"it has no {TARGET}, the dotted name of its class"
            )
        if group in LATER and node.get("_partial_") is not True:
            raise SettingError(
                setting=f"{group}._partial_",
                expected=f"true, because the class is called later with {LATER[group]}",
            )
    for group in NAMED:
        for name, node in plain[group].items():
            # Data sets with cold-start items set a patience, even with callbacks=none.
            patience = isinstance(node, Mapping) and (name, *node) == ("early_stopping", "patience")
            if node is None or node == {} or patience:
                continue
            if not isinstance(node, Mapping) or TARGET not in node:
                raise SettingError(
                    setting=f"{group}.{name}",
                    problem=f"it has no {TARGET}",
                    hint=f"set {TARGET} to its class, or remove it with ~{group}.{name}",
                )


def check_ablation(choices: Mapping[str, Any], target: str | None) -> None:
    """Check that an ablation belongs to the model.

    Raises:
        SettingError: the ablation belongs to another model.
    """
    ablation = choices.get("ablation")
    of = ablation.rpartition("/")[0] if isinstance(ablation, str) else ""
    path = conf_dir() / "model" / f"{of}.yaml"
    if path.is_file() and OmegaConf.select(OmegaConf.load(path), TARGET) != target:
        raise SettingError(
            setting="ablation",
            value=ablation,
            problem=f"it is an ablation of model={of}",
            hint=f"remove model={choices['model']}",
        )


def build(
    plain: dict[str, Any], teacher: Callable[[Corpus], Embeddings | None] | None = None
) -> tuple[InteractionData, Recommender]:
    """Build the data module and the model of a resolved configuration.

    All random generators are seeded first, so the same configuration gives the same model.

    Args:
        plain: resolved configuration.
        teacher: function that returns the embeddings of the teacher, or None without a teacher.

    Raises:
        SettingError: there is not enough memory.
    """
    from lightning import seed_everything

    from mmrec.evaluation.protocol import check_rankable

    seed_everything(plain["seed"], verbose=False)
    with memory_suffices(SettingError):
        data: InteractionData = instantiate(plain["data"], _convert_="all")
        data.ordered = needs_history(plain)
        given = None if teacher is None else teacher(data.corpus)
        model: Recommender = instantiate(plain["model"], _convert_="all")(
            data.corpus.train_view, **({} if given is None else {"teacher": given})
        )
    model.evaluation = evaluation_of(plain)
    model.optimizer = instantiate(plain["optimizer"], _convert_="all")
    model.seed = plain["seed"]
    _give_schedule(model, plain["router_schedule"])
    give_lr_schedule(model, plain)
    check_rankable(data.corpus, model.evaluation)
    return data, model


def check_trainable(model: Recommender) -> None:
    """Check that the optimizer and the learning rate schedule of a model can be created.

    Raises:
        SettingError: PyTorch rejects the settings of `optimizer` or `lr_schedule`.
    """
    group = "optimizer"
    try:
        optimizer = model.optimizer(model.parameters())
        if model.lr_schedule is not None:
            group = "lr_schedule"
            model.lr_schedule(optimizer)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise SettingError(setting=group, problem=first_line(error)) from None


def _give_schedule(model: Recommender, node: dict[str, Any]) -> None:
    """Set the router schedule of a routed model; without one, its loss terms have weight 0."""
    from mmrec.models import RoutedRecommender
    from mmrec.nn.schedules import Constant

    if isinstance(model, RoutedRecommender):
        schedule = instantiate(node, _convert_="all") if node else Constant(top_k=None)
        model.route_by(schedule)
    elif node:
        raise SettingError(
            setting="router_schedule",
            problem=f"{type(model).__name__} has no router",
            hint="remove the setting",
        )


def evaluation_of(plain: Mapping[str, Any]) -> Evaluation:
    """Create the evaluation settings of a configuration.

    Raises:
        SettingError: a setting is invalid.
    """
    try:
        evaluation: Evaluation = instantiate(plain["evaluation"], _convert_="all")
    except InstantiationException as error:
        if not isinstance(error.__cause__, SettingError):
            raise
        raise error.__cause__.below("evaluation") from error
    return evaluation


def warn_of_early_peaks(plain: Mapping[str, Any]) -> None:
    """Warn that early stopping may end a run on cold-start items too early."""
    data, every = plain["data"], plain["trainer"].get("check_val_every_n_epoch", 1)
    epochs = plain["trainer"]["max_epochs"]
    stopping = plain["callbacks"].get("early_stopping") or {}
    patience: Any = stopping.get("patience") if TARGET in stopping else None
    if data.get("split") != "item_cold" or patience is None or every * patience >= EARLY:
        return
    if 0 <= epochs <= every * (patience + 1):  # early stopping never takes effect
        return
    log.warning(
        "data.split=item_cold: validation metrics of few items are noisy, and early stopping after "
        "%d epochs may end the run at an early peak; the data sets with _cold wait for 200 epochs "
        "(trainer.check_val_every_n_epoch=10 callbacks.early_stopping.patience=20)",
        every * patience,
    )
