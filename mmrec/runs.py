"""Open what a run left behind: its configuration, its data, and its model with the best weights.

The folder may come from somebody else. Nothing in it is executed: the checkpoint holds tensors and
plain types, and the configuration may only name models, data modules and their parts.
"""

from __future__ import annotations

import inspect
import logging
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from torch import Tensor
from torch.optim import Optimizer

from mmrec.bars import steps
from mmrec.build import build, quiet_lightning
from mmrec.config import TARGET, ConfigError, check_call
from mmrec.data import Corpus, DataError, InteractionData, Modality, Queries
from mmrec.models import NoNewItems, Recommender
from mmrec.nn import fused_ranking
from mmrec.protocol import Evaluation
from mmrec.results import BEST, CONFIG, ResultError, locate_run, read_result
from mmrec.schedules import RouterSchedule

log = logging.getLogger(__name__)
KINDS = {
    "model": Recommender,
    "data": InteractionData,
    "optimizer": Optimizer,
    "evaluation": Evaluation,
    "router_schedule": RouterSchedule,
}
PARTS = ("mmrec.data.", "mmrec.schedules.")  # what models and data modules are given


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run, ready to score.

    Attributes:
        folder: of the run.
        checkpoint: where the weights come from.
        config: as resolved when it ran.
        result: the content of `result.json`.
        data: the data module.
        model: in evaluation mode, with the checkpoint's weights.
    """

    folder: Path
    checkpoint: Path
    config: dict[str, Any]
    result: dict[str, Any]
    data: InteractionData
    model: Recommender

    @property
    def corpus(self) -> Corpus:
        """What it was trained on."""
        return self.data.corpus

    @property
    def at_best(self) -> bool:
        """Whether these are the weights that `result` is about."""
        return self.checkpoint == self.folder / BEST


def open_run(path: str | Path) -> OpenRun:
    """Rebuild a run's data and model, and load its weights.

    Args:
        path: the run's folder or its `result.json`, for the best weights; or a checkpoint in it.

    Raises:
        ResultError: a file is missing or broken, or the configuration names what it may not.
        DataError: the data are not those that the run has seen.
    """
    folder, checkpoint = locate_run(path)
    config = _read_config(folder / CONFIG)
    result = read_result(folder)
    if not checkpoint.is_file():
        raise ResultError(
            f"{checkpoint}: there is no such checkpoint; the run ended before its first validation "
            "or the file was removed: run it again"
        )
    checked = {name: config[name] for name in (*KINDS, "seed")}
    data, model = build({**checked, "model": {**config["model"], **_unfused(config["model"])}})
    _check_data(folder, result["data_card"], data.corpus)
    _load(model, checkpoint)
    return OpenRun(folder, checkpoint, config, result, data, model.eval())


def _unfused(model: Mapping[str, Any]) -> dict[str, bool]:
    """Many passes in place of a compiled one, for a run from a machine that could compile it."""
    if not model.get("fused"):
        return {}
    try:
        fused_ranking()
    except ValueError as error:
        log.warning("ranked without model.fused: %s", str(error).partition(";")[0])
        return {"fused": False}
    return {}


@torch.no_grad()
def scored(
    run: OpenRun,
    queries: Iterable[Queries],
    *,
    accelerator: str,
    items: Mapping[str, Modality] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Score the catalogue for blocks of users, as a run does when it ranks.

    Args:
        run: what scores.
        queries: blocks of users.
        accelerator: `auto`, `cpu` or `gpu`.
        items: new ones, which stand in the catalogue's place.

    Yields:
        Users [B] and their scores [B, I], on the accelerator.

    Raises:
        ConfigError: there is no such accelerator here, or the model knows its own items only.
        DataError: the new items' content is not what the model has learned from.
    """
    precision = run.config["trainer"]["precision"]
    quiet_lightning()
    try:
        fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
    except (MisconfigurationException, RuntimeError) as error:
        raise ConfigError(f"accelerator={accelerator}: {error}") from None
    model = run.model.to(fabric.device)
    encoded = model.encode()  # outside autocast, where Lightning has it
    if items is not None:
        new = _new_items(model, items)
        encoded = encoded._replace(items=new)
    for block in steps(queries, "ranking users", "block"):
        users = block.user.to(fabric.device)
        with fabric.autocast():
            scores = model.score(encoded, Queries(users))
        yield users, scores


def _new_items(model: Recommender, items: Mapping[str, Modality], block: int = 8192) -> Tensor:
    """What content says of items: [N, D]."""
    found, count = [], len(next(iter(items.values())).features)
    for first in range(0, count, block):
        rows = slice(first, first + block)
        features = {name: m.features[rows] for name, m in items.items()}
        try:
            present = {name: m.present[rows] for name, m in items.items()}
            found.append(model.encode_items(features, present))
        except NoNewItems as error:
            raise ConfigError(f"items: {error}") from None
    return torch.cat(found)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:  # those of YAML share no base
        reason = " ".join(str(error).split())
        raise ResultError(f"{path} cannot be read ({reason}); run it again") from None
    groups = (*KINDS, "trainer", "seed")
    missing = [name for name in groups if not isinstance(config, dict) or name not in config]
    if missing:
        raise ResultError(f"{path} has no {', '.join(missing)}; is it the config.yaml of a run?")
    assert isinstance(config, dict)
    plain = {str(name): value for name, value in config.items()}
    for group, kind in KINDS.items():
        if group == "router_schedule" and not plain[group]:
            continue  # most models have no router
        _check_trust(path, group, plain[group], kind)
        check_call(plain[group], group)
    return plain


def _check_trust(path: Path, group: str, node: object, kind: type) -> None:
    """Refuse a configuration that would do anything but build a model, its data and its parts.

    A class of your own has to be imported to be recognised. So a module that you have installed may
    be imported, but nothing is called that is no such class.

    Raises:
        ResultError: names the setting.
    """
    if not isinstance(node, Mapping) or TARGET not in node:
        raise ResultError(f"{path}: {group} has no {TARGET}; it must name a {kind.__name__}")
    for place, value in _below(node, group):
        if isinstance(value, str) and "${" in value:  # it would be evaluated
            raise ResultError(f"{path}: {place} is {value}; a run's configuration is resolved")
        if not place.endswith(f".{TARGET}"):
            continue
        top = place == f"{group}.{TARGET}"
        expected = f"a {kind.__name__} class" if top else f"something in {' or '.join(PARTS)}"
        refusal = ResultError(f"{path}: {place} is {value}, which is not {expected}; it is not run")
        if not isinstance(value, str) or value.partition(".")[0] in sys.stdlib_module_names:
            raise refusal
        if not top and not value.startswith(PARTS):
            raise refusal
        try:
            target = get_object(value)
        except (ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ResultError(
                f"{path}: {place} is {value}, which cannot be imported ({reason}); install it, "
                "or add its folder to PYTHONPATH"
            ) from None
        # The module counts in which it is defined: mmrec.data.files.hashlib is not of mmrec.data.
        own = f"{getattr(target, '__module__', '')}.".startswith(PARTS)
        if not (inspect.isclass(target) and issubclass(target, kind) if top else own):
            raise refusal


def _below(node: object, place: str) -> Iterator[tuple[str, object]]:
    """Everything in a node, with its path."""
    yield place, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _below(value, f"{place}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _below(value, f"{place}[{index}]")


def _check_data(folder: Path, card: Mapping[str, Any], corpus: Corpus) -> None:
    if card["fingerprint"] != corpus.fingerprint:
        raise DataError(
            f"{folder}: the run has seen {card['name']} with fingerprint {card['fingerprint']}, "
            f"found now {corpus.name} with {corpus.fingerprint}; the files have changed, or "
            "MMREC_DATA points elsewhere: point it to the run's data, or run it again on these"
        )


def _load(model: Recommender, path: Path) -> None:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ResultError(
            f"{path} is cut short, or no checkpoint of this {type(model).__name__} ({reason}); "
            "copy it again, or run it again"
        ) from error
