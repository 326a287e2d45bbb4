"""Sections of a page about what a run's gates and router have learned.

P pairs, I items, C channels, E experts, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from mmrec.config.literals import Masked
from mmrec.config.text import printable
from mmrec.data import PlantedData
from mmrec.data.corpus import Categories
from mmrec.evaluation.protocol import groups
from mmrec.models import Recommender, RoutedRecommender, SequentialRecommender
from mmrec.models.routed import weighs_pairs
from mmrec.report import charts, gate_charts
from mmrec.report.item_tables import (
    WIDE,
    describe_items,
    item_table,
    latest_items,
    user_file,
    with_weights,
)
from mmrec.report.page import SEEN, Section
from mmrec.report.sequences import Weights
from mmrec.report.tables import Table, Value
from mmrec.training.open_run import OpenRun
from mmrec.training.ranked_lists import ranked_lists
from mmrec.training.results import EPOCHS, read_epochs, table_error

BEFORE = 10  # items of train that are shown beside a list
CATEGORIES = 20  # the largest
TEMPERATURE = ("warm", "cold")
ITEMS = "weights.csv"
FIRST, ENOUGH = 5, 5  # items of an expert that are shown, and users that one needs to be
LEAST = 0.05  # gate of an expert that is named


def over_epochs(opened: OpenRun, channels: list[str]) -> list[Section]:
    """What the router did; nothing without one, or without its table of epochs."""
    path = opened.folder / EPOCHS
    if not isinstance(opened.model, RoutedRecommender) or not path.is_file():
        return []
    try:
        table = read_epochs(path)
    except pl.exceptions.PolarsError as error:
        raise table_error(path, error) from None
    if "router/stage" not in table.columns:
        return []
    second = table.filter(pl.col("router/stage") == 2)["epoch"]
    trigger = int(second[0]) if 0 < len(second) < len(table) else None
    begun = "" if trigger is None else f" The second stage began at epoch {trigger}."
    about = opened.model.about_experts and f" {opened.model.about_experts}"
    shown = ""
    if opened.at_best:
        shown = f" The sections below are about the best epoch, {opened.result['best_epoch']}."
    return [
        Section(
            "Router",
            "router",
            "Share of the train pairs' gates that each expert has, once a pair has kept its few "
            "(router_schedule.top_k). "
            "Entropies: of a pair's gates, 1 where they are alike and 0 where one expert decides; "
            "of the mean gates and of the load, 1 where all experts are used alike."
            f"{about}{begun}{shown}",
            figures={
                "load": gate_charts.loads(table, opened.model.experts, channels, trigger),
                "entropy": gate_charts.entropy_curves(table, trigger),
            },
        )
    ]


def train_weights(opened: OpenRun, weights: Weights) -> Section:
    """Mean weights of train pairs, by what is known of their items and users."""
    corpus, evaluation = opened.corpus, opened.model.evaluation
    user, item = weights.pairs.user, weights.pairs.item
    values = torch.stack(list(weights.channels.values()), 1)  # [P, C]
    names = list(weights.channels)
    of_items = groups(corpus.item_counts(), evaluation.item_groups)[item]
    of_users = groups(corpus.user_counts(), evaluation.user_groups)[user]
    tables, figures = [], {}
    groupings: list[tuple[str, Tensor, Sequence[str]]] = [
        ("popularity", of_items, charts.POPULARITY),
        ("activity", of_users, charts.ACTIVITY),
    ]
    if isinstance(opened.data, PlantedData):
        groupings += [("role", opened.data.truth.role[item], opened.data.truth.role_names)]
    for what, index, labels in groupings:
        table, means = _means(f"weights-by-{what}", f"By {what}", names, values, index, labels)
        tables.append(table)
        figures[what] = gate_charts.stacked(means, names, names, labels, f"Weights by {what}")
    categories = corpus.categories
    if categories is not None:
        place, shown = _largest(categories)
        # An item may bear several: a pair counts once for each of them.
        order = categories.item.argsort(stable=True)
        count = torch.bincount(categories.item, minlength=corpus.n_items)
        start = count.cumsum(0) - count
        pair = torch.arange(len(item)).repeat_interleave(count[item])
        offset = torch.arange(len(pair)) - (count[item].cumsum(0) - count[item])[pair]
        borne = place[categories.category[order][start[item[pair]] + offset]]
        kept = borne >= 0
        table, means = _means(
            "weights-by-category", "By category", names, values[pair[kept]], borne[kept], shown
        )
        tables.append(table)
        figures["category"] = gate_charts.stacked(means, names, names, shown, "Weights by category")
    return Section(
        "Channels",
        "channels",
        f"{weights.about} Of {_shares('items', charts.POPULARITY, evaluation.item_groups)}; "
        f"of {_shares('users', charts.ACTIVITY, evaluation.user_groups)}; by train interactions."
        f"{_about(categories)}",
        tables,
        figures,
    )


class Weighed(NamedTuple):
    """What a model weighs and measures in each item: [I] each, by name."""

    channels: dict[str, Tensor]
    experts: dict[str, Tensor]
    measures: dict[str, Tensor]


def weighed(model: Recommender) -> Weighed:
    """Once for the whole page: where pairs are weighed, it takes a pass over those of train."""
    channels = {name: weight.cpu() for name, weight in model.item_weights().items()}
    measures = {name: value.cpu() for name, value in model.item_measures().items()}
    if not isinstance(model, RoutedRecommender):
        return Weighed(channels, {}, measures)
    gates = model.item_gates().cpu()
    experts = dict(zip(model.experts, gates.unbind(1), strict=True))
    return Weighed(channels, experts, measures)


def measured(opened: OpenRun, measures: Mapping[str, Tensor]) -> list[Section]:
    """Means of a model's measures of items, by popularity; nothing without any."""
    if not measures:
        return []
    corpus, shares = opened.corpus, opened.model.evaluation.item_groups
    names, labels = list(measures), charts.POPULARITY
    values = torch.stack(list(measures.values()), 1).double()  # [I, Q]
    known = values.isfinite()  # each measure has the mean over the items that it is known of
    of = groups(corpus.item_counts(), shares)
    total, count = (
        values.new_zeros(len(labels), len(names)).index_add_(0, of, each)
        for each in (values.nan_to_num(), known.double())
    )
    means = total / count
    items = torch.bincount(of, minlength=len(labels)).tolist()
    rows = [
        [label, f"{n:,}", *(Value(x) if math.isfinite(x) else "–" for x in row)]
        for label, n, row in zip(labels, items, means.tolist(), strict=True)
    ]
    table = Table("measures", "By popularity", ["group", "items", *names], rows, deviations=False)
    return [
        Section(
            "Measures of items",
            "measures",
            f"Means over {_shares('items', charts.POPULARITY, shares)}, by train interactions. "
            f"{ITEMS}, beside this page, has those of every item.",
            [table],
            {"measures": gate_charts.panels(means, names, labels)},
        )
    ]


def of_items(opened: OpenRun, known: Weighed, names: list[str]) -> list[Section]:
    """Of items: weights of cold ones, which no pair of train has; what experts carry.

    Experts by category, and by the true role where it is known, and the items that each of them
    carries most. Nothing where there is neither a router nor a cold item.
    """
    corpus = opened.corpus
    by_pairs, everything = weighs_pairs(opened.model), torch.arange(corpus.n_items)
    tables, figures, told = [], {}, []

    def add(
        name: str,
        title: str,
        weights: Mapping[str, Tensor],
        item: Tensor,
        of: Tensor,
        to: list[str],
    ) -> None:
        values = torch.stack(list(weights.values()), 1)[item]
        table, means = _means(name, title, list(weights), values, of, to, "items")
        tables.append(table)
        figures[name] = gate_charts.stacked(means, list(weights), names, to, title)

    categories = corpus.categories
    if categories is not None:
        place, shown = _largest(categories)
        group = place[categories.category]
        item, group = categories.item[group >= 0], group[group >= 0]
    # Gates of pairs say nothing of cold items, which are in none.
    if corpus.cold is not None and not by_pairs and (channels := known.channels):
        cold = corpus.cold > 0
        told.append("Cold items have no interaction in train: their content decides.")
        add(
            "warm-and-cold",
            "Warm and cold items",
            channels,
            everything,
            cold.long(),
            [*TEMPERATURE],
        )
        if categories is not None:
            some = cold[item]
            title = "Cold items by category"
            add("cold-by-category", title, channels, item[some], group[some], shown)
    if experts := known.experts:
        told.append(
            "An item's gates are the mean over its train users, where users matter; of all train "
            f"pairs, where it has none. {ITEMS}, beside this page, has those of every item."
        )
        if categories is not None:
            add("experts-by-category", "Experts by category", experts, item, group, shown)
        if isinstance(opened.data, PlantedData):
            truth = opened.data.truth
            roles = list(truth.role_names)
            add("experts-by-role", "Experts by true role", experts, everything, truth.role, roles)
        tables.append(_most(opened, experts))
    about = "Means are over items; one without content has nothing to weigh, and does not count. "
    about += " ".join(told)
    about += _about(categories)
    return [Section("Items", "items", about, tables, figures)] if tables else []


def _most(opened: OpenRun, experts: Mapping[str, Tensor]) -> Table:
    """The items that each expert carries most.

    Where gates are means over users, of items with some users: one of a single user says little.
    """
    gates = torch.stack(list(experts.values()), 1)  # [I, E]
    if weighs_pairs(opened.model):
        counts = opened.corpus.item_counts()
        rare = counts < min(ENOUGH, int(counts.max()))
        gates = gates.masked_fill(rare.unsqueeze(1), -1.0)
    best = gates.topk(min(FIRST, len(gates)), dim=0)
    names = [name for name in experts for _ in range(len(best.values))]
    found = describe_items(opened, pl.DataFrame({"item": best.indices.T.flatten().numpy()})).select(
        pl.Series("expert", names), pl.all(), pl.Series("gate", best.values.T.flatten().numpy())
    )
    shown = found.filter(pl.col("gate") > 0)
    return item_table(shown, "What each expert carries most", "items-of-experts")


def every_item(opened: OpenRun, known: Weighed) -> pl.DataFrame:
    """One row per item: what is known of it, its weights and its measures."""
    items = describe_items(opened, pl.DataFrame({"item": range(opened.corpus.n_items)}))
    return with_weights(items, known.channels | known.experts | known.measures)


def _largest(categories: Categories) -> tuple[Tensor, list[str]]:
    """Where each of the largest categories stands among them, -1 for others; and their names."""
    sizes = torch.bincount(categories.category, minlength=len(categories.names))
    largest = sizes.argsort(descending=True, stable=True)[:CATEGORIES]
    place = torch.full((len(categories.names),), -1)
    place[largest] = torch.arange(len(largest))
    return place, [printable(categories.names[c], WIDE) for c in largest.tolist()]


def _about(categories: Categories | None) -> str:
    """What those are that a page shows."""
    if categories is None:
        return ""
    count = len(categories.names)
    largest = f"Of {count} categories the {CATEGORIES} largest;"
    which = largest if count > CATEGORIES else "Of categories,"
    return f" {which} what has several counts in each."


def _shares(what: str, names: Sequence[str], shares: Sequence[float]) -> str:
    """What groups are called, and how large they are."""
    sizes = (f"{name} {share:.0%}" for name, share in zip(names, shares, strict=False))
    return f"{what}, {', '.join(sizes)}, {names[-1]} the rest"


def _means(
    name: str,
    title: str,
    channels: list[str],
    values: Tensor,
    index: Tensor,
    labels: Sequence[str],
    counted: str = "pairs",
) -> tuple[Table, Tensor]:
    """A table of means by group, and the means [G, C]; NaN where a group is empty."""
    there = values.any(1)  # items without content have no weight, and do not count
    values, index = values[there], index[there]
    count = torch.bincount(index, minlength=len(labels))
    values = values.double()  # float32 loses its third digit over ten million pairs
    total = values.new_zeros(len(labels), values.shape[1]).index_add_(0, index, values)
    means = total / count.unsqueeze(1)
    rows = [
        [label, f"{n:,}", *(Value(x) if n else "–" for x in row)]
        for label, n, row in zip(labels, count.tolist(), means.tolist(), strict=True)
    ]
    return Table(name, title, ["group", counted, *channels], rows, deviations=False), means


def known_roles(result: dict[str, Any]) -> list[Section]:
    """How much of what was planted is found again."""
    recovery = result.get("recovery")
    if not recovery:
        return []
    rows = [
        [name, Value(value), Value(recovery[f"chance/{name}"])]
        for name, value in recovery.items()
        if not name.startswith("chance/")
    ]
    return [
        Section(
            "Known roles",
            "recovery",
            "AUC: how well a modality's weight tells the items of which it is the informative one "
            "(equal weights: 0.5; two modalities have the same, as their shares sum to one). NMI: "
            "how much the modality of largest weight, or the expert of the largest gate, says of "
            "an item's role (equal weights: 0). Rows that begin with cold/ are of cold items, the "
            "others of items with train interactions.",
            [Table("recovery", "Roles found again", ["", "this run", "dealt at random"], rows)],
        )
    ]


def of_users(opened: OpenRun, users: Tensor, k: int, seen: Masked, accelerator: str) -> Section:
    """Their best items, and what carried each."""
    corpus = opened.corpus
    best = pl.concat(ranked_lists(opened, users, k, seen, 512, accelerator))
    before = latest_items(corpus, users, BEFORE)
    have, device = corpus.user_counts(), opened.model.device

    def told(frame: pl.DataFrame, *, weighed: bool = True) -> pl.DataFrame:
        """What is known of the items, and what gates make of them."""
        if not len(frame):  # nobody of them has anything in train
            return frame
        user, item = (frame[name].to_torch().long().to(device) for name in ("user", "item"))
        known = describe_items(opened, frame).with_columns(_experts(opened, user, item))
        return with_weights(known, opened.pair_weights(user, item) if weighed else {})

    # Sequences are told with the weights at their positions, see `sequences`.
    sequential = isinstance(opened.model, SequentialRecommender)
    best, before = told(best), told(before, weighed=not sequential)
    routed = isinstance(opened.model, RoutedRecommender)
    experts = f"; of experts, gates of at least {LEAST:.2f} are shown" if routed else ""
    tables = []
    # Without times, the order is that of the file, of which nothing is known.
    which = "some" if corpus.train.time is None else "the latest"
    for one in users.tolist():
        name: Any = one if corpus.user_ids is None else corpus.user_ids[one]
        file_of, count, name = user_file(corpus, one), int(have[one]), printable(name)
        last = "" if count <= BEFORE else f", {which} {BEFORE}"
        for frame, title, file in (
            (best, f"User {name}, {count} items in train", f"user-{file_of}"),
            (before, f"User {name}: items in train{last}", f"user-{file_of}-train"),
        ):
            shown = frame.filter(pl.col("user") == one).drop("user", "user_id", strict=False)
            if len(shown):
                tables.append(item_table(shown, title, file))
    return Section(
        "Recommendations",
        "recommendations",
        f"The {k} best items of some users, and {which} items of each in train; {SEEN[seen]}. "
        f"Columns of channels say what gates give them{experts}. An item without train users is "
        "cold.",
        tables,
    )


def _experts(opened: OpenRun, user: Tensor, item: Tensor) -> list[pl.Series]:
    """The experts that a pair was given to, with their gates."""
    if not isinstance(opened.model, RoutedRecommender):
        return []
    gates, order = opened.pair_gates(user, item).sort(1, descending=True)
    names = opened.model.experts
    return [
        pl.Series(
            "experts",
            [
                ", ".join(f"{names[e]} {g:.2f}" for g, e in zip(*row, strict=True) if g >= LEAST)
                for row in zip(gates.tolist(), order.tolist(), strict=True)
            ],
        )
    ]
