"""Summary of a run at its start: data, model, settings and folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn

from mmrec.data import Corpus
from mmrec.data.corpus import TEST, VAL
from mmrec.data.corruption import CATEGORIES
from mmrec.evaluation.protocol import candidates
from mmrec.models import Recommender, RoutedRecommender

log = logging.getLogger(__name__)


def introduce(
    model: Recommender, corpus: Corpus, plain: Mapping[str, Any], folder: Path, trainer: Trainer
) -> None:
    """Log the summary of a run, and information about its router and its cold-start items.

    Args:
        model: model before training.
        corpus: data with all splits.
        plain: resolved configuration.
        folder: folder of the run.
        trainer: trainer of the run.
    """
    log.info("%s", card(model, corpus, plain, folder, trainer))
    if isinstance(model, RoutedRecommender):
        log.info("experts: %s", ", ".join(model.experts))
        if not plain["router_schedule"]:
            log.info("router_schedule=none: all experts are used, and the router has no loss terms")
    if corpus.cold is not None:
        _introduce_cold_items(model, corpus)


def card(
    model: Recommender, corpus: Corpus, plain: Mapping[str, Any], folder: Path, trainer: Trainer
) -> str:
    """Format the summary of a run as aligned rows.

    Args:
        model: model before training.
        corpus: data with all splits.
        plain: resolved configuration.
        folder: folder of the run.
        trainer: trainer of the run.
    """
    name = type(model).__module__.rpartition(".")[2]
    parts = {"train": corpus.train, "validation": corpus.val, "test": corpus.test}
    if corpus.warm is not None:
        parts["test of warm items"] = corpus.warm
    trained = sum(p.numel() for p in model.parameters())
    solved = " (closed form, not trained)" if model.closed_form else ""
    rows = [
        ("data", f"{corpus.name}, split {corpus.split}, fingerprint {corpus.fingerprint[:8]}"),
        ("users", f"{corpus.n_users:,}"),
        ("items", f"{corpus.n_items:,}"),
        ("interactions", ", ".join(f"{len(part):,} {name}" for name, part in parts.items())),
        *_content(corpus, plain["data"].get("corrupt") or {}, plain["data"].get("corrupt_how")),
        ("model", f"{name}, {type(model).__module__}.{type(model).__qualname__}"),
        ("parameters", f"{trained:,}{solved}"),
        ("buffers", f"{buffer_values(model):,} values (not trained)"),
        ("selection", _selection(model, plain["monitor"], trainer)),
        ("evaluation", _protocol(model, corpus)),
        ("seed", f"{plain['seed']}"),
        ("device", _device(trainer)),
        ("run folder", f"{folder}"),
    ]
    width = max(len(label) for label, _ in rows) + 2
    return "\n".join(f"{label:<{width}}{value}" for label, value in rows)


def _content(
    corpus: Corpus, corrupt: Mapping[str, float], how: str | None
) -> list[tuple[str, str]]:
    if not corpus.modalities:
        return [("modalities", "none")]
    by = "rows of other items" if how == "shuffle" else "noise"
    rows = []
    for place, (name, modality) in enumerate(corpus.modalities.items()):
        text = f"{name}: {modality.width} features, {_share(modality.present)} of items"
        if share := corrupt.get(name):
            text += f", {100 * share:g} % of these replaced by {by}"
        rows.append(("" if place else "modalities", text))
    if (share := corrupt.get(CATEGORIES)) and CATEGORIES not in corpus.modalities:
        rows.append(
            ("categories", f"{100 * share:g} % of labelled items have those of other items")
        )
    return rows


def _share(present: Tensor) -> str:
    """Format the share of items that have a modality, rounded down; 100 % only if all have it."""
    count, total = int(present.sum()), len(present)
    share = math.floor(1000 * count / total) / 10
    return "100 %" if count == total else f"{share:.1f} %"


def _selection(model: Recommender, monitor: str, trainer: Trainer) -> str:
    if model.closed_form:
        return f"none, because the model is not trained; {monitor} is reported"
    parts = [f"best {monitor}"]
    every = trainer.check_val_every_n_epoch
    if every is not None and every > 1:
        parts.append(f"validation every {every} epochs")
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        parts.append(f"at most {trainer.max_epochs:,} epoch{'s' * (trainer.max_epochs > 1)}")
    stopping = trainer.early_stopping_callback
    if stopping is not None:
        parts.append(f"early stopping after {stopping.patience} validations without improvement")
    return ", ".join(parts)


def _protocol(model: Recommender, corpus: Corpus) -> str:
    evaluation = model.evaluation
    ranked = {
        "all": "all items are ranked",
        "cold": "the cold-start items are ranked",
        "split": "the cold-start items of the split are ranked",
    }[evaluation.candidates_in(corpus)]
    without = {
        "none": "",
        "train": ", except the user's training items",
        "train+val": ", except the user's training items and, at test, validation items",
    }[str(evaluation.seen)]
    parts = [ranked + without, f"cutoffs {', '.join(map(str, evaluation.cutoffs))}"]
    if model.needs_history:
        known = {"train": "train", "train+val": "train and validation"}[str(evaluation.history)]
        parts.append(f"test histories from {known}")
    return ", ".join(parts)


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if trainer.world_size == 1 else f"{name}, {trainer.world_size} processes"


def buffer_values(model: nn.Module) -> int:
    """Count the values in a model's buffers; for sparse buffers, the non-zero ones."""
    return sum(
        buffer.numel() if buffer.layout is torch.strided else buffer._nnz()
        for buffer in model.buffers()
    )


def _introduce_cold_items(model: Recommender, corpus: Corpus) -> None:
    evaluation = model.evaluation
    assert corpus.cold is not None
    k = 20 if 20 in evaluation.cutoffs else evaluation.cutoffs[-1]
    ranked = int(candidates(corpus, "test", evaluation).sum())
    log.info(
        "cold-start items: %d for validation, %d for test; a random ranking of the %d test "
        "candidates has recall@%d %.3f",
        int((corpus.cold == VAL).sum()),
        int((corpus.cold == TEST).sum()),
        ranked,
        k,
        k / ranked,
    )
    if not model.reads_content:
        log.warning(
            "%s does not use item content and ranks cold-start items at random; mamex, "
            "content_bpr, dropoutnet and clcrec are designed for cold-start items, and item_knn, "
            "vbpr and magnet can rank them",
            type(model).__module__.rpartition(".")[2],
        )
