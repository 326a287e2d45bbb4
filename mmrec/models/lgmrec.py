"""LGMRec: Local and Global Graph Learning for Multimodal Recommendation.

Guo et al., AAAI 2024. https://arxiv.org/abs/2312.16400

From the paper: local embeddings of interactions and of content, one hypergraph per modality, a
contrastive loss between hypergraphs, and the loss. From its public code: hyperedges use Gumbel
noise, and the contrastive loss is summed over a batch. Ours: noise in training only (the public
code also ranks with it); any number of modalities, with all pairs contrasted in the order of the
data; an item that lacks a modality has no content and no hyperedge there, and is excluded from the
mean of its users.

Shapes: U users, I items, N = U + I nodes, F_m width of modality m, D embedding size, A hyperedges,
B batch.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from mmrec.config.checks import check_at_least, check_share
from mmrec.data import Modality, TrainingView, Triplets, require_modalities
from mmrec.graphs import csr_matrix, normalized_adjacency
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import Features, Propagation, SparseMatrix, lookup, unit_rows
from mmrec.nn.hypergraph import Hypergraph, HypergraphConvolution, soft_assignment
from mmrec.nn.losses import bpr, info_nce, norm_penalty, pair_scores


class LGMRec(Recommender):
    """Local embeddings of user-item graphs, plus global embeddings of one hypergraph per modality.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        layers: propagation steps of ID embeddings over the user-item graph.
        content_layers: propagation steps of content over the user-item graph.
        hyper_layers: number of hypergraph convolution layers.
        hyperedges: number of hyperedges A per modality.
        dropout: dropout rate of the assignments to hyperedges, in [0, 1).
        temperature: temperature of the assignments and of the contrastive loss.
        global_weight: weight of the global embeddings (alpha in the paper).
        contrast_weight: weight of the contrastive loss between the hypergraphs of two modalities,
            summed over the batch; unused with a single modality.
        l2: weight of the squared norm of the batch's final embeddings.
    """

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        content_layers: int = 2,
        hyper_layers: int = 1,
        hyperedges: int = 4,
        dropout: float = 0.5,
        temperature: float = 0.2,
        global_weight: float = 0.3,
        contrast_weight: float = 1e-4,
        l2: float = 1e-6,
    ) -> None:
        check_at_least(1, dim=dim, hyper_layers=hyper_layers, hyperedges=hyperedges)
        check_at_least(0, layers=layers, content_layers=content_layers)
        check_at_least(0, global_weight=global_weight, contrast_weight=contrast_weight, l2=l2)
        check_at_least(0.01, temperature=temperature)  # below, a single logit dominates
        check_share(dropout=dropout, whole=False)
        super().__init__(corpus)
        modalities = require_modalities(corpus, "lgmrec")
        self.temperature, self.global_weight = temperature, global_weight
        self.contrast_weight, self.l2 = contrast_weight, l2
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)
        graph = SparseMatrix(
            normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items), symmetric=True
        )
        self.propagate = Propagation(graph, layers)
        user, item = corpus.train.user, corpus.train.item
        shape = (corpus.n_users, corpus.n_items)
        interactions = SparseMatrix(csr_matrix(user, item, torch.ones(len(user)), shape))
        self.channels = nn.ModuleList(
            ContentChannel(modality, interactions, graph, dim, content_layers, hyperedges)
            for modality in modalities.values()
        )
        self.convolve = HypergraphConvolution(hyper_layers, dropout)

    @property
    def present(self) -> list[tuple[Tensor, Tensor]]:
        """Masks per modality: users with an item that has it [U], and items that have it [I]."""
        return [
            (channel.user_present, channel.features.present)
            for channel in self.channels
            if isinstance(channel, ContentChannel)
        ]

    def encode(self) -> Embeddings:
        """Return the sum of local and global embeddings."""
        return self.embed()[0]

    def embed(self) -> tuple[Embeddings, list[Hypergraph]]:
        """Return the final embeddings and the hypergraph of each modality."""
        sizes = [self.corpus.n_users, self.corpus.n_items]
        nodes = self.propagate(torch.cat([self.user.weight, self.item.weight]))  # [N, D]
        ids = nodes[self.corpus.n_users :]
        hyper = []
        for channel, present in zip(self.channels, self.present, strict=True):
            content, *logits = channel()  # [N, D], [U, A], [I, A]
            assigned = [
                soft_assignment(each, self.temperature, has, noise=self.training)
                for each, has in zip(logits, present, strict=True)
            ]
            nodes = nodes + unit_rows(content)
            hyper.append(self.convolve(*assigned, ids))
        all_nodes = [each.embed(torch.cat([each.users, each.items])) for each in hyper]
        joint = torch.stack(all_nodes).sum(0)  # [N, D]
        nodes = nodes + self.global_weight * unit_rows(joint)
        return Embeddings(*nodes.split(sizes)), hyper

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return BPR, the contrastive loss between hypergraphs, and the L2 penalty."""
        final, hyper = self.embed()
        rows = lookup(batch, *final)
        terms = {"bpr": bpr(*pair_scores(*rows))}
        if self.contrast_weight and len(hyper) > 1:
            contrasts = [
                self._contrast(hyper, a, b, side, index)
                for a, b in combinations(range(len(hyper)), 2)
                for side, index in enumerate((batch.user, batch.positive))
            ]
            terms["contrast"] = self.contrast_weight * torch.stack(contrasts).sum()
        terms["l2"] = self.l2 * norm_penalty("squared", *rows)
        return terms

    def _contrast(
        self, hyper: list[Hypergraph], a: int, b: int, side: int, index: Tensor
    ) -> Tensor:
        """Return InfoNCE between modalities a and b, summed over users (side 0) or items (1).

        Each node in modality a is compared with all nodes in modality b. Nodes that lack one of the
        two modalities are excluded. Repeated nodes of a batch are computed once and weighted.
        """
        has, among = self.present[a][side], self.present[b][side]
        index = index[has[index] & among[index]]
        distinct, times = torch.unique(index, return_counts=True)
        one = hyper[a].embed(hyper[a][side][distinct])  # [distinct, D]
        factors = hyper[b].cosine_factors(one, hyper[b][side][among])
        own = (among.cumsum(0) - 1)[distinct]
        mean = info_nce(*factors, self.temperature, own, weights=times.to(one.dtype))
        return len(distinct) * mean


class ContentChannel(nn.Module):
    """Content of one modality, propagated over the user-item graph, and its hyperedge logits.

    Args:
        modality: features [I, F] and presence [I].
        interactions: binary interaction matrix, [U, I].
        graph: normalised user-item graph, [N, N].
        dim: embedding size D.
        layers: number of propagation steps.
        hyperedges: number of hyperedges A.
    """

    user_present: Tensor
    count: Tensor

    def __init__(
        self,
        modality: Modality,
        interactions: SparseMatrix,
        graph: SparseMatrix,
        dim: int,
        layers: int,
        hyperedges: int,
    ) -> None:
        super().__init__()
        self.features = Features(modality)
        self.interactions, self.graph, self.layers = interactions, graph, layers
        self.project = nn.Parameter(torch.empty(modality.width, dim))
        self.hyperedge = nn.Parameter(torch.empty(modality.width, hyperedges))
        nn.init.xavier_uniform_(self.project)
        nn.init.xavier_uniform_(self.hyperedge)
        count = interactions(modality.present.float().unsqueeze(1))  # [U, 1]
        self.register_buffer("count", count.clamp(min=1), persistent=False)
        self.register_buffer("user_present", count.squeeze(1) > 0, persistent=False)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return propagated content [N, D], and logits of users [U, A] and items [I, A].

        The initial content of a user is the mean over the user's items; the logits are their sum.
        """
        dim = self.project.shape[1]
        weight = torch.cat([self.project, self.hyperedge], dim=1)
        items = self.features() @ weight  # [I, D+A]; one pass over the features
        users = self.interactions(items)  # [U, D+A]
        content = torch.cat([users[:, :dim] / self.count, items[:, :dim]])
        for _ in range(self.layers):
            content = self.graph(content)
        return content, users[:, dim:], items[:, dim:]
