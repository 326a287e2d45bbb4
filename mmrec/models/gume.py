"""GUME: Graphs and User Modalities Enhancement for Long-Tail Multimodal Recommendation.

Lin et al., CIKM 2024. https://arxiv.org/abs/2407.12338

From the paper and its public code: all formulas. Features are trainable, and each item is its own
neighbour in the item graph of each modality. Users aggregate the explicit features of their items
over the interactions of the joint graph, whose degrees include item neighbours. Ours: any number of
modalities, where the alignment is averaged over all pairs; absent modalities have weight 0 in
attention, gates and means; nodes without any view are excluded from the contrastive losses. The
public code has one table of extended interests per modality and uses only their mean; this
implementation stores a single table.

Shapes: U users, I items, N nodes (users, then items), M modalities, D embedding size, B batch,
K negatives per pair, R selected nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from mmrec.config.checks import check_at_least
from mmrec.data import TrainingView, Triplets, require_modalities
from mmrec.graphs import (
    check_neighbours,
    directed_content_graph,
    interaction_block,
    joint_adjacency,
    shared_neighbours,
)
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import (
    FusedViews,
    ModalityViews,
    ProjectedFeatures,
    Propagation,
    SparseMatrix,
    ViewFusion,
    contrast_views,
)
from mmrec.nn.lookup import pairs_with_negatives
from mmrec.nn.losses import bpr, info_nce, norm_penalty, pair_scores

NOISE = 0.1  # norm of the perturbation of users


class GUME(Recommender):
    """Embeddings on a joint graph of interactions and similar items, plus fused modality views.

    With the joint graph `A = D^-1/2 [[0, R], [R^T, S]] D^-1/2`, where S connects items that are
    neighbours in all modalities, and the mean P of the propagation steps over A:

    - behaviour: `h = P [e_u, e_i]` of the ID embeddings
    - explicit features: views x_m (`ModalityViews`), fused to s (`ViewFusion`)
    - extended interests, in training only: `t = P [t_u, mean_m x_m]` with user embeddings t_u

    The final embeddings are `h + s`.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        layers: propagation steps over the joint graph.
        item_layers: propagation steps over the item graph of each modality.
        neighbours: number of content neighbours per item, including the item itself.
        align: weight of the alignment of modalities: differences in mean and variance of views.
        contrast: weight of the contrastive loss between s and h, for users and positive items.
        temperature: temperature of `contrast`.
        user_contrast: weight of the contrastive losses of users: between t and s, and between two
            perturbed copies of s and of t.
        user_temperature: temperature of `user_contrast`.
        l2: weight of the squared norm of the final embeddings in a batch.
        interest_l2: weight of the squared norm of t for the positive items of a batch.
    """

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 3,
        item_layers: int = 2,
        neighbours: int = 10,
        align: float = 0.1,
        contrast: float = 0.01,
        temperature: float = 0.4,
        user_contrast: float = 0.01,
        user_temperature: float = 0.1,
        l2: float = 1e-5,
        interest_l2: float = 0.1,
    ) -> None:
        check_at_least(1, dim=dim, item_layers=item_layers, neighbours=neighbours)
        check_at_least(0, layers=layers, align=align, l2=l2, interest_l2=interest_l2)
        check_at_least(0, contrast=contrast, user_contrast=user_contrast)
        check_at_least(0.01, temperature=temperature, user_temperature=user_temperature)
        super().__init__(corpus)
        modalities = require_modalities(corpus, "gume")
        check_neighbours(modalities, neighbours, "model.neighbours", self_loops=True)
        self.names = tuple(modalities)
        self.align, self.l2, self.interest_l2 = align, l2, interest_l2
        self.contrast, self.temperature = contrast, temperature
        self.user_contrast, self.user_temperature = user_contrast, user_temperature
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        self.interest = nn.Embedding(corpus.n_users, dim)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)
        # The gain gives the standard deviation of a mean of M tables.
        nn.init.xavier_uniform_(self.interest.weight, gain=len(modalities) ** -0.5)
        self.project = nn.ModuleList(
            ProjectedFeatures(modality, dim, trainable=True) for modality in modalities.values()
        )
        joint = joint_adjacency(
            corpus.train, corpus.n_users, corpus.n_items, shared_neighbours(modalities, neighbours)
        )
        self.propagate = Propagation(SparseMatrix(joint), layers)
        graphs = [directed_content_graph(m, neighbours) for m in modalities.values()]
        interactions = interaction_block(joint, corpus.n_users)
        self.views = ModalityViews(graphs, interactions, dim, layers=item_layers)
        self.fuse = ViewFusion(len(modalities), dim)
        self.complete = bool(self.views.present.any(1).all())

    def explicit(self) -> Tensor:
        """Return the views of all nodes: [N, M, D]."""
        views: Tensor = self.views(self.item.weight, [project() for project in self.project])
        return views

    def nodes(self) -> tuple[Tensor, FusedViews]:
        """Return the behaviour embeddings h [N, D] and the fused views of all nodes."""
        behaviour = self.propagate(torch.cat([self.user.weight, self.item.weight]))
        return behaviour, self.fuse(self.explicit(), behaviour, self.views.present)

    def encode(self) -> Embeddings:
        """Return the sum of behaviour embeddings and fused views."""
        behaviour, side = self.nodes()
        nodes = behaviour + side.vectors
        return Embeddings(*torch.split(nodes, [self.corpus.n_users, self.corpus.n_items]))

    def behaviour_and_interests(self, views: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return h and t of selected nodes [R]: [R, D] each."""
        there = self.views.present[self.corpus.n_users :]
        items = views[self.corpus.n_users :].sum(1) / there.sum(1, keepdim=True).clamp(min=1)
        users = torch.cat([self.user.weight, self.interest.weight], dim=1)
        start = torch.cat([users, torch.cat([self.item.weight, items], dim=1)])  # [N, 2D]
        # One propagation for both reads the rows of the graph only once.
        behaviour, interests = self.propagate.rows(start, rows).chunk(2, dim=1)
        return behaviour, interests

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return BPR, the penalties, the alignment of modalities and the contrastive losses."""
        index = pairs_with_negatives(batch)
        rows = index.nodes(self.corpus.n_users)  # [B+B(1+K)]
        views = self.explicit()
        behaviour, interests = self.behaviour_and_interests(views, rows)
        looked_up = embedding(rows, views.flatten(1)).view(-1, *views.shape[1:])
        present = self.views.present[rows]
        side = self.fuse(looked_up, behaviour, present).vectors
        final = index.parts(*index.sides(behaviour + side))  # [B, D] [B, D] [B, K, D]
        (s_user, _), (t_user, t_items) = index.sides(side), index.sides(interests)
        terms = {
            "bpr": bpr(*pair_scores(*final)),
            "l2": self.l2 * norm_penalty("squared", *final),
            "interest_l2": self.interest_l2 * norm_penalty("squared", index.of_items(t_items)[0]),
        }
        if self.align and len(self.names) > 1:
            terms["align"] = self.align * modality_gap(views, self.views.present)
        viewed = None if self.complete else present.any(1)
        if self.contrast:
            apart = contrast_views(index, side, behaviour, self.temperature, viewed)
            terms["contrast"] = self.contrast * apart
        if self.user_contrast:
            if viewed is not None:
                of_users = viewed[: len(batch.user)]
                s_user, t_user = s_user[of_users], t_user[of_users]
            pairs = [(t_user, s_user), *((self.noisy(x), self.noisy(x)) for x in (s_user, t_user))]
            alike = [info_nce(x, y, self.user_temperature, cosine=True) for x, y in pairs]
            terms["user_contrast"] = self.user_contrast * torch.stack(alike).sum()
        return terms

    def noisy(self, x: Tensor) -> Tensor:
        """Add noise of norm 0.1 with the signs of x, in training only."""
        if not self.training:
            return x
        return x + NOISE * x.sign() * normalize(torch.rand_like(x), dim=-1)

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Return the attention of each modality: [I] each."""
        _, side = self.nodes()
        return side.item_weights(self.names, self.corpus.n_users)

    @torch.no_grad()
    def item_measures(self) -> dict[str, Tensor]:
        """Return the mean gate of the specific part of each modality: [I] each."""
        _, side = self.nodes()
        return side.item_measures(self.names, self.corpus.n_users, self.views.present)


def modality_gap(views: Tensor, present: Tensor) -> Tensor:
    """Return `|var_a - var_b| + |mean_a - mean_b|`, averaged over pairs of modalities.

    The variance and the mean of a modality are taken over all values of its views.

    Args:
        views: [N, M, D], zero where absent.
        present: mask of the views, [N, M] bool.
    """
    count = present.sum(0) * views.shape[-1]  # [M]
    mean = views.sum((0, 2)) / count
    apart = (views - mean.unsqueeze(-1)) * present.unsqueeze(-1)
    variance = apart.square().sum((0, 2)) / (count - 1)
    a, b = torch.triu_indices(len(mean), len(mean), offset=1, device=views.device)
    return ((variance[a] - variance[b]).abs() + (mean[a] - mean[b]).abs()).mean()
