"""Sections of the `explain` page about the gates and the router of a run.

Shapes: P pairs, I items, C channels, E experts, Q measures, G groups.
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

BEFORE = 10  # training items shown beside a list
CATEGORIES = 20  # number of categories shown, the largest first
TEMPERATURE = ("warm", "cold")
ITEMS = "weights.csv"
FIRST, ENOUGH = 5, 5  # items shown per expert; training users that an item needs to be shown
LEAST = 0.05  # smallest gate for which an expert is listed


def over_epochs(opened: OpenRun, channels: list[str]) -> list[Section]:
    """Show load and entropies of the router per epoch; an empty list without router or metrics."""
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
        shown = f" The sections below describe the best epoch, {opened.result['best_epoch']}."
    return [
        Section(
            "Router",
            "router",
            "Load: share of the total gate weight that each expert receives over the training "
            "pairs, after top-k selection (router_schedule.top_k). Entropies are scaled to [0, 1]. "
            "Entropy per pair: 1 if all experts have equal gates, 0 if one expert has the whole "
            "gate. Entropy of the mean gates and of the load: 1 if all experts are used equally."
            f"{about}{begun}{shown}",
            figures={
                "load": gate_charts.loads(table, opened.model.experts, channels, trigger),
                "entropy": gate_charts.entropy_curves(table, trigger),
            },
        )
    ]


def train_weights(opened: OpenRun, weights: Weights) -> Section:
    """Show mean channel weights of training pairs by popularity, activity, role and category."""
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
        # An item may have several categories: a pair counts once for each.
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
        f"{weights.about} Groups by number of training interactions: "
        f"{_shares('items', charts.POPULARITY, evaluation.item_groups)}; "
        f"{_shares('users', charts.ACTIVITY, evaluation.user_groups)}."
        f"{_about(categories)}",
        tables,
        figures,
    )


class Weighed(NamedTuple):
    """Weights and measures of each item, by name.

    Attributes:
        channels: weight of each channel, [I].
        experts: gate of each expert, [I]; empty without a router.
        measures: further quantities that the model computes per item, [I].
    """

    channels: dict[str, Tensor]
    experts: dict[str, Tensor]
    measures: dict[str, Tensor]


def weighed(model: Recommender) -> Weighed:
    """Compute item weights once per page; gates of pairs need a pass over all training pairs."""
    channels = {name: weight.cpu() for name, weight in model.item_weights().items()}
    measures = {name: value.cpu() for name, value in model.item_measures().items()}
    if not isinstance(model, RoutedRecommender):
        return Weighed(channels, {}, measures)
    gates = model.item_gates().cpu()
    experts = dict(zip(model.experts, gates.unbind(1), strict=True))
    return Weighed(channels, experts, measures)


def measured(opened: OpenRun, measures: Mapping[str, Tensor]) -> list[Section]:
    """Show the mean of each item measure by popularity; an empty list without measures."""
    if not measures:
        return []
    corpus, shares = opened.corpus, opened.model.evaluation.item_groups
    names, labels = list(measures), charts.POPULARITY
    values = torch.stack(list(measures.values()), 1).double()  # [I, Q]
    known = values.isfinite()  # items with an undefined measure are left out of its mean
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
            "Item measures",
            "measures",
            f"Means over {_shares('items', charts.POPULARITY, shares)} (by number of training "
            f"interactions). {ITEMS}, next to this page, lists the values of all items.",
            [table],
            {"measures": gate_charts.panels(means, names, labels)},
        )
    ]


def of_items(opened: OpenRun, known: Weighed, names: list[str]) -> list[Section]:
    """Show the weights of cold items, and the gates of experts over items.

    Experts are shown by category, by true role for planted data, and with the items of their
    largest gates. The list is empty if there is neither a router nor a cold item.
    """
    corpus = opened.corpus
    by_pairs, everything = weighs_pairs(opened.model), torch.arange(corpus.n_items)
    tables, figures, notes = [], {}, []

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
    # Cold items have no training pairs, so gates of pairs are undefined for them.
    if corpus.cold is not None and not by_pairs and (channels := known.channels):
        cold = corpus.cold > 0
        notes.append("Cold items have no training interactions: only content sets their weights.")
        title = "Warm and cold items"
        add("warm-and-cold", title, channels, everything, cold.long(), [*TEMPERATURE])
        if categories is not None:
            some = cold[item]
            title = "Cold items by category"
            add("cold-by-category", title, channels, item[some], group[some], shown)
    if experts := known.experts:
        notes.append(
            "If gates depend on the user, the gate of an item is the mean over its training users, "
            f"or over all training pairs if it has none. {ITEMS}, next to this page, has all items."
        )
        if categories is not None:
            add("experts-by-category", "Gates by category", experts, item, group, shown)
        if isinstance(opened.data, PlantedData):
            truth = opened.data.truth
            roles = list(truth.role_names)
            add("experts-by-role", "Gates by true role", experts, everything, truth.role, roles)
        tables.append(_most(opened, experts))
    about = "Means over items; items without content are left out. "
    about += " ".join(notes)
    about += _about(categories)
    return [Section("Items", "items", about, tables, figures)] if tables else []


def _most(opened: OpenRun, experts: Mapping[str, Tensor]) -> Table:
    """Tabulate the items with the largest gates of each expert.

    If gates are means over users, only items with at least `ENOUGH` training users are listed: a
    mean over a single user is too noisy.
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
    return item_table(shown, "Items with the largest gates of each expert", "items-of-experts")


def every_item(opened: OpenRun, known: Weighed) -> pl.DataFrame:
    """Return one row per item: its description, weights and measures."""
    items = describe_items(opened, pl.DataFrame({"item": range(opened.corpus.n_items)}))
    return with_weights(items, known.channels | known.experts | known.measures)


def _largest(categories: Categories) -> tuple[Tensor, list[str]]:
    """Return the rank of each category among the largest (-1: not shown), and their names."""
    sizes = torch.bincount(categories.category, minlength=len(categories.names))
    largest = sizes.argsort(descending=True, stable=True)[:CATEGORIES]
    place = torch.full((len(categories.names),), -1)
    place[largest] = torch.arange(len(largest))
    return place, [printable(categories.names[c], WIDE) for c in largest.tolist()]


def _about(categories: Categories | None) -> str:
    """Describe the categories that a page shows."""
    if categories is None:
        return ""
    count = len(categories.names)
    largest = f" The {CATEGORIES} largest of {count} categories are shown."
    several = " An item with several categories counts in each."
    return f"{largest if count > CATEGORIES else ''}{several}"


def _shares(what: str, names: Sequence[str], shares: Sequence[float]) -> str:
    """Describe groups by name and size, for example `items: head 20%, mid 30%, tail the rest`."""
    sizes = (f"{name} {share:.0%}" for name, share in zip(names, shares, strict=False))
    return f"{what}: {', '.join(sizes)}, {names[-1]} the rest"


def _means(
    name: str,
    title: str,
    channels: list[str],
    values: Tensor,
    index: Tensor,
    labels: Sequence[str],
    counted: str = "pairs",
) -> tuple[Table, Tensor]:
    """Return a table of means by group, and the means [G, C]; NaN for empty groups."""
    there = values.any(1)  # items without content have no weights and are left out
    values, index = values[there], index[there]
    count = torch.bincount(index, minlength=len(labels))
    values = values.double()  # a float32 sum over 1e7 pairs is only accurate to 2 digits
    total = values.new_zeros(len(labels), values.shape[1]).index_add_(0, index, values)
    means = total / count.unsqueeze(1)
    rows = [
        [label, f"{n:,}", *(Value(x) if n else "–" for x in row)]
        for label, n, row in zip(labels, count.tolist(), means.tolist(), strict=True)
    ]
    return Table(name, title, ["group", counted, *channels], rows, deviations=False), means


def known_roles(result: dict[str, Any]) -> list[Section]:
    """Show how well the weights recover the true roles of planted items."""
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
            "AUC: how well the weight of a modality separates the items for which it is the "
            "informative one (equal weights: 0.5; two modalities have equal AUC because their "
            "shares sum to one). NMI: agreement of an item's role with its modality of largest "
            "weight, or its expert of largest gate (equal weights: 0). Shuffled: the same weights, "
            "assigned to items at random. Rows that begin with cold/ are for cold items, the "
            "others for items with training interactions.",
            [Table("recovery", "Role recovery", ["metric", "this run", "shuffled"], rows)],
        )
    ]


def of_users(opened: OpenRun, users: Tensor, k: int, seen: Masked, accelerator: str) -> Section:
    """Show the recommendations of some users, with the weights and experts of each item."""
    corpus = opened.corpus
    best = pl.concat(ranked_lists(opened, users, k, seen, 512, accelerator))
    before = latest_items(corpus, users, BEFORE)
    have, device = corpus.user_counts(), opened.model.device

    def described(frame: pl.DataFrame, *, weighed: bool = True) -> pl.DataFrame:
        """Add the description, experts and weights of the items."""
        if not len(frame):  # none of the users has training items
            return frame
        user, item = (frame[name].to_torch().long().to(device) for name in ("user", "item"))
        known = describe_items(opened, frame).with_columns(_experts(opened, user, item))
        return with_weights(known, opened.pair_weights(user, item) if weighed else {})

    # The weights of training items in sequences are shown by position, see `sequences`.
    sequential = isinstance(opened.model, SequentialRecommender)
    best, before = described(best), described(before, weighed=not sequential)
    routed = isinstance(opened.model, RoutedRecommender)
    experts = f" Experts with a gate of at least {LEAST:.2f} are listed." if routed else ""
    tables = []
    # Without times, the order of the file carries no meaning.
    which = "some" if corpus.train.time is None else "the latest"
    for one in users.tolist():
        name: Any = one if corpus.user_ids is None else corpus.user_ids[one]
        file_of, count, name = user_file(corpus, one), int(have[one]), printable(name)
        last = "" if count <= BEFORE else f", {which} {BEFORE}"
        for frame, title, file in (
            (best, f"User {name}: recommendations ({count} training items)", f"user-{file_of}"),
            (before, f"User {name}: training items{last}", f"user-{file_of}-train"),
        ):
            shown = frame.filter(pl.col("user") == one).drop("user", "user_id", strict=False)
            if len(shown):
                tables.append(item_table(shown, title, file))
    return Section(
        "Recommendations",
        "recommendations",
        f"Top {k} items of some users, and {which} training items of each; {SEEN[seen]}. "
        f"Columns of channels hold gate weights.{experts} Items without training users are cold.",
        tables,
    )


def _experts(opened: OpenRun, user: Tensor, item: Tensor) -> list[pl.Series]:
    """Name the experts of each pair with their gates, the largest first."""
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
