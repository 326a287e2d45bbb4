"""Sections that compare the runs of one protocol: results, significance, costs and ablations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmrec.report import charts, significance
from mmrec.report.ablations import described, differences
from mmrec.report.collect import Method, Protocol, Run, chosen, methods
from mmrec.report.costs import cost_table, was_cut
from mmrec.report.page import SEEN, Section
from mmrec.report.tables import Table, Value, marked, over_seeds

log = logging.getLogger(__name__)

LEVEL = 0.05
HISTORY = {
    "train": "",
    "train+val": ". At test, sequential models read the training and validation items of a user; "
    "other models only use training items",
}
RANKED = {
    "all": "the whole catalogue",
    "cold": "cold items only",
    "split": "the cold items of each split only",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a report.

    Attributes:
        metric: metric that compares the methods, for example `recall@20`.
        metrics: columns of the results table.
        baseline: model that the others are compared with; None: the best model on validation.
        by: settings that distinguish variants of a model.
        resamples: number of resamples for intervals and tests.
    """

    metric: str
    metrics: Sequence[str]
    baseline: str | None
    by: Sequence[str]
    resamples: int


def comparison(
    protocol: Protocol, runs: Sequence[Run], options: Options, left_out: dict[Path, str]
) -> list[Section]:
    """Compare runs of one protocol: results, significance, groups, costs and ablations.

    Args:
        protocol: protocol of the runs.
        runs: completed runs.
        options: options of the report.
        left_out: receives the runs whose metrics per user are unreadable, with reasons.
    """
    tried = methods(runs, options.by)
    everything = chosen(tried, options.metric)
    if broken := significance.unreadable(everything, options.metric):
        left_out.update(broken)
        runs = [run for run in runs if run.folder not in broken]
        return comparison(protocol, runs, options, left_out) if runs else []
    whole = [m for m in everything if m.ablation is None]
    whole.sort(key=lambda m: m.mean(f"val/{options.metric}"), reverse=True)
    sections = []
    slug = protocol.slug
    if not everything:
        log.warning(
            "%s: no run has the validation metric %s; use metric=%s to include these runs",
            protocol.name,
            options.metric,
            runs[0].result["monitor"].removeprefix("val/"),
        )
        return []
    if not whole:  # corrupted features have a fingerprint, and so a protocol, of their own
        everything.sort(key=lambda m: m.mean(f"val/{options.metric}"), reverse=True)
    sections.append(_results(protocol, slug, runs, whole or everything, options))
    for base in whole:
        kind = (base.model, base.variant)
        of_base = [m for m in tried if (m.model, m.variant) == kind and m.ablation is not None]
        alike = [m for m in of_base if not differences(base, m)]
        found = chosen(alike, options.metric)
        names = {m.name for m in found}
        others = chosen([m for m in of_base if m.name not in names], options.metric)
        if found or others:
            sections.append(_ablations(protocol, slug, base, found, others, options))
    return sections


def _results(
    protocol: Protocol, slug: str, runs: Sequence[Run], whole: Sequence[Method], options: Options
) -> Section:
    card = runs[0].result["data_card"]
    sizes = ", ".join(f"{card[k]:,} {k}" for k in ("users", "items", "train", "val", "test"))
    reference = _reference(whole, options.baseline)
    others = [method for method in whole if method is not reference]
    compared = significance.against(reference, others, options.metric, resamples=options.resamples)
    for method in others:
        if method.name not in compared:
            log.warning(
                "%s and %s have different test users; the significance test is skipped",
                method.name,
                reference.name,
            )
    monitor = f"val/{options.metric}"
    figures = {
        "curves": charts.learning_curves(whole, monitor),
        "popularity": charts.by_group(
            whole, options.metric, charts.POPULARITY, "By item popularity"
        ),
        "activity": charts.by_group(whole, options.metric, charts.ACTIVITY, "By user activity"),
        "time": charts.quality_and_cost(whole, options.metric, "fit"),
        "memory": charts.quality_and_cost(whole, options.metric, "peak_rss_mib"),
    }
    return Section(
        protocol.name,
        slug,
        f"{sizes}. Split {protocol.split}. Users rank {RANKED[protocol.candidates]}; "
        f"{SEEN[protocol.seen]}{HISTORY[protocol.history]}. "
        f"Commits {', '.join(sorted({str(r.result['git_commit'])[:12] for r in runs}))}.",
        [
            _result_table(slug, whole, compared, reference, options),
            *([_significance_table(slug, reference, compared, options)] if compared else []),
            *_warm_table(slug, whole, options),
            _group_table(slug, whole, options),
            cost_table(slug, whole),
        ],
        {name: figure for name, figure in figures.items() if figure is not None},
        {f"Settings of {m.name}": _settings(m) for m in whole},
    )


def _reference(whole: Sequence[Method], baseline: str | None) -> Method:
    """Return the baseline if given, otherwise the first method, which is best on validation."""
    return next((method for method in whole if method.model == baseline), whole[0])


def _result_table(
    slug: str,
    whole: Sequence[Method],
    compared: Mapping[str, significance.Comparison],
    reference: Method,
    options: Options,
) -> Table:
    columns = list(dict.fromkeys([options.metric, *options.metrics]))
    rows: list[list[str | Value]] = []
    for method in whole:
        name = method.name
        if name in compared and compared[name].p_users < LEVEL:
            name += " †"
        values = [over_seeds(method.values(f"test/{column}")) for column in columns]
        validation = over_seeds(method.values(f"val/{options.metric}"))
        rows.append([name, f"{len(method.runs)}", f"{method.tried}", validation, *values])
    notes = [
        "Mean ± standard deviation over seeds. Settings are selected on validation among those "
        "with the most seeds; test values are never used for selection."
    ]
    if compared:
        notes[0] += " The best value is bold, the second best italic or underlined."
        notes.append(
            f"†: {options.metric} per user differs from {reference.name} in either direction, "
            f"p < {LEVEL} after Holm's correction."
        )
    if cut := [m.name for m in whole if any(map(was_cut, m.runs))]:
        notes.append(
            f"Stopped at trainer.max_epochs before early stopping: {', '.join(cut)}. More epochs "
            "might change the result."
        )
    return Table(
        f"{slug}-results",
        "Results on test",
        ["model", "seeds", "tried", f"val {options.metric}", *columns],
        marked(rows, range(4, 4 + len(columns))),
        notes,
    )


def _warm_table(slug: str, whole: Sequence[Method], options: Options) -> list[Table]:
    """Tabulate test metrics on cold, warm and all items, if warm items are held out too."""
    parts = {"test": "cold", "test_warm": "warm", "test_all": "all"}
    shown = [m for m in whole if m.values(f"test_all/{options.metric}")]
    if not shown:
        return []
    rows: list[list[str | Value]] = [
        [m.name, *(over_seeds(m.values(f"{part}/{options.metric}")) for part in parts)]
        for m in shown
    ]
    return [
        Table(
            f"{slug}-warm",
            f"Test {options.metric} on cold, warm and all items",
            ["model", *parts.values()],
            marked(rows, range(1, 1 + len(parts))),
            [
                "cold: as above. warm: held-out interactions with warm items (1 for users with 3 "
                "to 9 interactions, a tenth for users with more), ranked among warm items. all: "
                "both, ranked among all items."
            ],
        )
    ]


def _significance_table(
    slug: str,
    reference: Method,
    compared: Mapping[str, significance.Comparison],
    options: Options,
) -> Table:
    base = reference.mean(f"test/{options.metric}")
    rows = [
        [
            name,
            f"{c.difference:+.4f}",
            f"{100 * c.difference / base:+.1f} %" if base else "–",
            f"{c.low:+.4f} to {c.high:+.4f}",
            _p(c.p_users),
            "–" if c.p_seeds is None else _p(c.p_seeds),
        ]
        for name, c in compared.items()
    ]
    return Table(
        f"{slug}-significance",
        f"Difference from {reference.name}, test {options.metric}",
        ["model", "difference", "relative", "95 % interval", "p, users", "p, seeds"],
        rows,
        [
            "Users: metric per user, averaged over seeds; bootstrap interval, and permutation test "
            "with Holm's correction. Seeds: permutation test; with three seeds, the smallest "
            "possible p is 0.25."
        ],
    )


def _group_table(slug: str, whole: Sequence[Method], options: Options) -> Table:
    groups = (*charts.POPULARITY, *charts.ACTIVITY)
    rows = [
        [m.name, *(over_seeds(m.values(f"test/{g}/{options.metric}")) for g in groups)]
        for m in whole
    ]
    settings = whole[0].settings
    shares = [_numbers(settings.get(f"evaluation.{side}_groups")) for side in ("item", "user")]
    notes = [
        f"{', '.join(names)}: {', '.join(_percents(share))} of the {what}"
        for names, share, what in zip(
            (charts.POPULARITY, charts.ACTIVITY),
            shares,
            ("items", "users"),
            strict=True,
        )
        if share
    ]
    return Table(
        f"{slug}-groups",
        f"Test {options.metric} by item popularity and user activity",
        ["model", *groups],
        marked(rows, range(1, 1 + len(groups))),
        [
            f"{'; '.join(notes)}, ordered by number of training interactions. In groups of items, "
            "only hits on items of the group count."
        ]
        if notes
        else [],
    )


def _numbers(shares: object) -> list[float]:
    """Return shares from the configuration of a run; an empty list if they are not numbers."""
    known = isinstance(shares, list) and all(isinstance(x, int | float) for x in shares)
    return shares if isinstance(shares, list) and known else []


def _percents(shares: Sequence[float]) -> list[str]:
    return [f"{100 * share:.0f} %" for share in (*shares, 1 - sum(shares))]


def _ablations(
    protocol: Protocol,
    slug: str,
    base: Method,
    ablations: Sequence[Method],
    others: Sequence[Method],
    options: Options,
) -> Section:
    """Compare ablations with their model; list ablations with other differences separately."""
    compared = significance.against(base, ablations, options.metric, resamples=options.resamples)
    apart = [[m.ablation or "", str(len(m.runs)), described(differences(base, m))] for m in others]
    apart += [
        [m.ablation or "", str(len(m.runs)), "test users"]
        for m in ablations
        if m.name not in compared
    ]
    ablations = [m for m in ablations if m.name in compared]
    columns = list(dict.fromkeys([options.metric, *options.metrics]))
    name = f"{slug}-{base.slug}-ablations"
    whole = base.mean(f"test/{options.metric}")
    ordered = sorted(ablations, key=lambda m: -m.mean(f"test/{options.metric}"))
    rows: list[list[str | Value]] = []
    for method in (base, *ordered):
        change, between, p = "", "", ""
        if method is not base:
            one = compared[method.name]
            change = between = "–"
            if whole:
                low, mean, high = (100 * x / whole for x in (one.low, one.difference, one.high))
                change, between = f"{mean:+.1f} %", f"{low:+.1f} to {high:+.1f}"
            p = _p(one.p_users)
        values = [over_seeds(method.values(f"test/{column}")) for column in columns]
        rows.append(
            [method.ablation or base.name, f"{len(method.runs)}", *values, change, between, p]
        )
    tables = []
    if ablations:
        tables.append(
            Table(
                name,
                f"{base.name}, unchanged and with one change each; test",
                ["ablation", "seeds", *columns, "change", "95 % interval", "p, users"],
                marked(rows, range(2, 2 + len(columns))),
                [
                    f"Change of {options.metric} in percent of the first row. Values per user are "
                    "averaged over seeds and paired: bootstrap interval, as in the figure, and "
                    "permutation test with Holm's correction."
                ],
            )
        )
    if apart:
        tables.append(
            Table(
                f"{name}-not-comparable",
                f"Ablation runs that differ from {base.name} in other settings too",
                ["ablation", "seeds", "other differences"],
                apart,
                ["To compare these ablations, train them with the settings of the model."],
            )
        )
    figures = {}
    if ablations:
        figures["ablations"] = charts.ablation(base, ablations, compared, options.metric)
    return Section(
        f"{base.name} on {protocol.name}: ablations", name, tables=tables, figures=figures
    )


def _p(value: float) -> str:
    return f"{value:.4f}"


def _settings(method: Method) -> str:
    return "\n".join(f"{key}: {value}" for key, value in sorted(method.settings.items()))
