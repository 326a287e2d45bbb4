"""LATTICE: Mining Latent Structures for Multimedia Recommendation.

Zhang et al., MM 2021. https://arxiv.org/abs/2104.09036

From the paper: one item graph from raw content per modality; one learned graph from projected
content; their fusion; convolution of item ID embeddings over the fused graph; BPR with LightGCN.

The paper compares all pairs of items in each step. This implementation needs no [I, I] matrix:
neighbours in the projected content are found once per epoch and before each evaluation, by exact
search in tiles, and each step recomputes only their similarities, with gradients. Edge weights can
therefore change within an epoch, but new edges appear only at the next one. At evaluation, the
graph equals that of the paper.

The public code learns the graph from one batch per epoch, trains the raw features, normalises the
learned graph after mixing the modalities, and adds self-loops to a row-normalised user-item graph;
this implementation follows the paper. Ours: any number of modalities; items that lack a modality
have no neighbours in it; negative similarities count as zero.

Shapes: U users, I items, M modalities, E edges of an item graph, D embedding size, B batch.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mmrec.config.checks import check_at_least, check_share
from mmrec.data import TrainingView, Triplets, require_modalities
from mmrec.graphs import (
    check_neighbours,
    content_knn,
    knn_adjacency,
    knn_graph,
    normalized_adjacency,
)
from mmrec.models.base import Embeddings, NonFiniteLoss, Recommender
from mmrec.nn import ProjectedFeatures, Propagation, SparseMatrix, lookup, unit_rows
from mmrec.nn.losses import bpr, norm_penalty, pair_scores
from mmrec.nn.sparse import row_of_entries


class LATTICE(Recommender):
    """LightGCN, plus item ID embeddings propagated over a learned graph of content.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D, also of projected content.
        layers: propagation steps over the user-item graph.
        item_layers: propagation steps over the item graph.
        neighbours: number of content neighbours per item, including the item itself.
        raw_share: share of the raw content graph in the item graph, in [0, 1]; the learned graph
            has the share `1 - raw_share`.
        l2: weight of the squared norm of the batch's final embeddings.
    """

    present: Tensor  # [M, I] bool

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        item_layers: int = 1,
        neighbours: int = 10,
        raw_share: float = 0.9,
        l2: float = 0.0,
    ) -> None:
        check_at_least(1, dim=dim, neighbours=neighbours, item_layers=item_layers)
        check_at_least(0, layers=layers, l2=l2)
        check_share(raw_share=raw_share)
        super().__init__(corpus)
        modalities = require_modalities(corpus, "lattice")
        check_neighbours(modalities, neighbours, "model.neighbours", self_loops=True)
        self.item_layers, self.neighbours = item_layers, neighbours
        self.raw_share, self.l2 = raw_share, l2
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)
        adjacency = normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items)
        self.propagate = Propagation(adjacency, layers)
        self.importance = nn.Parameter(torch.zeros(len(modalities)))  # [M]
        self.raw = nn.ModuleList(
            SparseMatrix(
                knn_adjacency(
                    content_knn(modality, neighbours, self_loops=True),
                    weights="similarity",
                    normalize="symmetric",
                    symmetrize=False,
                )
            )
            for modality in modalities.values()
        )
        self.project = nn.ModuleList(
            ProjectedFeatures(modality, dim) for modality in modalities.values() if raw_share < 1
        )
        present = torch.stack([modality.present for modality in modalities.values()])
        self.register_buffer("present", present, persistent=False)
        self.learned = nn.ModuleList()  # like `raw`; filled by find_neighbours
        self._weights: Tensor | None = None  # projection weights at the latest search

    def start_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Find the neighbours for this epoch."""
        super().start_epoch(epoch, generator)
        self.find_neighbours()

    @torch.no_grad()
    def find_neighbours(self) -> None:
        """Find the neighbours of items in projected content, unless the weights are unchanged.

        With D = 64 on one CPU thread, a modality takes 57 s and 100 MiB for 63,001 items, and 0.6 s
        for 7,050 items.

        Raises:
            NonFiniteLoss: projected content is not finite.
        """
        if not len(self.project):
            return
        weights = torch.cat([x.detach().flatten().cpu() for x in self.project.parameters()])
        if self._weights is not None and torch.equal(self._weights, weights):
            return
        found = []
        # The matrices are also used in training, which rejects tensors of inference mode.
        with torch.inference_mode(False), torch.autocast(self.device.type, enabled=False):
            for project, present in zip(self.project, self.present, strict=True):
                rows = project().float()  # [I, D]
                if not rows.isfinite().all():
                    raise NonFiniteLoss(
                        "the projected content is not finite; lower optimizer.lr, or set "
                        "trainer.gradient_clip_val"
                    )
                nearest = knn_graph(rows, self.neighbours, present=present, self_loops=True)
                matrix = knn_adjacency(
                    nearest, weights="similarity", normalize="none", symmetrize=False
                )
                found.append(SparseMatrix(matrix, weighted=True))
        self.learned, self._weights = nn.ModuleList(found), weights

    def encode(self) -> Embeddings:
        """Return LightGCN embeddings; items add the normalised embeddings of the item graph."""
        if self._weights is None or not self.training:
            self.find_neighbours()
        nodes = self.propagate(torch.cat([self.user.weight, self.item.weight]))  # [U+I, D]
        users, items = nodes.split([self.corpus.n_users, self.corpus.n_items])
        values = [
            learned_weights(cast(SparseMatrix, graph), project())
            for graph, project in zip(self.learned, self.project, strict=True)
        ]
        content = self.item.weight
        for _ in range(self.item_layers):
            content = self.smooth(content, values)
        return Embeddings(users, items + unit_rows(content))

    def smooth(self, x: Tensor, values: list[Tensor]) -> Tensor:
        """Propagate over the item graph, weighted by the importance of modalities: [I, D]."""
        smoothed = torch.stack([self.raw_share * raw(x) for raw in self.raw])  # [M, I, D]
        if values:
            learned = [graph(x, value) for graph, value in zip(self.learned, values, strict=True)]
            smoothed = smoothed + (1 - self.raw_share) * torch.stack(learned)
        return (self.importance.softmax(0)[:, None, None] * smoothed).sum(0)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return BPR and the L2 penalty of the batch."""
        rows = lookup(batch, *self.encode())  # [B, D] [B, D] [B, K, D]
        return {
            "bpr": bpr(*pair_scores(*rows)),
            "l2": self.l2 * norm_penalty("squared", *rows),
        }


def learned_weights(graph: SparseMatrix, content: Tensor) -> Tensor:
    """Return cosines of neighbours, symmetrically normalised by row sums: [E]."""
    unit = unit_rows(content)
    weights = graph.dots(unit, unit).relu()
    row, column = row_of_entries(graph.matrix), graph.matrix.col_indices().long()
    degree = weights.new_zeros(len(unit)).index_add(0, row, weights)  # [I], above 0 for neighbours
    return weights * (degree[row] * degree[column]).rsqrt()
