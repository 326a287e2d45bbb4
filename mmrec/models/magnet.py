"""MAGNET: role experts on graphs with entropy-triggered routing.

arXiv 2602.20723, 2026. https://arxiv.org/abs/2602.20723

A re-implementation from the public abstract and related work; no code or formula is public. From
the paper: the user-item graph is augmented with content-induced edges, and both graphs are encoded
in parallel and fused; experts have explicit modality roles (dominant, balanced or complementary)
over behaviour and content; routing depends on the user-item pair; routing entropy moves training
from coverage to specialisation. Ours: all formulas and constants. See experiments/magnet.

Shapes: U users, I items, C channels (behaviour and each modality), E experts, D embedding size,
B batch, K negatives, M items compared in a batch, P pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mmrec.config.checks import check_at_least, check_choice
from mmrec.data import Queries, TrainingView, Triplets, require_modalities
from mmrec.graphs import (
    EdgeChoice,
    PseudoEdges,
    augmented_adjacency,
    check_neighbours,
    content_graphs,
    edge_statistics,
    normalized_adjacency,
)
from mmrec.graphs import pseudo_edges as content_edges
from mmrec.models.routed import RoutedRecommender
from mmrec.nn import (
    ABOUT_ROLES,
    ROLES,
    BatchIndex,
    Channels,
    ChannelVectors,
    Experts,
    ItemContent,
    Loss,
    PairRouter,
    Precision,
    RankingLoss,
    Role,
    RoleExperts,
    Sees,
    Terms,
    UserContent,
    block_mixture,
    channel_names,
    expert_templates,
    fused_ranking,
    ranking,
    sparse_softmax,
    tiled_ranking,
)
from mmrec.nn.losses import bpr, norm_penalty
from mmrec.nn.schedules import EntropyTriggered

log = logging.getLogger(__name__)
Graphs = Literal["both", "plain", "augmented"]
# Preference loss, gates of the positive pairs, and the same after top-k: [B, E] each.
Compared: TypeAlias = tuple[dict[str, Tensor], Tensor, Tensor]


class RoutedEmbeddings(NamedTuple):
    """Input of `score`: users by channel, items by expert, and the router's terms of both."""

    users: Tensor  # [C, U, D]
    items: Tensor  # [E, I, D]
    user_terms: Terms
    item_terms: Terms


class MAGNET(RoutedRecommender):
    """Channels on two graphs, experts with modality roles, and a router per user-item pair.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        layers: propagation steps of the behaviour channel.
        content_layers: propagation steps of the content channels.
        behaviour: give the experts a behaviour channel.
        content: content channel of items: ID embeddings of the neighbours in each modality's
            `graph`, `projected` features, or the sum of `both`.
        precision: precision of products with features; `bfloat16` is faster on some hardware.
        late_add: weight of an item's content, added after propagation.
        user_content: content channel of users: `propagated` behaviour, the mean content of the
            `history`, or their `sum`.
        neighbours: neighbours per item in modality graphs and in the similarity for pseudo-edges.
        views: use the `plain` graph, the `augmented` one with pseudo-edges, or `both`.
        pseudo_edges: maximum number of pseudo-edges per user.
        pseudo_weight: weight of a pseudo-edge, relative to the weight 1 of an interaction.
        pseudo_choice: add edges to similar items (`content`), or to `random` items as a control.
        tail_only: add pseudo-edges only to items of at most median popularity.
        roles: weight of the own channels in each role; None omits it. See `role_templates`.
        experts: role `templates`, `free` experts without roles, or `one`: the mean of channels.
        router: input: agreement of the `pair`, `user`, `item`, `all` of them, or `nothing`.
        sharpness: slope of the initial gates as a function of the agreement.
        route: weight of the router's loss terms, which the schedule combines.
        template: weight of the distance between experts and their templates.
        l2: weight of the squared norm of the batch's ID embeddings.
        content_l2: weight of the squared norm of the batch's projected features.
        loss: `bpr`, or `softmax` over the batch's items (3 to 5 times slower on a CPU).
        temperature: temperature of the softmax.
        fused: compile ranking into one kernel; needs a GPU, or a C++ compiler and Python headers.
    """

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        content_layers: int = 1,
        behaviour: bool = True,
        content: ItemContent = "both",
        precision: Precision = "float32",
        late_add: float = 0.5,
        user_content: UserContent = "sum",
        neighbours: int = 10,
        views: Graphs = "both",
        pseudo_edges: int = 5,
        pseudo_weight: float = 0.3,
        pseudo_choice: EdgeChoice = "content",
        tail_only: bool = True,
        roles: Mapping[Role, float | None] = ROLES,
        experts: Experts = "templates",
        router: Sees = "pair",
        sharpness: float = 5.0,
        route: float = 0.1,
        template: float = 10.0,
        l2: float = 1e-2,
        content_l2: float = 1e-2,
        loss: Loss = "bpr",
        temperature: float = 0.2,
        fused: bool = False,
    ) -> None:
        modalities = require_modalities(corpus, "magnet")
        check_choice(Graphs, views=views)
        check_choice(EdgeChoice, pseudo_choice=pseudo_choice)
        check_at_least(1, dim=dim, neighbours=neighbours)
        check_at_least(0, layers=layers, content_layers=content_layers, late_add=late_add)
        check_at_least(0, pseudo_edges=pseudo_edges, pseudo_weight=pseudo_weight, route=route)
        check_at_least(0, sharpness=sharpness, template=template, l2=l2, content_l2=content_l2)
        with_graph = modalities if content != "projected" else {}
        with_edges = modalities if views != "plain" and pseudo_edges > 0 else {}
        check_neighbours(with_graph or with_edges, neighbours, "model.neighbours")
        channels = channel_names(modalities, behaviour=behaviour)
        templates = expert_templates(channels, roles, experts)
        super().__init__(corpus, [t.name for t in templates])
        self.about_experts = ABOUT_ROLES if experts == "templates" else ""
        self.route, self.template, self.l2, self.content_l2 = route, template, l2, content_l2
        self.ranking_loss = RankingLoss(corpus, loss, temperature)
        self.reads_negatives = not self.ranking_loss.softmax
        self.ranking = fused_ranking() if fused else ranking

        graphs = []  # plain and augmented
        self.edges: PseudoEdges | None = None
        if views != "augmented":
            graphs.append(normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items))
        if views != "plain":
            self.edges = content_edges(
                corpus,
                per_user=pseudo_edges,
                neighbours=neighbours,
                tail_only=tail_only,
                choice=pseudo_choice,
            )
            graphs.append(augmented_adjacency(corpus, self.edges, pseudo_weight))
        self.channels = Channels(
            corpus,
            modalities,
            graphs=graphs,
            neighbours=content_graphs(with_graph, neighbours),
            dim=dim,
            layers=layers,
            content_layers=content_layers,
            behaviour=behaviour,
            content=content,
            precision=precision,
            late_add=late_add,
            user_content=user_content,
        )
        self.mix = RoleExperts(templates, anchored=experts != "free")
        weights = self.mix.weights().detach()
        self.router = PairRouter(weights, dim, sees=router, sharpness=sharpness)
        self.schedule = EntropyTriggered(top_k=(None, min(3, len(templates))))

    def on_fit_start(self) -> None:
        """Log the statistics of the pseudo-edges, once per training."""
        super().on_fit_start()
        if self.edges is not None and self.trainer.is_global_zero:
            log.info("%s: %s", self.corpus.name, edge_statistics(self.whole_corpus(), self.edges))

    def tempered(self, logits: Tensor, noise: float = 0.0) -> Tensor:
        """Add noise to router logits and divide them by the temperature."""
        if noise:
            logits = logits + noise * torch.randn_like(logits)
        return logits if self.routing.temperature == 1 else logits / self.routing.temperature

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return the preference loss of the mixed scores, the router terms and the penalties."""
        batch_index = self.ranking_loss.index(batch)
        rows = self.channels.rows(batch_index)
        vectors = self.channels(rows)
        prefer = self.pairs if batch_index.own is None else self.block
        preference, full, kept = prefer(batch_index, vectors)
        terms = {
            **preference,
            "route": self.route * self.route_loss(full, kept),
            "template": self.template * self.mix.penalty(),
            "l2": self.l2 * norm_penalty("squared", *self.channels.embeddings(rows)),
        }
        if vectors.projected is not None:
            norm = vectors.projected.square().sum() / (2 * len(batch_index.user))
            terms["content_l2"] = self.content_l2 * norm
        return terms

    def pairs(self, batch_index: BatchIndex, vectors: ChannelVectors) -> Compared:
        """Compare the positive item of each user with negative ones (BPR)."""
        u = self.mix(vectors.users).unsqueeze(2)  # [E, B, 1, D]
        i = self.mix(vectors.items).view(*u.shape[:2], -1, u.shape[-1])  # [E, B, 1+K, D]
        scores = (u * i).sum(-1).movedim(0, -1)  # [B, 1+K, E]
        scores = scores * self.mix.makes_up(vectors.present).view(scores.shape)
        logits = self.router.pairs(*self.terms(vectors))  # [B, 1+K, E]
        now = self.routing
        gates = sparse_softmax(self.tempered(logits, now.noise), now.top_k, dim=-1)
        mixed = (gates * scores).sum(-1)  # [B, 1+K]
        full = self.tempered(logits[:, 0]).softmax(-1)  # [B, E]
        return {"bpr": bpr(mixed[:, 0], mixed[:, 1:])}, full, gates[:, 0]

    def block(self, batch_index: BatchIndex, vectors: ChannelVectors) -> Compared:
        """Compare the positive item of each user with all items of the batch (softmax)."""
        assert batch_index.own is not None
        users = self.ranking_loss.normalized(self.mix(vectors.users))  # [E, B, D]
        scores = users @ self.expert_items(vectors).mT  # [E, B, M]
        user, item = self.terms(vectors)
        logits = self.router.block(user, item)  # [E, B, M]
        now = self.routing
        mixed, gates = block_mixture(self.tempered(logits, now.noise), scores, now.top_k)
        # Recomputed for positives, because indexing `logits` would allocate an [E, B, M] gradient.
        positive = self.router.pairs(user, item.rows(batch_index.own))[:, 0]  # [B, E]
        row = torch.arange(len(mixed), device=mixed.device)
        full, kept = self.tempered(positive).softmax(-1), gates[:, row, batch_index.own].T  # [B, E]
        return self.ranking_loss.softmax_loss(batch_index, mixed), full, kept

    def terms(self, vectors: ChannelVectors) -> tuple[Terms, Terms]:
        """Return the router's terms of users and of items."""
        return self.router.terms("user", vectors.users), self.router.terms("item", vectors.items)

    def expert_items(self, vectors: ChannelVectors) -> Tensor:
        """Return item vectors of experts, rescaled where channels are absent: [E, M, D]."""
        mixed: Tensor = self.mix(vectors.items)
        if self.ranking_loss.softmax:  # a cosine does not depend on the scale
            return self.ranking_loss.normalized(mixed)
        return mixed * self.mix.makes_up(vectors.present).T.unsqueeze(-1)

    def encode(self) -> RoutedEmbeddings:
        """Compute user channels, expert item vectors, and the router's terms of both."""
        vectors = self.channels()
        return RoutedEmbeddings(vectors.users, self.expert_items(vectors), *self.terms(vectors))

    @torch.no_grad()
    def score(self, encoded: RoutedEmbeddings, queries: Queries) -> Tensor:
        """Return `sum_e g_e(u, i) <y_u^e, y_i^e>`, without gradients: [B, I]."""
        user = encoded.user_terms.rows(queries.user)
        terms = self.router.scaled(user, encoded.item_terms, self.routing.temperature)
        users = self.ranking_loss.normalized(self.mix(encoded.users[:, queries.user]))  # [E, B, D]
        return tiled_ranking(self.ranking, terms, users, encoded.items, self.routing.top_k)

    @torch.no_grad()
    def pair_gates(self, queries: Queries, items: Tensor, *, block: int = 8192) -> Tensor:
        """Return the gate of each expert for pairs: P queries and [P] -> [P, E]."""
        user, item = self.terms(self.channels())
        blocks = zip(torch.split(queries.user, block), torch.split(items, block), strict=True)
        logits = (self.router.pairs(user.rows(u), item.rows(i))[:, 0] for u, i in blocks)
        top_k = self.routing.top_k
        return torch.cat([sparse_softmax(self.tempered(x), top_k, dim=-1) for x in logits])

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Return channel weights of items, averaged over their training users: [I] each."""
        weights = self.mix.channel_weights(self.item_gates(), self.channels.present)  # [I, C]
        return dict(zip(self.channels.names, weights.T, strict=True))

    @torch.no_grad()
    def pair_weights(self, queries: Queries, items: Tensor) -> dict[str, Tensor]:
        """Return channel weights of pairs: [P] each."""
        gates = self.pair_gates(queries, items)  # [P, E]
        weights = self.mix.channel_weights(gates, self.channels.present[items])  # [P, C]
        return dict(zip(self.channels.names, weights.T, strict=True))
