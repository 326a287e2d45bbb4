"""Conversion from and to PyTorch Geometric.

A model is trained on a graph as follows; here `graph` is PyG's `MovieLens` data set::

    from lightning import Trainer
    from mmrec.data import PygData, Queries
    from mmrec.models import FREEDOM

    data = PygData(graph, item="movie", split="leave_one_out")
    model = FREEDOM(data.corpus, neighbours=5)
    trainer = Trainer(max_epochs=50)
    trainer.fit(model, data)
    trainer.test(model, data)
    scores = model.score(model.encode(), Queries(torch.tensor([0, 1])))  # [2, I]

PyTorch Geometric is imported when a function is called, not with this module.

Shapes: U users, I items, N edges, F width of a modality.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmrec.data.corpus import (
    SPLITS,
    Corpus,
    DataError,
    Interactions,
    Modality,
    Source,
    content_hash,
    lexsort,
    together,
)
from mmrec.data.datamodule import InteractionData

if TYPE_CHECKING:
    from torch_geometric.data.hetero_data import HeteroData

log = logging.getLogger(__name__)
PRESENT = "_present"


def to_pyg(corpus: Corpus) -> HeteroData:
    """Convert a corpus to a heterogeneous graph.

    The node types are `user` and `item`; the edge types `(user, train|val|test, item)` have an
    `edge_index` [2, N] and, where known, a `time` [N]. Each modality is stored as `item.<name>`
    [I, F] with the mask `item.<name>_present` [I]. Categories, original ids, cold-item labels and
    the warm test interactions of an `item_cold` split are not part of the graph.
    """
    from torch_geometric.data.hetero_data import HeteroData

    graph = HeteroData()
    graph["user"].num_nodes = corpus.n_users
    graph["item"].num_nodes = corpus.n_items
    for name, modality in corpus.modalities.items():
        graph["item"][name] = modality.features
        graph["item"][name + PRESENT] = modality.present
    for split, part in zip(SPLITS, (corpus.train, corpus.val, corpus.test), strict=True):
        edges = graph["user", split, "item"]
        edges.edge_index = torch.stack([part.user, part.item])
        if part.time is not None:
            edges.time = part.time
    return graph


def from_pyg(
    graph: HeteroData, *, name: str = "graph", user: str = "user", item: str = "item"
) -> Source:
    """Convert a heterogeneous graph to a data set that can be split.

    The graph has either the three edge types `(user, train|val|test, item)`, which become the
    official split, or a single edge type from users to items of any name. Each edge is one
    interaction; edge types in other directions or between other nodes are ignored. An integer
    `time` [N] of the edges (Unix seconds) orders the interactions of a user. Each float matrix
    [I, F] of the item nodes is a modality, for example `x`. Items lack a modality where the mask
    `<name>_present` [I] is false or where all features are NaN.

    Args:
        graph: user and item nodes must have `num_nodes`, or features.
        name: of the data set.
        user: type of the user nodes.
        item: type of the item nodes.

    Returns:
        The data set; `PygData` splits it and makes batches.

    Raises:
        DataError: an edge type, index, time or feature is missing or invalid.
    """
    from torch_geometric.data.hetero_data import HeteroData

    if not isinstance(graph, HeteroData):
        raise DataError(
            file=name,
            found=f"a {type(graph).__name__}",
            expected=f"a HeteroData with node types {user} and {item}",
        )
    n_users, n_items = (_count(graph, name, kind) for kind in (user, item))
    relations = _relations(graph, name, user, item)
    parts = [
        _interactions(graph, name, (user, relation, item), n_users, n_items)
        for relation in relations
    ]
    interactions, label = _joined(name, parts), None
    if len(parts) > 1:
        sizes = torch.tensor([len(part) for part in parts])
        label = torch.arange(len(parts), dtype=torch.int8).repeat_interleave(sizes)
    if interactions.time is not None:
        order = lexsort(interactions.user, interactions.time)
        interactions = interactions.select(order)
        label = None if label is None else label[order]
    modalities = _modalities(graph[item], f"{name}: {item}", n_items)
    _log_ignored(graph, name, user, item, relations, modalities)
    known = (interactions.user, interactions.item, interactions.time, label)
    return Source(
        name=name,
        n_users=n_users,
        n_items=n_items,
        interactions=interactions,
        label=label,
        modalities=modalities,
        fingerprint=content_hash(
            [f"users={n_users}", f"items={n_items}"]
            + ["none" if column is None else column for column in known]
            + [f"{kind}: {modality.digest}" for kind, modality in modalities.items()]
        ),
    )


@dataclass(kw_only=True, eq=False)
class PygData(InteractionData):
    """A PyTorch Geometric graph, split and made into batches.

    Attributes:
        graph: user and item nodes, and edges from users to items; see `from_pyg`.
        name: of the data set.
        user: type of the user nodes.
        item: type of the item nodes.

    The other attributes are those of `InteractionData`. Without `split`, edge types `train`, `val`
    and `test` are used as they are, and a single edge type is split with `random_per_user`.
    """

    graph: HeteroData = field(kw_only=False)
    name: str = "graph"
    user: str = "user"
    item: str = "item"

    def source(self) -> Source:
        """Convert the graph."""
        return from_pyg(self.graph, name=self.name, user=self.user, item=self.item)


def _count(graph: HeteroData, name: str, kind: str) -> int:
    """Return the number of nodes of a type, which is not inferred from edges."""
    count = None
    if kind in graph.node_types:
        with warnings.catch_warnings():  # PyG warns before it returns None
            warnings.simplefilter("ignore", UserWarning)
            count = graph[kind].num_nodes
    if count is None:
        found = ", ".join(graph.node_types) or "none"
        raise DataError(
            file=name,
            problem=f"the number of {kind} nodes is unknown (node types with attributes: {found})",
            hint=f'set graph["{kind}"].num_nodes, or name another node type',
        )
    return int(count)


def _relations(graph: HeteroData, name: str, user: str, item: str) -> tuple[str, ...]:
    """Return the edge types to read: one, or those of the three splits."""
    found = [
        relation
        for source, relation, target in graph.edge_types
        if (source, target) == (user, item)
    ]
    if len(found) == 1:
        return (found[0],)
    if {*found} == {*SPLITS}:
        return SPLITS
    raise DataError(
        file=name,
        found=f"{len(found)} edge types from {user} to {item} ({', '.join(found)})",
        expected=f"one, or {', '.join(SPLITS)}",
        hint="select one with graph.edge_type_subgraph([...])",
    )


def _interactions(
    graph: HeteroData, name: str, kind: tuple[str, str, str], n_users: int, n_items: int
) -> Interactions:
    """Return the edges of one type."""
    where, edges = f"{name}: edge type {kind}", graph[kind]
    index = edges.get("edge_index")
    if not (_holds_integers(index) and index.ndim == 2 and len(index) == 2):
        raise DataError(
            file=where, column="edge_index", found=_shown(index), expected="integers [2, N]"
        )
    index = index.detach().cpu().long()
    for row, count, side in zip(index, (n_users, n_items), (kind[0], kind[2]), strict=True):
        if len(row) and (row.min() < 0 or row.max() >= count):
            raise DataError(
                file=where,
                column=f"{side} in edge_index",
                found=f"{row.min()} to {row.max()}",
                expected=f"0 to {count - 1}",
            )
    time = edges.get("time")
    if time is not None:
        if not (_holds_integers(time) and time.shape == index.shape[1:]):
            raise DataError(
                file=where,
                column="time",
                found=_shown(time),
                expected=f"integers [{index.shape[1]}], in seconds",
            )
        time = time.detach().cpu().long()
    return Interactions(index[0], index[1], time)


def _joined(name: str, parts: list[Interactions]) -> Interactions:
    """Join interactions that all have times, or none."""
    if len({part.time is None for part in parts}) > 1:
        raise DataError(
            file=name,
            problem="time is known for some edge types only",
            hint="give it to all of them, or to none",
        )
    return together(*parts)


def _modalities(store: Mapping[str, Any], where: str, n_items: int) -> dict[str, Modality]:
    """Return the float matrices of a node type with their masks."""
    found = {}
    for name, value in store.items():
        matrix = isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] > 0
        if not (matrix and value.is_floating_point()):
            continue
        rows = value.detach().cpu().float()
        lacking = rows.isnan()
        present = ~lacking.all(1)
        mask = store.get(name + PRESENT)
        if len(rows) != n_items:
            raise DataError(
                file=where,
                column=name,
                found=f"of {len(rows)} rows",
                expected=f"{n_items}, one per node",
            )
        if mask is not None:
            bools = isinstance(mask, Tensor) and mask.dtype == torch.bool
            if not (bools and mask.shape == (n_items,)):
                raise DataError(
                    file=where,
                    column=f"{name}{PRESENT}",
                    found=_shown(mask),
                    expected=f"bool [{n_items}]",
                )
            present = present & mask.cpu()
        invalid = (present & ~rows.isfinite().all(1)).nonzero()
        if len(invalid):
            raise DataError(
                file=where,
                row=int(invalid[0]),
                column=name,
                found="infinite or NaN in a part of the row",
                expected="finite features, or a row of NaN for a missing modality",
            )
        if not present.all():
            rows = torch.where(present.unsqueeze(1), rows, 0.0)
        found[name] = Modality(rows, present, content_hash([rows, present]))
    return found


def _log_ignored(
    graph: HeteroData,
    name: str,
    user: str,
    item: str,
    relations: Iterable[str],
    modalities: Mapping[str, Modality],
) -> None:
    """Log the attributes of users, items and their edges that are not read."""
    read = {"num_nodes", "edge_index", "time", *modalities, *(m + PRESENT for m in modalities)}
    stores = {user: graph[user], item: graph[item]}
    stores |= {relation: graph[user, relation, item] for relation in relations}
    ignored = [
        f"{kind}.{key}" for kind, store in stores.items() for key in store if key not in read
    ]
    if ignored:
        log.info("%s: attributes that are not read: %s", name, ", ".join(ignored))


def _holds_integers(value: object) -> bool:
    if not isinstance(value, Tensor) or value.dtype == torch.bool:
        return False
    return not (value.is_floating_point() or value.is_complex())


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "missing" if value is None else f"a {type(value).__name__}"
