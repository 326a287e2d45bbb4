"""Compare runs: `python -m mmrec.report runs='outputs/**' output=report`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from mmrec.commands.app import answer, launch
from mmrec.config.bars import steps
from mmrec.config.errors import SettingError
from mmrec.config.paths import expand
from mmrec.config.schema import conf_dir, nearest
from mmrec.config.text import one_line

if TYPE_CHECKING:
    from mmrec.report.collect import Run
    from mmrec.report.page import Section

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command with the arguments of the process."""
    launch(_main, "report")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="report")
def _main(config: DictConfig) -> None:
    answer(config, "mmrec.commands.report.report", report)


def report(
    *,
    runs: str | list[str] = "outputs",
    output: str = "report",
    metric: str = "recall@20",
    metrics: Sequence[str] = ("recall@10", "recall@20", "ndcg@10", "ndcg@20"),
    baseline: str | None = None,
    by: Sequence[str] = (),
    resamples: int = 10_000,
    storages: Sequence[str] = (),
    title: str = "Runs",
) -> Path:
    """Compare the runs below some folders in tables, figures and an HTML page.

    Args:
        runs: folders, or patterns such as `outputs/**`.
        output: folder for `index.html`, `tables/` and `figures/`.
        metric: metric that compares the methods, without split, for example `recall@20`.
        metrics: columns of the results table.
        baseline: model that the others are compared with; None: the best model on validation.
        by: settings such as `model.loss`; a model gets one row per value.
        resamples: number of resamples of intervals and tests.
        storages: `sweep.storage` URLs of searches that are not stored next to their runs.
        title: title of the page.

    Returns:
        Path of the page.

    Raises:
        SettingError: invalid configuration, or no completed run was found.
        ResultError: the table of metrics per user of a run is unreadable.
    """
    from mmrec.report import charts
    from mmrec.report.collect import by_protocol, collect
    from mmrec.report.comparison import Options, comparison
    from mmrec.report.page import left_out, write_page
    from mmrec.report.searches import search
    from mmrec.report.studies import studies

    if resamples < 1:
        raise SettingError(setting="resamples", value=resamples, expected="1 or more")
    found = collect(runs)
    _check_metrics(found.runs, metric, metrics)
    known = {run.result["model"] for run in found.runs}
    if baseline is not None and baseline not in known:
        raise SettingError(
            setting="baseline",
            value=baseline,
            problem=f"no run has this model{nearest(baseline, known)}",
        )
    settings = {name for run in found.runs for name in run.settings}
    for name in by:
        if name not in settings:
            raise SettingError(
                setting="by",
                value=name,
                problem=f"no run has this setting{nearest(name, settings)}",
            )
    options = Options(metric=metric, metrics=metrics, baseline=baseline, by=by, resamples=resamples)
    protocols = by_protocol(found.runs)
    warnings = list(_apart(protocols))
    for warning in warnings:
        log.warning("%s", warning)

    with charts.style():
        sections: list[Section] = []
        for protocol, some in steps(protocols.items(), "comparing runs", "protocol"):
            sections += comparison(protocol, some, options, found.left_out)
        sections += [search(study) for study in studies(runs, storages, found.left_out)]
        if found.left_out:
            sections.append(left_out(found.left_out))
        summary = (
            f"Completed runs: {len(found.runs)}; models: {len(known)}; protocols: "
            f"{len(protocols)}; folders left out: {len(found.left_out)}."
        )
        written = write_page(expand(output), title, summary, warnings, sections)
    log.info("%s", summary)
    for path, reason in found.left_out.items():
        log.info("left out: %s: %s", path, reason)
    log.info("report: %s", written)
    return written


def _check_metrics(runs: Sequence[Run], metric: str, metrics: Sequence[str]) -> None:
    tested = {name.removeprefix("test/") for run in runs for name in run.metrics}
    plain = {name for name in tested if name.count("/") == 0}
    for key, name in (("metric", metric), *(("metrics", name) for name in metrics)):
        if name not in plain:
            raise SettingError(
                setting=key, value=name, problem=f"no run has this metric{nearest(name, plain)}"
            )
    validated = {name.removeprefix("val/") for run in runs for name in run.metrics} & plain
    if metric not in validated:
        raise SettingError(
            setting="metric",
            value=metric,
            problem="no run has it as a validation metric, so it cannot select settings"
            + nearest(metric, validated),
        )


def _apart(protocols: Any) -> Iterator[str]:
    """Yield a warning for each data set whose runs have different protocols."""
    names = [protocol.data for protocol in protocols]
    for data in sorted({name for name in names if names.count(name) > 1}):
        same = [protocol for protocol in protocols if protocol.data == data]
        differ = [
            what
            for what in ("fingerprint", "split", "seen", "candidates", "history")
            if len({getattr(protocol, what) for protocol in same}) > 1
        ]
        listed = "; ".join(
            f"{p.name}: {len(protocols[p])} runs, for example {protocols[p][0].folder}"
            for p in same
        )
        first = [
            {
                **protocols[protocol][0].settings,
                **{
                    f"data.{key} of the data": protocols[protocol][0].result["data_card"].get(key)
                    for key in ("users", "items", "train", "val", "test", "modalities")
                },
            }
            for protocol in same
        ]
        told = "".join(
            f"; {key} is {' or '.join(dict.fromkeys(one_line(s.get(key), 60) for s in first))}"
            for key in sorted({key for settings in first for key in settings})
            if key.startswith("data.") and len({repr(s.get(key)) for s in first}) > 1
        )
        yield (
            f"Runs on {data} differ in {' and '.join(differ)} and are not compared with each "
            f"other: {listed}{told}"
        )
