"""LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation.

He et al., SIGIR 2020. https://arxiv.org/abs/2002.02126

From the paper: the whole model. Ours: `edge_dropout` (the paper mentions it as an alternative to L2
but does not use it), `norm` (most published results use the Frobenius norm, not its square) and
`loss="softmax"`.

Shapes: U users, I items, D embedding size, B batch, M items compared in a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.data import TrainingView, Triplets
from mmrec.graphs import normalized_adjacency, sampled_adjacency
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import Loss, Propagation, RankingLoss
from mmrec.nn.losses import Norm, norm_penalty


class LightGCN(Recommender):
    """Embeddings smoothed over the user-item graph, scored by dot product.

    Args:
        corpus: training interactions; content is not used.
        dim: embedding size D.
        layers: number of propagation steps; 0 gives matrix factorization.
        l2: weight of the norm of the batch's layer-0 embeddings (Eq. 15).
        norm: `squared` as in the paper, or `frobenius`.
        edge_dropout: share of edges dropped in each training epoch, in [0, 1); evaluation uses all.
        loss: `bpr`, or `softmax` of cosines over the items of a batch, which ranks by cosine too.
        temperature: temperature of the softmax.
    """

    reads_content = False

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        l2: float = 1e-4,
        norm: Norm = "squared",
        edge_dropout: float = 0.0,
        loss: Loss = "bpr",
        temperature: float = 0.2,
    ) -> None:
        check_at_least(1, dim=dim)
        check_choice(Norm, norm=norm)
        check_at_least(0, layers=layers, l2=l2)
        check_share(edge_dropout=edge_dropout, whole=False)
        super().__init__(corpus)
        self.l2, self.norm, self.edge_dropout = l2, norm, edge_dropout
        self.node = nn.Embedding(corpus.n_users + corpus.n_items, dim)  # users first
        for part in torch.split(self.node.weight.detach(), [corpus.n_users, corpus.n_items]):
            nn.init.xavier_uniform_(part)
        adjacency = normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items)
        self.ranking_loss = RankingLoss(corpus, loss, temperature)
        self.reads_negatives = not self.ranking_loss.softmax
        self.propagate = Propagation(adjacency, layers)
        self.thinned = self.propagate

    def start_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Sample the edges of the epoch."""
        super().start_epoch(epoch, generator)
        if self.edge_dropout:
            keep = 1 - self.edge_dropout
            adjacency = sampled_adjacency(self.corpus, keep, generator=generator)
            self.thinned = Propagation(adjacency.to(self.device), self.propagate.layers)

    @property
    def graph(self) -> Propagation:
        """Propagation (Eq. 4 and 8) over all edges, or in training over those of the epoch."""
        return self.thinned if self.training else self.propagate

    def encode(self) -> Embeddings:
        """Return the final embeddings."""
        nodes = self.ranking_loss.normalized(self.graph(self.node.weight))  # [U+I, D]
        return Embeddings(*torch.split(nodes, [self.corpus.n_users, self.corpus.n_items]))

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return the ranking loss and the L2 penalty (Eq. 15)."""
        index = self.ranking_loss.index(batch)
        nodes = index.nodes(self.corpus.n_users)  # [B+M]
        final = index.sides(self.graph.rows(self.node.weight, nodes))  # [B, D] [M, D]
        # A sparse gradient: the table already has a dense one, and a second would be mostly zeros.
        layer0 = index.sides(embedding(nodes, self.node.weight, sparse=True))
        return {
            **self.ranking_loss(index, *index.parts(*final)),
            "l2": self.l2 * norm_penalty(self.norm, *index.parts(*layer0)),
        }
