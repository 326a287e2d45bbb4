"""The report section of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmrec.config.text import file_name
from mmrec.report import charts
from mmrec.report.page import Section
from mmrec.report.tables import Table

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SHOWN = 50  # largest number of trials in the table


def search(study: Study) -> Section:
    """Show the trials of a search, best first, with figures of the study."""
    from mmrec.search.study import IDENTITY
    from mmrec.search.summary import outcome, ranked

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
    order = "Best trial first." if len(objectives) == 1 else "Trials on the Pareto front first."
    more = f" The first {SHOWN} of {len(trials)} are shown." if len(trials) > SHOWN else ""
    slug = file_name(f"search-{study.study_name}")
    return Section(
        f"Search {study.study_name}",
        slug,
        ", ".join(f"{count} {what}" for what, count in counts.items()),
        [
            Table(
                f"{slug}-trials",
                "Trials",
                ["trial", "status", *objectives, *names],
                rows,
                [f"{order}{more} A search uses validation metrics and costs, never test metrics."],
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
