"""Recompute the metrics of a run: `python -m mmrec.evaluate run=outputs/...`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import hydra
from omegaconf import DictConfig

from mmrec.commands.app import answer, launch, output_file
from mmrec.config.errors import SettingError, memory_suffices
from mmrec.config.paths import replace_file
from mmrec.config.schema import conf_dir
from mmrec.config.startup import import_torchmetrics
from mmrec.training.results import locate_run

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command with the arguments of the process."""
    launch(_main, "evaluate")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="evaluate")
def _main(config: DictConfig) -> None:
    answer(config, "mmrec.commands.evaluate.evaluate", evaluate)


def evaluate(
    *,
    run: str | Path,
    split: Literal["val", "test"] = "test",
    cutoffs: Sequence[int] | None = None,
    seen: Literal["train", "train+val", "none"] | None = None,
    candidates: Literal["all", "cold", "split"] | None = None,
    history: Literal["train", "train+val"] | None = None,
    eval_batch_size: int | None = None,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    output: str | None = None,
    per_user: str | None = None,
    data_root: str | None = None,
    trust: str | Sequence[str] = (),
) -> dict[str, Any]:
    """Recompute the metrics of a run from a checkpoint, and compare them with its `result.json`.

    Args:
        run: run folder, its `result.json`, or one of its checkpoints.
        split: split to evaluate.
        cutoffs: list lengths of the metrics; None: as in the run.
        seen: masked items, `train`, `train+val` or `none`; None: as in the run.
        candidates: ranked items: `all`, all `cold` items, or the cold items of the `split`; None:
            as in the run.
        history: parts that form the sequences of test queries, `train` or `train+val`; None: as in
            the run.
        eval_batch_size: number of users ranked at a time; None: as in the run.
        accelerator: device to compute on.
        output: `.json` file for the returned report; None: not written.
        per_user: `.parquet` file for the metrics of each test user; None: not written.
        data_root: folder of data sets; None: the folder that the run used if it exists, else
            `MMREC_DATA`.
        trust: modules outside mmrec that the run may import; each must be named only once.

    Returns:
        A report with the checkpoint, the data card, the `metrics`, and the `differences`: each
        metric that is not exactly equal to `result.json`, as a pair (recorded, recomputed).
        `differences` is None if the settings or the checkpoint differ from those of the result.

    Raises:
        SettingError: invalid configuration.
        ResultError: the run folder is incomplete.
        DataError: the data differ from those of the run.
    """
    json_file = output_file("output", output, [".json"]) if output else None
    users_file = output_file("per_user", per_user, [".parquet"]) if per_user else None
    if users_file and split != "test":
        raise SettingError(
            setting="per_user",
            value=per_user,
            problem="metrics per user are only available for the test split",
            hint="use split=test",
        )
    if eval_batch_size is not None and eval_batch_size < 1:
        raise SettingError(setting="eval_batch_size", value=eval_batch_size, expected="1 or more")
    if history is not None and split == "val":
        raise SettingError(
            setting="history",
            value=history,
            problem="histories at validation always consist of training items",
            hint="omit it, or use split=test",
        )
    locate_run(run)  # before importing torch, which takes seconds
    import_torchmetrics()

    from mmrec.evaluation import Rankings
    from mmrec.training.open_run import open_run, scored

    opened = open_run(run, trust=trust, data_root=data_root)
    asked: dict[str, Any] = {
        "cutoffs": cutoffs,
        "seen": seen,
        "candidates": candidates,
        "history": history,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    evaluation = replace(opened.model.evaluation, **asked)
    ranking = Rankings(opened.corpus, split, evaluation)
    block = eval_batch_size or opened.data.eval_batch_size
    known = "train" if split == "val" else evaluation.history
    queries = opened.queries(ranking.users, min(block, opened.corpus.n_users), known)
    what = "ranking this many users at a time needs"
    with memory_suffices(
        SettingError, setting="eval_batch_size", value=block, what=what, lower="it"
    ):
        for users, scores in scored(opened, queries, accelerator=accelerator):
            ranking.to(users.device).update(users, scores)
        metrics = {name: float(value) for name, value in ranking.compute().items()}

    before, now = (
        replace(x, candidates=x.candidates_in(opened.corpus))
        for x in (opened.model.evaluation, evaluation)
    )
    same = replace(before, cutoffs=now.cutoffs) == now and opened.at_best
    noted = {k: v for k, v in opened.result["metrics"].items() if k.startswith(split)}
    compared = metrics
    if (
        before.cutoffs != now.cutoffs
    ):  # compare common cutoffs; diversity depends on the largest one
        both = [name for name in noted if name in metrics and "diversity" not in name]
        noted, compared = ({name: x[name] for name in both} for x in (noted, metrics))
    with opened.checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    report = {
        "run": str(opened.folder),
        "checkpoint": opened.checkpoint.name,
        "checkpoint_sha256": digest,
        "model": opened.result["model"],
        "data_card": {**opened.corpus.card(), **evaluation.card(opened.corpus)},
        "split": split,
        "cutoffs": list(evaluation.cutoffs),
        "metrics": metrics,
        "differences": _differences(noted, compared) if same and noted else None,
    }
    _say(report, noted)
    if users_file:
        with replace_file(users_file) as part:
            ranking.per_user().write_parquet(part)
    if json_file:
        with replace_file(json_file) as part:
            part.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    return report


def _differences(
    noted: Mapping[str, float], found: Mapping[str, float]
) -> dict[str, tuple[float | None, float | None]]:
    """Return the metrics that are not exactly equal, as pairs (recorded, recomputed)."""
    pairs = {name: (noted.get(name), found.get(name)) for name in [*noted, *found]}
    return {name: (before, now) for name, (before, now) in pairs.items() if before != now}


def _say(report: Mapping[str, Any], noted: Mapping[str, float]) -> None:
    """Log a table of the metrics, beside those of `result.json`."""
    differences = report["differences"]
    compared = {} if differences is None else noted
    shown = [
        name
        for name in report["metrics"]
        if name.split("/")[1].partition("@")[0] in ("recall", "ndcg") or name in (differences or {})
    ]
    head = f"{'':<28}{'now':>10}" + (f"{'result.json':>13}" if compared else "")
    rows = [
        f"{name:<28}{report['metrics'][name]:>10.6f}"
        + (f"{compared[name]:>13.6f}" if name in compared else "")
        for name in shown
    ]
    log.info("\n%s", "\n".join([head, *rows]))
    if differences is None:
        log.info("not compared with result.json, which has other settings or another checkpoint")
    elif differences:
        log.warning(
            "%d of %d metrics differ from result.json; another device, library version or batch "
            "size may change the last digits, but nothing else",
            len(differences),
            len(noted),
        )
    else:
        log.info("all %d metrics are equal to result.json", len(noted))
