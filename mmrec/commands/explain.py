"""What a run's gates and router have learned: `python -m mmrec.explain run=outputs/...`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import hydra
from omegaconf import DictConfig

from mmrec.commands.app import answer, launch
from mmrec.config.errors import SettingError, memory_suffices
from mmrec.config.literals import Masked
from mmrec.config.paths import expand, outward_link, replace_file
from mmrec.config.schema import conf_dir
from mmrec.config.startup import import_torchmetrics
from mmrec.config.text import spreadsheet_frame
from mmrec.training.names import Asked, check_files, select, user_names
from mmrec.training.results import ResultError, locate_run

if TYPE_CHECKING:
    from torch import Tensor

    from mmrec.data import InteractionData

log = logging.getLogger(__name__)
SHOWN = 5  # users whose lists are shown where none are asked for


def main() -> None:
    """The command."""
    launch(_main, "explain")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="explain")
def _main(config: DictConfig) -> None:
    answer(config, "mmrec.commands.explain.explain", explain)


def explain(
    *,
    run: str | Path,
    users: str | Path | int | Sequence[str | int] | None = None,
    k: int = 10,
    seen: Masked = "train+val",
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    output: str | None = None,
    data_root: str | None = None,
    title: str | None = None,
    trust: str | Sequence[str] = (),
) -> Path:
    """Write a page, tables and figures about what carries a run's scores.

    Of a router: the load of its experts over epochs, with the trigger marked. Of any gate: the mean
    weight of each channel by item popularity, by category and by user activity, over the pairs of
    train; over items, that of cold ones, and of experts by category. Of some users: their best
    items and what carried each of them, beside their latest train items. Of a model of sequences,
    weights are those at each item that it reads; also by user, and along the sequences of some.

    Args:
        run: its folder, its `result.json`, or one of its checkpoints.
        users: one id, several, or a table of them, as for `recommend`; None: some of each activity.
        k: length of the lists; they are shorter where there are fewer candidates.
        seen: items that are masked, as for `recommend`.
        accelerator: what to rank on.
        output: a folder; None: `explain` in the run's, or `explain-last` of its last checkpoint.
        data_root: the folder of data sets; None: the run's own if it is there, else `MMREC_DATA`.
        title: the column of titles in `items.csv`; None: the run's `data.columns.title`.
        trust: modules outside mmrec that the run may import; needed once for each.

    Returns:
        The page.

    Raises:
        SettingError: invalid configuration, or the model has no weights to show.
        ResultError: the run folder is incomplete.
        DataError: the data are not those of the run.
    """
    if k < 1:
        raise SettingError(setting="k", value=k, expected="1 or more")
    if output and expand(output).is_file():
        raise SettingError(
            setting="output", value=output, problem="it is a file", hint="give a folder"
        )
    check_files(users=users)
    locate_run(run)  # before torch is loaded, which takes seconds
    import_torchmetrics()

    import torch

    from mmrec.models import RoutedRecommender
    from mmrec.report import charts, gates, sequences
    from mmrec.report.page import write_page
    from mmrec.training.open_run import open_run

    opened = open_run(run, trust=trust, data_root=data_root, title=title)
    k = min(k, opened.corpus.n_items)
    chosen = _chosen(users, opened.data)
    lower = f"k={k}, or the number of users={len(chosen)}"
    memory = memory_suffices(
        SettingError, setting="run", value=run, what="explaining needs", lower=lower
    )
    with torch.no_grad(), charts.style(), memory:
        weights = sequences.weights_in_train(opened)
        channels = list(weights.channels)
        known = gates.weighed(opened.model)
        if not (channels or known.measures or isinstance(opened.model, RoutedRecommender)):
            raise SettingError(
                setting="run",
                value=run,
                problem=f"{type(opened.model).__name__} weighs no channels against each other",
                hint="explain a run of a model with a gate, attention or a router (cammsr, egra, "
                "gated_lightgcn, gume, hm4sr, magnet, mamex, mgcn, smore, unisrec)",
            )
        name = "explain" if opened.at_best else f"explain-{opened.checkpoint.stem}"
        folder = expand(output) if output else opened.folder / name
        if not output and (link := outward_link(opened.folder, below=folder)):
            raise ResultError(
                f"{link}: a link that leads out of the run folder is not followed; remove it, or "
                "set output= to another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        sections = [
            *gates.over_epochs(opened, channels),
            *([gates.train_weights(opened, weights)] if channels else []),
            *gates.of_items(opened, known, channels),
            *gates.measured(opened, known.measures),
            *(gates.known_roles(opened.result) if opened.at_best else []),
            *sequences.along_sequences(opened, chosen),
            gates.of_users(opened, chosen, k, seen, accelerator),
        ]
        card = opened.result["data_card"]
        summary = (
            f"{type(opened.model).__name__} on {card['name']}, {card['split']}, seed "
            f"{opened.result['seed']}; weights of {opened.checkpoint}."
        )
        tables = {gates.ITEMS: gates.every_item(opened, known)}
        if channels and weights.in_sequences:
            tables[sequences.USERS] = sequences.every_user(opened.corpus, weights)
        for file, table in tables.items():
            with replace_file(folder / file) as part:
                spreadsheet_frame(table.lazy()).collect().write_csv(part)
        page = write_page(folder, "What gates decide", summary, [], sections)
    log.info("explained: %s", page)
    return page


def _chosen(users: Asked | None, data: InteractionData) -> Tensor:
    """Indices of the users who are asked for."""
    import torch

    if users is None:
        order = data.corpus.user_counts().argsort(descending=True, stable=True)
        return order[torch.linspace(0, len(order) - 1, min(SHOWN, len(order))).long()]
    return select("users", users, user_names(data))
