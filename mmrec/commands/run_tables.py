"""Write the tables and figures of a run after its test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmrec.config.paths import replace_file
from mmrec.training.results import EPOCHS, PER_USER

if TYPE_CHECKING:
    import polars as pl

    from mmrec.data import InteractionData
    from mmrec.models import Recommender


def write_tables(
    folder: Path, model: Recommender, data: InteractionData, *, writes: bool
) -> dict[str, dict[str, float]]:
    """Write the test metrics of each user, and the channel weights of each item.

    Args:
        folder: run folder.
        model: model after its test.
        data: data of the test.
        writes: whether this process writes files; the others only send the metrics of their users.

    Returns:
        A dict with the role `recovery` for planted data and models with weights, otherwise empty.
    """
    import torch

    from mmrec.data import PlantedData
    from mmrec.evaluation.recovery import role_recovery, rounded
    from mmrec.models import ContentRecommender, RoutedRecommender
    from mmrec.models.routed import weighs_pairs

    per_user = _of_all_processes(model.test_ranking.per_user())
    if not writes:
        return {}
    with replace_file(folder / PER_USER) as part:
        per_user.write_parquet(part)
    with torch.no_grad():
        weights = model.eval().item_weights()  # the trainer restores the training mode
    if not weights:
        return {}
    from mmrec.report.figures import write_item_weights

    write_item_weights(folder, weights, data.corpus, of_pairs=weighs_pairs(model))
    if not isinstance(data, PlantedData):
        return {}
    group = None
    if isinstance(model, RoutedRecommender):
        group = rounded(model.item_gates()).argmax(1)
    recovery = role_recovery(data.corpus, data.truth, weights, group)
    cold = data.corpus.cold
    if cold is not None and isinstance(
        model, ContentRecommender
    ):  # other models are at chance level on cold items
        of_cold = role_recovery(data.corpus, data.truth, weights, group, items=cold > 0)
        recovery |= {_cold(name): value for name, value in of_cold.items()}
    return {"recovery": recovery} if recovery else {}


def _cold(name: str) -> str:
    """Name a metric of cold items: `auc` -> `cold/auc`, `chance/auc` -> `chance/cold/auc`."""
    chance = "chance/"
    return (
        f"{chance}cold/{name.removeprefix(chance)}" if name.startswith(chance) else f"cold/{name}"
    )


def draw_learning_curve(folder: Path, monitor: str) -> None:
    """Draw the learning curve, if the run logged metrics per epoch.

    Args:
        folder: run folder.
        monitor: metric that selects the best epoch.
    """
    if not (folder / EPOCHS).exists():
        return
    from mmrec.report.figures import learning_curve

    learning_curve(folder / EPOCHS, monitor, folder / "learning_curve.png")


def _of_all_processes(frame: pl.DataFrame) -> pl.DataFrame:
    """Gather the rows of all processes, sorted by user."""
    import polars as pl
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return frame
    frames = [frame] * distributed.get_world_size()
    distributed.all_gather_object(frames, frame)
    return pl.concat(frames).sort("user")
