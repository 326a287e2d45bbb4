"""Channels: one vector per user and item for behaviour and for each modality.

Shapes: U users, I items, C channels, K modalities, D embedding size, B users and M items of a
batch, R selected items, N = U + I nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmrec.config.checks import check_choice
from mmrec.config.errors import SettingError
from mmrec.data import Modality, TrainingView
from mmrec.nn.features import Precision, Projection
from mmrec.nn.lookup import BatchIndex
from mmrec.nn.propagation import Propagation, blended_rows
from mmrec.nn.sparse import SparseMatrix, TakenRows, take_rows

ItemContent = Literal["graph", "projected", "both"]
UserContent = Literal["propagated", "history", "sum"]

FEW = 0.5  # gather features first if a batch depends on a smaller share of the items


def channel_names(modalities: Iterable[str], *, behaviour: bool) -> tuple[str, ...]:
    """Return the names of the channels: `behaviour` if included, then the modalities."""
    return (*(("behaviour",) if behaviour else ()), *modalities)


class BatchRows(NamedTuple):
    """Rows of embedding tables and graphs that a batch needs.

    Attributes:
        batch_index: users and items of the batch.
        nodes: their rows in a table with users first, [B+M].
        graphs: their rows in each graph.
    """

    batch_index: BatchIndex
    nodes: Tensor
    graphs: list[TakenRows]


class ChannelVectors(NamedTuple):
    """Channel vectors of all users and items, or of those of a batch.

    Attributes:
        users: [C, B or U, D].
        items: [C, M or I, D], zero for absent modalities.
        present: mask of the channels of items, [M or I, C] bool.
        projected: projected features of items, [M or I, K, D]; None if unused.
    """

    users: Tensor
    items: Tensor
    present: Tensor
    projected: Tensor | None


class GraphViews(nn.Module):
    """Propagate a signal over one or two graphs, and blend the results: `z = g z_0 + (1 - g) z_1`.

    Args:
        graphs: the collaborative and the augmented graph, or a single graph without gate g.
        layers: number of propagation steps.
    """

    def __init__(self, graphs: Iterable[SparseMatrix], layers: int) -> None:
        super().__init__()
        self.views = nn.ModuleList(Propagation(graph, layers) for graph in graphs)
        self.gated = len(self.views) == 2 and layers > 0  # with 0 steps, both views are equal
        if self.gated:
            self.gate = nn.Parameter(torch.tensor(2.0))  # sigmoid: 0.88 collaborative

    def forward(self, x: Tensor, batch: BatchRows | None = None) -> Tensor:
        """Propagate [N, D] -> [N, D], or for a batch only its rows: -> [B+M, D]."""
        share = torch.sigmoid(self.gate) if self.gated else None
        if batch is not None:
            weights = None if share is None else torch.stack([share, 1 - share])
            return blended_rows([*self.views], weights, x, batch.nodes, batch.graphs)
        found: list[Tensor] = [view(x) for view in self.views]
        return found[0] if share is None else torch.lerp(found[1], found[0], share)


class Channels(nn.Module):
    """Compute the vectors of a behaviour channel and of one content channel per modality.

    The behaviour channel propagates ID embeddings over the user-item graphs. The content of an item
    in a modality is the aggregated ID embeddings of its neighbours in the modality's item graph,
    its projected features, or their sum. A content channel propagates it over the same user-item
    graphs.

    Args:
        corpus: training data, from which the numbers of users and items are read.
        modalities: modalities by name.
        graphs: one or two user-item graphs, [N, N] sparse CSR, symmetric.
        neighbours: item graph of each modality, [I, I] sparse CSR, symmetric; unused with
            `content="projected"`.
        dim: embedding size D.
        layers: propagation steps of the behaviour channel.
        content_layers: propagation steps of the content channels.
        behaviour: include the behaviour channel.
        content: content of items: `graph`, `projected` or `both`.
        precision: precision of the products with features.
        late_add: weight of an item's content, added after propagation.
        user_content: user vectors of content channels: `propagated`, those of the behaviour
            channel; `history`, the propagated content of the user's items; or their `sum`.

    Attributes:
        names: names of the channels.

    Raises:
        SettingError: a setting of the model is invalid.
    """

    present: Tensor  # [I, C] bool

    def __init__(
        self,
        corpus: TrainingView,
        modalities: Mapping[str, Modality],
        *,
        graphs: Sequence[Tensor],
        neighbours: Sequence[Tensor],
        dim: int,
        layers: int,
        content_layers: int,
        behaviour: bool,
        content: ItemContent,
        precision: Precision,
        late_add: float,
        user_content: UserContent,
    ) -> None:
        super().__init__()
        check_choice(ItemContent, content=content)
        check_choice(UserContent, user_content=user_content)
        check_choice(Precision, precision=precision)
        if user_content == "history" and not content_layers:
            raise SettingError(
                setting="model.user_content",
                value=user_content,
                problem="it needs at least one propagation step from items to users",
                hint="set model.content_layers to 1 or more",
            )
        if not behaviour and user_content == "history" and content == "projected":
            raise SettingError(
                setting="model.behaviour",
                value=behaviour,
                problem="with model.user_content=history and model.content=projected, ID "
                "embeddings are unused",
                hint="change one of the three settings",
            )
        self.names = channel_names(modalities, behaviour=behaviour)
        self.n_users, self.n_items = corpus.n_users, corpus.n_items
        self.content_layers, self.late_add = content_layers, late_add
        self.user_content = user_content
        self.node = nn.Embedding(corpus.n_users + corpus.n_items, dim)  # users first
        for part in torch.split(self.node.weight.detach(), [corpus.n_users, corpus.n_items]):
            nn.init.xavier_uniform_(part)
        self.neighbours = self.project = None
        if content != "projected":
            self.neighbours = nn.ModuleList(SparseMatrix(g, symmetric=True) for g in neighbours)
        if content != "graph":
            self.project = Projection(modalities, dim, precision=precision)
        present = [torch.ones(corpus.n_items, dtype=torch.bool)] * behaviour
        present += [modality.present for modality in modalities.values()]
        self.register_buffer("present", torch.stack(present, 1), persistent=False)
        shared = [SparseMatrix(graph, symmetric=True) for graph in graphs]
        self.graphs = nn.ModuleList(shared)
        self.behaviour = None
        if behaviour or user_content != "history":  # otherwise unused
            self.behaviour = GraphViews(shared, layers)
        self.contents = nn.ModuleList(GraphViews(shared, content_layers) for _ in modalities)

    def rows(self, batch_index: BatchIndex) -> BatchRows:
        """Gather the graph rows of a batch."""
        nodes = batch_index.nodes(self.n_users)
        graphs = [take_rows(graph.matrix, nodes) for graph in self.graphs]  # type: ignore[arg-type]
        return BatchRows(batch_index, nodes, graphs)

    def embeddings(self, batch: BatchRows) -> tuple[Tensor, Tensor]:
        """Return the ID embeddings of a batch, with sparse gradients: [B, D] and [M, D]."""
        return batch.batch_index.sides(embedding(batch.nodes, self.node.weight, sparse=True))

    def forward(self, batch: BatchRows | None = None) -> ChannelVectors:
        """Compute the vectors of all users and items, or those of a batch."""

        def sides(rows: Tensor) -> tuple[Tensor, Tensor]:
            if batch is None:
                return rows[: self.n_users], rows[self.n_users :]
            return batch.batch_index.sides(rows)

        chosen = slice(None) if batch is None else batch.batch_index.item
        found = []
        if self.behaviour is not None:
            user, item = sides(self.behaviour(self.node.weight, batch))
            found.append((user, item))
        users, items = torch.split(self.node.weight, [self.n_users, self.n_items])
        own = torch.zeros_like(users) if self.user_content == "history" else users
        projected = None if self.project is None else self.project(self._reached(batch))
        for view, content in zip(self.contents, self._contents(items, projected), strict=True):
            user_m, item_m = sides(view(torch.cat([own, content]), batch))
            if self.late_add:
                item_m = torch.add(item_m, content[chosen], alpha=self.late_add)
            match self.user_content:
                case "propagated":
                    user_m = user
                case "sum":
                    user_m = user + user_m
            found.append((user_m, item_m))
        found = found[-len(self.names) :]  # drop the behaviour channel if it is not included
        present = self.present[chosen]  # [M, C]
        return ChannelVectors(
            torch.stack([u for u, _ in found]),
            torch.stack([i for _, i in found]) * present.T.unsqueeze(-1),
            present,
            None if projected is None else projected[chosen],
        )

    def _contents(self, items: Tensor, projected: Tensor | None) -> list[Tensor]:
        """Return the content of all items in each modality, before propagation: [I, D] each."""
        around = [smooth(items) for smooth in self.neighbours or ()]
        shown = [] if projected is None else [*projected.unbind(1)]
        if around and shown:
            return [a + b for a, b in zip(around, shown, strict=True)]
        return around or shown

    def _reached(self, batch: BatchRows | None) -> Tensor | None:
        """Return the items whose features a batch depends on, [R]; None if they are many.

        Projections are the most expensive part of a step, so those of other items are skipped.
        """
        if batch is None or self.content_layers > 1:
            return None  # two propagation steps reach nearly all items
        nodes = torch.zeros(len(self.node.weight), dtype=torch.bool, device=batch.nodes.device)
        nodes[batch.nodes] = True
        if self.content_layers:
            for found in batch.graphs:
                nodes[found.part.col_indices()] = True
        items = nodes[self.n_users :].nonzero().squeeze(1)
        return items if len(items) < FEW * self.n_items else None
