"""What a report says of runs that can be compared, and the page that shows it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmrec.bars import steps
from mmrec.paths import replace_file
from mmrec.report import charts, significance
from mmrec.report.ablations import described, differences
from mmrec.report.collect import Method, Protocol, Run, chosen, methods
from mmrec.report.tables import FORMATS, Table, Value, html, marked, over_seeds
from mmrec.text import file_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

LEVEL = 0.05
SHOWN = 50  # trials of a search, at most
HISTORY = {
    "train": "",
    "train+val": "; sequential models read the user's train and validation items at test, other "
    "models know train only",
}
SEEN = {
    "train": "their items of train are left out",
    "train+val": "their items of train and validation are left out",
    "all": "all that the data have of them is left out, test included",
    "none": "nothing is left out",
}

RANKED = {
    "all": "the whole catalogue",
    "cold": "cold items only",
    "split": "the cold items of the split only",
}


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page.

    Attributes:
        title: for people.
        slug: of its files.
        text: what has to be known about it.
        tables: of it.
        figures: by name.
        details: longer texts by name, folded away.
        rendered: the figures' files, by suffix; made when they are asked for.
    """

    title: str
    slug: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    @cached_property
    def rendered(self) -> dict[str, dict[str, bytes]]:
        return {name: charts.rendered(figure) for name, figure in self.figures.items()}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a report looks at.

    Attributes:
        metric: that methods are compared by, without its split.
        metrics: columns of the results.
        baseline: model that the others are compared with; None: the one that validation likes best.
        by: settings that make variants of a model.
        resamples: of intervals and tests.
    """

    metric: str
    metrics: Sequence[str]
    baseline: str | None
    by: Sequence[str]
    resamples: int


def comparison(
    protocol: Protocol, runs: Sequence[Run], options: Options, left_out: dict[Path, str]
) -> list[Section]:
    """Results, significance, groups, costs and ablations of one protocol.

    Args:
        protocol: that the runs share.
        runs: completed ones.
        options: of the report.
        left_out: takes the runs whose table of users cannot be read, and why.
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
            "%s: no run was validated by %s; it is shown with metric=%s",
            protocol.name,
            options.metric,
            runs[0].result["monitor"].removeprefix("val/"),
        )
        return []
    if not whole:  # features that an ablation has spoiled are data of their own
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


def search(study: Study) -> Section:
    """What a search has tried."""
    from mmrec.sweep.study import IDENTITY
    from mmrec.sweep.summary import outcome, ranked

    trials = study.get_trials(deepcopy=False)
    outcomes = [outcome(trial) for trial in trials]
    counts = {what: outcomes.count(what) for what in dict.fromkeys(outcomes)}
    objectives = study.user_attrs.get(IDENTITY, {}).get("sweep.objective", ["value"])
    best = ranked(study)
    places = {trial.number: place for place, trial in enumerate(best)}
    ordered = sorted(trials, key=lambda t: (places.get(t.number, len(places)), t.number))
    names = sorted({name for trial in trials for name in trial.params})
    rows = [
        [f"{t.number}", outcome(t), *_values(t, len(objectives)), *_settings_of(t, names)]
        for t in ordered[:SHOWN]
    ]
    order = "Best first." if len(objectives) == 1 else "Those on the Pareto front first."
    more = f" Of {len(trials)}, the first {SHOWN}." if len(trials) > SHOWN else ""
    slug = file_name(f"search-{study.study_name}")
    return Section(
        f"Search {study.study_name}",
        slug,
        ", ".join(f"{count} {what}" for what, count in counts.items()),
        [
            Table(
                f"{slug}-trials",
                "Trials",
                ["trial", "", *objectives, *names],
                rows,
                [f"{order}{more} Validation and costs only."],
            )
        ],
        dict(charts.searches(study, objectives)),
    )


def _values(trial: FrozenTrial, count: int) -> list[str]:
    values = trial.values or []
    return [f"{value:.4f}" for value in values] or ["–"] * count


def _settings_of(trial: FrozenTrial, names: Sequence[str]) -> list[str]:
    found = [trial.params.get(name, "–") for name in names]
    return [f"{value:.3g}" if isinstance(value, float) else str(value) for value in found]


def left_out(reasons: Mapping[Path, str]) -> Section:
    """What could not be compared, and why."""
    rows = [[str(folder), reason] for folder, reason in reasons.items()]
    return Section(
        "Left out",
        "left-out",
        tables=[Table("left-out", "Not in the tables", ["folder", "why"], rows)],
    )


def write_page(
    folder: Path, title: str, summary: str, warnings: Sequence[str], sections: Sequence[Section]
) -> Path:
    """Write `index.html`, and each table and figure as files of its own.

    Returns:
        The page.
    """
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for section in steps(sections, "writing the report", "section"):
        for table in section.tables:
            for suffix, write in FORMATS.items():
                _write(folder / "tables" / f"{table.name}.{suffix}", write(table).encode())
        for name, by_suffix in section.rendered.items():
            for suffix, content in by_suffix.items():
                _write(folder / "figures" / f"{section.slug}-{name}.{suffix}", content)
    _write(folder / "index.html", page(title, summary, warnings, sections).encode())
    return folder / "index.html"


def _write(path: Path, content: bytes) -> None:
    with replace_file(path) as part:
        part.write_bytes(content)


def page(title: str, summary: str, warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """One HTML file that needs no other."""
    from jinja2 import Environment, StrictUndefined

    source = files("mmrec.report").joinpath("page.html.j2").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    shown = [
        {
            "title": section.title,
            "text": section.text,
            "tables": section.tables,
            "figures": {
                name: charts.for_a_page(by_suffix["svg"])
                for name, by_suffix in section.rendered.items()
            },
            "details": section.details,
        }
        for section in sections
    ]
    return environment.from_string(source).render(
        title=title, summary=summary, warnings=warnings, sections=shown, html=html
    )


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
                "%s was tested on other users than %s: their difference is not tested",
                method.name,
                reference.name,
            )
    monitor = f"val/{options.metric}"
    figures = {
        "curves": charts.learning_curves(whole, monitor),
        "popularity": charts.by_group(
            whole, options.metric, charts.POPULARITY, "By popularity of the item"
        ),
        "activity": charts.by_group(
            whole, options.metric, charts.ACTIVITY, "By activity of the user"
        ),
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
            _cost_table(slug, whole),
        ],
        {name: figure for name, figure in figures.items() if figure is not None},
        {f"Settings of {m.name}": _settings(m) for m in whole},
    )


def _reference(whole: Sequence[Method], baseline: str | None) -> Method:
    """The one that was asked for, if it is there; else the first, which validation likes best."""
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
        "Mean ± standard deviation over seeds. Of the settings that were tried, the ones with the "
        "most seeds, and among these the best on validation; test values choose nothing."
    ]
    if compared:
        notes[0] += " Bold: the best; the second best in italics or underlined."
        notes.append(
            f"† differs, up or down, from {reference.name} by {options.metric} of users, "
            f"p < {LEVEL} after Holm's correction."
        )
    return Table(
        f"{slug}-results",
        "Results on test",
        ["model", "seeds", "tried", f"val {options.metric}", *columns],
        marked(rows, range(4, 4 + len(columns))),
        notes,
    )


def _warm_table(slug: str, whole: Sequence[Method], options: Options) -> list[Table]:
    """What ranking cold items costs warm ones, where both are held out."""
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
            f"Test {options.metric} among cold, warm and all items",
            ["model", *parts.values()],
            marked(rows, range(1, 1 + len(parts))),
            [
                "cold: as above; warm: what is held out of warm items, one of users with 3 to 9 "
                "and a tenth beyond, among warm items; all: both, among all items."
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
            "Over users, each the mean of its seeds: bootstrap interval, and permutation test with "
            "Holm's correction. Over seeds: permutation test; three can give no p below 0.25."
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
            ("items, those with most train interactions first", "users, likewise"),
            strict=True,
        )
        if share
    ]
    return Table(
        f"{slug}-groups",
        f"Test {options.metric} by popularity of items and activity of users",
        ["model", *groups],
        marked(rows, range(1, 1 + len(groups))),
        [f"{'; '.join(notes)}. A group of items: only its items count."] if notes else [],
    )


def _numbers(shares: object) -> list[float]:
    """Shares as the configuration of a run has them; none if it has something else there."""
    known = isinstance(shares, list) and all(isinstance(x, int | float) for x in shares)
    return shares if isinstance(shares, list) and known else []


def _percents(shares: Sequence[float]) -> list[str]:
    return [f"{100 * share:.0f} %" for share in (*shares, 1 - sum(shares))]


def _cost_table(slug: str, whole: Sequence[Method]) -> Table:
    rows: list[list[str | Value]] = [
        [
            m.name,
            f"{m.runs[0].result['parameters']:,}",
            over_seeds(_seconds(m, "train_epoch"), 2),
            over_seeds([float(run.result["epochs"]) for run in m.runs], 0),
            over_seeds(_seconds(m, "fit"), 1),
            over_seeds(_seconds(m, "test"), 2),
            over_seeds([run.result["peak_rss_mib"] for run in m.runs], 0),
            over_seeds([g for run in m.runs if (g := run.result["peak_gpu_mib"])], 0),
        ]
        for m in whole
    ]
    head = ["model", "parameters", "epoch, s", "epochs", "training, s", "test, s", "memory, MiB"]
    if any(isinstance(row[-1], Value) for row in rows):
        head.append("GPU, MiB")
    return Table(
        f"{slug}-costs",
        "Costs",
        head,
        [row[: len(head)] for row in rows],
        ["As each run has measured it, on the machine and beside the load that it had."],
    )


def _ablations(
    protocol: Protocol,
    slug: str,
    base: Method,
    ablations: Sequence[Method],
    others: Sequence[Method],
    options: Options,
) -> Section:
    """Ablations in which nothing else differs, and a list of the others with what does."""
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
                f"{base.name} as it is, and with one change each; test",
                ["ablation", "seeds", *columns, "change", "95 % interval", "p, users"],
                marked(rows, range(2, 2 + len(columns))),
                [
                    f"Change of {options.metric} in percent of the first line, paired by user, "
                    "each the mean of its seeds: bootstrap interval, as in the figure, and "
                    "permutation test with Holm's correction."
                ],
            )
        )
    if apart:
        tables.append(
            Table(
                f"{name}-not-comparable",
                f"Runs with an ablation that also differ from {base.name} in other settings",
                ["ablation", "seeds", "other differences"],
                apart,
                ["Train them with the settings of the model to compare them."],
            )
        )
    figures = {}
    if ablations:
        figures["ablations"] = charts.ablation(base, ablations, compared, options.metric)
    return Section(
        f"{base.name} on {protocol.name}: ablations", name, tables=tables, figures=figures
    )


def _seconds(method: Method, what: Literal["train_epoch", "fit", "test"]) -> list[float]:
    found: list[Any] = [run.result["seconds"][what] for run in method.runs]
    return [value for value in found if value is not None]


def _p(value: float) -> str:
    return f"{value:.4f}"


def _settings(method: Method) -> str:
    return "\n".join(f"{key}: {value}" for key, value in sorted(method.settings.items()))
