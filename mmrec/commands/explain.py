"""Show the gates and the router of a run: `python -m mmrec.explain run=outputs/...`."""

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
SHOWN = 5  # number of users shown by default


def main() -> None:
    """Run the command with the arguments of the process."""
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
    """Write a page, tables and figures about the gate weights of a run.

    The page shows:

    - for a router, the load of its experts per epoch, with the start of the second stage;
    - the mean weight of each channel over training pairs, by item popularity, category and user
      activity;
    - mean weights of cold items, and gates of experts by category;
    - recommendations of some users with the weights of each item, and their latest training items;
    - for a sequential model, the weights along the sequences of some users.

    Args:
        run: run folder, its `result.json`, or one of its checkpoints.
        users: one user id, several ids, or a table of users, as for `recommend`; None: some users
            of each activity level.
        k: length of the lists; shorter if there are fewer candidates.
        seen: masked items, as for `recommend`.
        accelerator: device to compute on.
        output: output folder; None: `explain` in the run folder (`explain-last` for `last.ckpt`).
        data_root: folder of data sets; None: the folder that the run used if it exists, else
            `MMREC_DATA`.
        title: column of titles in `items.csv`; None: `data.columns.title` of the run.
        trust: modules outside mmrec that the run may import; each must be named only once.

    Returns:
        Path of the page.

    Raises:
        SettingError: invalid configuration, or the model has no gates to show.
        ResultError: the run folder is incomplete.
        DataError: the data differ from those of the run.
    """
    if k < 1:
        raise SettingError(setting="k", value=k, expected="1 or more")
    if output and expand(output).is_file():
        raise SettingError(
            setting="output", value=output, problem="it is a file", hint="give a folder"
        )
    check_files(users=users)
    locate_run(run)  # before importing torch, which takes seconds
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
        SettingError, setting="run", value=run, what="computing the weights needs", lower=lower
    )
    with torch.no_grad(), charts.style(), memory:
        weights = sequences.weights_in_train(opened)
        channels = list(weights.channels)
        known = gates.weighed(opened.model)
        if not (channels or known.measures or isinstance(opened.model, RoutedRecommender)):
            raise SettingError(
                setting="run",
                value=run,
                problem=f"{type(opened.model).__name__} has no gate, attention or router",
                hint="give a run of cammsr, egra, gated_lightgcn, gume, hm4sr, magnet, mamex, "
                "mgcn, smore or unisrec",
            )
        name = "explain" if opened.at_best else f"explain-{opened.checkpoint.stem}"
        folder = expand(output) if output else opened.folder / name
        if not output and (link := outward_link(opened.folder, below=folder)):
            raise ResultError(
                f"{link}: symbolic link that leads out of the run folder, not followed; remove it, "
                "or set output= to another folder"
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
            f"{type(opened.model).__name__} on {card['name']}, split {card['split']}, seed "
            f"{opened.result['seed']}. Checkpoint: {opened.checkpoint}."
        )
        tables = {gates.ITEMS: gates.every_item(opened, known)}
        if channels and weights.in_sequences:
            tables[sequences.USERS] = sequences.every_user(opened.corpus, weights)
        for file, table in tables.items():
            with replace_file(folder / file) as part:
                spreadsheet_frame(table.lazy()).collect().write_csv(part)
        page = write_page(folder, "Gate weights", summary, [], sections)
    log.info("page: %s", page)
    return page


def _chosen(users: Asked | None, data: InteractionData) -> Tensor:
    """Return the indices of the requested users, or of some users of each activity level."""
    import torch

    if users is None:
        order = data.corpus.user_counts().argsort(descending=True, stable=True)
        return order[torch.linspace(0, len(order) - 1, min(SHOWN, len(order))).long()]
    return select("users", users, user_names(data))
