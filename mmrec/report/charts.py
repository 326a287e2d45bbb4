"""Figures of many runs. Each has one pair of axes, so that narrow screens can stack them."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from mmrec.config.text import one_line
from mmrec.report.collect import Method
from mmrec.report.figures import COLOURS, MARKERS
from mmrec.training.results import EPOCHS, read_epochs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from optuna import Study

    from mmrec.report.significance import Comparison

log = logging.getLogger(__name__)
TEXT = "#222222"  # replaced by the text colour of the page
SIZE = (4.8, 3.4)  # inches
POPULARITY, ACTIVITY = ("head", "mid", "tail"), ("active", "regular", "occasional")
COSTS = {"fit": "training time, seconds", "peak_rss_mib": "peak memory, MiB"}


@contextmanager
def style() -> Iterator[None]:
    """Apply the common matplotlib style to all figures of a page."""
    import matplotlib

    look: Any = {
        "text.color": TEXT,
        "axes.edgecolor": TEXT,
        "axes.labelcolor": TEXT,
        "xtick.color": TEXT,
        "ytick.color": TEXT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "font.size": 9,
        "svg.fonttype": "none",
        "text.parse_math": False,  # names may contain $
        "svg.hashsalt": "mmrec",
    }
    with matplotlib.rc_context(look):
        yield


def learning_curves(methods: Sequence[Method], monitor: str) -> Figure | None:
    """Draw the validation metric per epoch, one line per seed; None if no run was trained."""
    figure, axes = new_axes("epoch", monitor, "Learning curves")
    drawn = False
    for method, colour in zip(methods, cycle(COLOURS), strict=False):
        label: str | None = method.name
        for run in method.runs:
            path = run.folder / EPOCHS
            if run.result["best_epoch"] is None or not path.is_file():
                continue
            try:
                numbers = [pl.col(name).cast(pl.Float64) for name in ("epoch", monitor)]
                table = read_epochs(path)
                shown = table.select(numbers).drop_nulls() if monitor in table.columns else None
            except (OSError, pl.exceptions.PolarsError) as error:
                log.warning(
                    "%s: invalid table (%s); its learning curve is not drawn", path, one_line(error)
                )
                continue
            if shown is None:
                continue
            axes.plot(shown["epoch"], shown[monitor], color=colour, linewidth=1, label=label)
            label, drawn = None, True
    if not drawn:
        return None
    add_legend(axes)
    return figure


def by_group(
    methods: Sequence[Method], metric: str, groups: Sequence[str], title: str
) -> Figure | None:
    """Draw a test metric of each group as a cluster of bars; None if no method has the metric."""
    names = [f"test/{group}/{metric}" for group in groups]
    shown = [m for m in methods if all(m.values(name) for name in names)]
    if not shown:
        return None
    figure, axes = new_axes("", metric, title)
    width = 0.8 / len(shown)
    for place, (method, colour) in enumerate(zip(shown, cycle(COLOURS), strict=False)):
        axes.bar(
            np.arange(len(groups)) + (place - (len(shown) - 1) / 2) * width,
            [method.mean(name) for name in names],
            width,
            yerr=[method.deviation(name) for name in names],
            color=colour,
            ecolor=TEXT,
            label=method.name,
        )
    axes.set_xticks(range(len(groups)), groups)
    add_legend(axes)
    return figure


def quality_and_cost(
    methods: Sequence[Method], metric: str, cost: Literal["fit", "peak_rss_mib"]
) -> Figure | None:
    """Draw the test metric against a cost, with the Pareto front as a line.

    Returns:
        The figure; None for fewer than two methods with that cost.
    """
    points = [(m, c, m.mean(f"test/{metric}")) for m in methods if (c := mean_cost(m, cost))]
    if len(points) < 2:
        return None
    figure, axes = new_axes(COSTS[cost], f"test {metric}", f"Quality and {cost_name(cost)}")
    for (method, x, y), colour, marker in zip(points, cycle(COLOURS), cycle(MARKERS), strict=False):
        axes.plot(x, y, marker, color=colour, label=method.name)
    front = [(x, y) for _, x, y in points if not any(a <= x and b > y for _, a, b in points)]
    label = "Pareto front"
    axes.plot(*zip(*sorted(front), strict=True), color=TEXT, linewidth=0.8, zorder=0, label=label)
    axes.set_xscale("log")
    plain(axes.xaxis)
    add_legend(axes)
    return figure


def mean_cost(method: Method, cost: Literal["fit", "peak_rss_mib"]) -> float | None:
    """Return the mean cost over runs; None if it is unknown, for example for closed-form models."""
    found = [
        run.result["seconds"]["fit"] if cost == "fit" else run.result[cost] for run in method.runs
    ]
    known = [value for value in found if value]
    return float(np.mean(known)) if known else None


def cost_name(cost: str) -> str:
    """Return the display name of a cost, `time` or `memory`."""
    return {"fit": "time", "peak_rss_mib": "memory"}[cost]


def ablation(
    base: Method, ablations: Sequence[Method], compared: Mapping[str, Comparison], metric: str
) -> Figure:
    """Draw the change of each ablation in percent of the model's metric, with 95 % intervals."""
    from matplotlib.figure import Figure

    whole = base.mean(f"test/{metric}")
    percent = 100 / whole if whole else 0.0
    rows = sorted(ablations, key=lambda m: compared[m.name].difference)
    figure = Figure(figsize=(SIZE[0], 1.2 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    found = [compared[method.name] for method in rows]
    changes = [percent * one.difference for one in found]
    spread = [
        [percent * (one.difference - one.low) for one in found],
        [percent * (one.high - one.difference) for one in found],
    ]
    colours = [COLOURS[0] if change >= 0 else COLOURS[1] for change in changes]
    axes.barh(range(len(rows)), changes, xerr=spread, color=colours, ecolor=TEXT)
    axes.set_yticks(range(len(rows)), [m.ablation or "" for m in rows])
    axes.axvline(0, color=TEXT, linewidth=0.8)
    axes.set(
        xlabel=f"change of test {metric} in percent, with 95 % interval over users",
        title=f"{base.name}: ablations",
    )
    return figure


def searches(study: Study, objectives: Sequence[str]) -> dict[str, Figure]:
    """Draw the history, parallel coordinates and parameter importances of a study with Optuna.

    For two or three objectives, only the Pareto front is drawn.
    """
    from optuna import visualization
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.trial import TrialState

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not finished or len(study.directions) > 3:
        return {}
    if len(study.directions) > 1:
        names = list(objectives)
        return _drawn(
            {"front": lambda: visualization.matplotlib.plot_pareto_front(study, target_names=names)}
        )
    objective = objectives[0]
    draw: dict[str, Callable[[], Axes]] = {
        "history": lambda: visualization.matplotlib.plot_optimization_history(
            study, target_name=objective
        )
    }
    varied = {
        name for name in finished[0].params if len({str(t.params.get(name)) for t in finished}) > 1
    }
    if varied and len(finished) > 1:
        draw["parallel"] = lambda: visualization.matplotlib.plot_parallel_coordinate(
            study, params=sorted(varied), target_name=objective
        )
    if varied and len(finished) >= 4:
        draw["importance"] = lambda: visualization.matplotlib.plot_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(),
            params=sorted(varied),
            target_name=objective,
        )
    return _drawn(draw)


def _drawn(draw: Mapping[str, Callable[[], Axes]]) -> dict[str, Figure]:
    """Draw Optuna figures, and set their size and style."""
    import warnings

    from matplotlib import pyplot
    from optuna.exceptions import ExperimentalWarning

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for name, make in draw.items():
            figure = make().get_figure(root=True)
            assert figure is not None
            figure.set_size_inches(SIZE[0] * (1.6 if name == "parallel" else 1), SIZE[1])
            pyplot.close(figure)  # pyplot keeps figures alive until they are closed
            _tidy(figure, wide=name == "parallel")
            found[name] = figure
    return found


def _tidy(figure: Figure, *, wide: bool) -> None:
    """Replace Optuna's grey background and colours, which are unreadable on a dark page."""
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.grid(visible=False)
        if wide:
            for lines in axes.collections:
                lines.set(cmap="cool", alpha=0.7, linewidth=1)
            names = [label.get_text().rpartition(".")[2] for label in axes.get_xticklabels()]
            if any(names):
                axes.set_xticks(axes.get_xticks(), names, rotation=0, ha="center")
            for label in axes.get_yticklabels(which="both"):
                label.set_fontsize(7)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                plain(axis)


def rendered(figure: Figure, suffixes: Sequence[str] = ("png", "svg")) -> dict[str, bytes]:
    """A figure for papers, slides and pages, by suffix."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # computed once, not for each file
    found = {}
    for suffix in suffixes:
        file = io.BytesIO()
        figure.savefig(
            file,
            format=suffix,
            dpi=150,
            metadata={"Date": None} if suffix == "svg" else None,
            transparent=suffix == "svg",
            bbox_inches="tight",
        )
        found[suffix] = file.getvalue()
    return found


def for_a_page(svg: bytes) -> str:
    """Return an SVG element whose text and lines take the text colour of the page."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    for colour in (TEXT, "#000000", "#555555"):
        text = text.replace(colour, "currentColor")
    return text


def new_axes(x: str, y: str, title: str) -> tuple[Figure, Axes]:
    """Create a figure with one pair of axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y, title=title)
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def plain(axis: Axis) -> None:
    """Write numbers at a logarithmic axis as they are; powers would be mathematics, unparsed."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def add_legend(axes: Axes) -> None:
    """Add a legend below the axes."""
    axes.figure.legend(loc="outside lower center", ncols=2, fontsize=8)
