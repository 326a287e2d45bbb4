"""From a composed configuration to what a run needs, or to an error that names the setting."""

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
# Groups whose settings are arguments.
GROUPS = (
    *("model", "data", "optimizer", "trainer", "logger", "callbacks", "evaluation"),
    *("router_schedule", "lr_schedule"),
)
LATER = {
    "model": "its data",
    "optimizer": "its parameters",
    "lr_schedule": "its optimizer",
}
NAMED = ("logger", "callbacks")  # groups of several nodes, each with a name of its own
SCALARS: dict[str, Any] = {
    "monitor": str,
    "ckpt": str | None,
    "run_dir": str,
}
EARLY = 100  # epochs of patience: with less, cold items ended runs at a third of what they came to


def check_config(config: DictConfig) -> dict[str, Any]:
    """Resolve a configuration, and refuse what cannot be right, before anything is built.

    Raises:
        SettingError: says which setting, what it is, and what it may be.
    """
    from mmrec.evaluation import ACCURACY

    for group in ("sweep", "grid"):
        if group in config and "params" in config[group]:
            raise SettingError(setting=group, problem="it needs a multirun", hint="add -m")
        for name in config.get(group) or ():  # added, without a search or grid that reads it
            if unread := unread_search_setting(f"{group}.{name}"):
                raise unread
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    refuse_numbers(plain)
    for name in OPTIONAL:  # hashes and files of runs without them stay as they were
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
        del plain["evaluation"]["history"]  # as it was before models of sequences existed
    checked: dict[str, Any] = plain
    return checked


def needs_history(plain: Mapping[str, Any]) -> bool:
    """Whether the model of a configuration reads histories."""
    return bool(getattr(get_object(plain["model"][TARGET]), "needs_history", False))


def _check_root(plain: Mapping[str, Any]) -> None:
    """Refuse a configuration without one of its groups, or with something else in its place."""
    unknown = set(plain) - {*ROOT, *OPTIONAL}
    if unknown:
        word = min(unknown)
        raise unread_search_setting(word) or SettingError(
            setting=word, problem=f"no such setting{nearest(word, [*ROOT, *OPTIONAL])}"
        )
    for name in ROOT:
        if name not in plain:
            raise SettingError(setting=f"~{name}", problem="a run needs this setting")
    if type(plain["seed"]) is not int or not 0 <= plain["seed"] < 2**32:
        raise SettingError(
            setting="seed", value=plain["seed"], expected="a whole number from 0 to 2^32 - 1"
        )
    for name, hint in SCALARS.items():
        check_value(hint, plain[name], name)
    for group in (group for group in GROUPS if group in plain):
        node = plain[group]
        if not isinstance(node, Mapping):
            raise SettingError(
                setting=group, value=node, expected="a choice of the group, or settings below it"
            )
        optional = group in NAMED or (group == "router_schedule" and not node)
        if TARGET not in node and not optional:
            raise SettingError(
                setting=group, problem=f"it has no {TARGET}, the name of what makes it"
            )
        if group in LATER and node.get("_partial_") is not True:
            raise SettingError(
                setting=f"{group}._partial_",
                expected=f"true, as it is called later, with {LATER[group]}",
            )
    for group in NAMED:
        for name, node in plain[group].items():
            # Data with cold items set a patience, also for callbacks=none.
            patience = isinstance(node, Mapping) and (name, *node) == ("early_stopping", "patience")
            if node is None or node == {} or patience:
                continue
            if not isinstance(node, Mapping) or TARGET not in node:
                raise SettingError(
                    setting=f"{group}.{name}",
                    problem=f"it has no {TARGET}",
                    hint=f"name its class, or leave it out with ~{group}.{name}",
                )


def check_ablation(choices: Mapping[str, Any], target: str | None) -> None:
    """Refuse a model's ablation with another model: it would be settings that are not there."""
    ablation = choices.get("ablation")
    of = ablation.rpartition("/")[0] if isinstance(ablation, str) else ""
    path = conf_dir() / "model" / f"{of}.yaml"
    if path.is_file() and OmegaConf.select(OmegaConf.load(path), TARGET) != target:
        raise SettingError(
            setting="ablation",
            value=ablation,
            problem=f"it is one of model={of}",
            hint=f"leave out model={choices['model']}",
        )


def build(
    plain: dict[str, Any], teacher: Callable[[Corpus], Embeddings | None] | None = None
) -> tuple[InteractionData, Recommender]:
    """Build the data module and the model of a resolved configuration.

    Seeds everything first, so the same configuration gives the same model.

    Args:
        plain: the resolved configuration.
        teacher: returns the embeddings that the model takes from another one; None, or if it
            returns None: the model is built without.

    Raises:
        SettingError: memory does not suffice for them.
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
    """Refuse an optimizer or a learning-rate schedule that cannot be built for the model.

    Raises:
        SettingError: names the group of settings.
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
    """Let a routed model have the schedule of its router; without one, none of its terms count."""
    from mmrec.models import RoutedRecommender
    from mmrec.nn.schedules import Constant

    if isinstance(model, RoutedRecommender):
        schedule = instantiate(node, _convert_="all") if node else Constant(top_k=None)
        model.route_by(schedule)
    elif node:
        raise SettingError(
            setting="router_schedule",
            problem=f"{type(model).__name__} has no router",
            hint="leave the setting out",
        )


def evaluation_of(plain: Mapping[str, Any]) -> Evaluation:
    """The evaluation of the configuration.

    Raises:
        SettingError: a setting is out of range.
    """
    try:
        evaluation: Evaluation = instantiate(plain["evaluation"], _convert_="all")
    except InstantiationException as error:
        if not isinstance(error.__cause__, SettingError):
            raise
        raise error.__cause__.below("evaluation") from error
    return evaluation


def warn_of_early_peaks(plain: Mapping[str, Any]) -> None:
    """Say that a run on cold items may end before it has begun to learn."""
    data, every = plain["data"], plain["trainer"].get("check_val_every_n_epoch", 1)
    epochs = plain["trainer"]["max_epochs"]
    stopping = plain["callbacks"].get("early_stopping") or {}
    patience: Any = stopping.get("patience") if TARGET in stopping else None
    if data.get("split") != "item_cold" or patience is None or every * patience >= EARLY:
        return
    if 0 <= epochs <= every * (patience + 1):  # it never stops a run
        return
    log.warning(
        "data.split=item_cold: few items decide a validation, and %d epochs without a better one "
        "may end a run at an early peak; trainer.check_val_every_n_epoch=10 "
        "callbacks.early_stopping.patience=20, as the data sets with _cold have them, wait 200",
        every * patience,
    )
