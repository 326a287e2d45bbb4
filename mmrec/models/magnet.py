"""MAGNET: role experts on graphs with entropy-triggered routing.

arXiv 2602.20723, 2026. https://arxiv.org/abs/2602.20723

A re-implementation from the public abstract and related work; no code or formula is public. From
the paper: the user-item graph is augmented with content-induced edges, both graphs are encoded in
parallel and fused lightly; structured experts have explicit modality roles, dominant, balanced and
complementary, over behavioural and content cues; routing is conditioned on the interaction; routing
entropy moves training by itself from coverage to specialisation. Ours: every formula and number
here, above all what a content channel is (ID embeddings smoothed over the modality's neighbours,
and projected features whose norm is held: free, they overfit within epochs) and what the router
sees (how well user and item agree in each channel). What was tried in single runs, on data whose
roles are known and on real data: networks in the experts overfit and hide the roles (`hidden`);
content alone or its graph alone is worse than both, but for beauty's text, whose graph alone is
better; content that only enters before propagation, which halves it beside what users bring, costs
recall above all on the tail, but for scientific (`late_add`); an even load that is asked for by its
entropy alone leaves half of the experts dead, or, held harder, costs recall, where
`KL(uniform || mean gate)` leaves none dead and costs none; a strong confidence term
leaves few alive and costs recall, where colder gates in the second stage decide and cost none;
complementary experts whose vectors are shorter than the others' are soon left out; so is the
behaviour channel, mostly, which begins at a third of the content channels' length, and vectors of
equal length bring it back at the price of recall; a router that also has free terms of user and
item (`router="all"`) overfits on tiktok within five epochs.

U users, I items, C channels (behaviour and each modality), E experts, D dim, B batch, K negatives,
M items that a batch is compared by, N = U + I nodes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmrec.checks import check_at_least, check_choice
from mmrec.data import Corpus, Modality, Queries, Triplets, require_modalities
from mmrec.graphs import (
    EdgeChoice,
    augmented_adjacency,
    check_neighbours,
    content_knn,
    edge_statistics,
    knn_adjacency,
    normalized_adjacency,
)
from mmrec.graphs import pseudo_edges as content_edges
from mmrec.losses import bpr, norm_penalty
from mmrec.models.base import RoutedRecommender
from mmrec.nn import (
    ROLES,
    Loss,
    PairRouter,
    Picked,
    Precision,
    Preference,
    Projection,
    Propagation,
    Role,
    RoleExperts,
    Sees,
    SparseMatrix,
    TakenRows,
    Template,
    Terms,
    blended_rows,
    block_mixture,
    fused_ranking,
    ranking,
    role_templates,
    sparse_softmax,
    take_rows,
)
from mmrec.schedules import EntropyTriggered

log = logging.getLogger(__name__)

Content = Literal["graph", "projected", "both"]
UserContent = Literal["propagated", "history", "sum"]
Graphs = Literal["both", "plain", "augmented"]
Experts = Literal["templates", "free", "one"]

BEHAVIOUR = "behaviour"
# Pairs whose experts are mixed at a time: what a CPU's caches hold, and few launches on a GPU.
TILE = {"cpu": 2**18, "cuda": 2**22}
FEW = 0.5  # of the items: fewer are gathered before they are projected


class Encoded(NamedTuple):
    """What ranking needs: users by channel, items by expert."""

    users: Tensor  # [C, U, D]
    user: Terms
    items: Tensor  # [E, I, D]
    item: Terms


class Wanted(NamedTuple):
    """Rows of a batch."""

    picked: Picked
    nodes: Tensor  # [B+M], users first
    graphs: list[TakenRows]  # of each graph


class Views(nn.Module):
    """The same signal over each graph in parallel: `z = g z_0 + (1 - g) z_1`.

    Args:
        graphs: the collaborative one, and the augmented one; or one alone, with no gate. Others may
            share them.
        layers: propagation steps.
    """

    def __init__(self, graphs: Iterable[SparseMatrix], layers: int) -> None:
        super().__init__()
        self.views = nn.ModuleList(Propagation(graph, layers) for graph in graphs)
        # Without a step both views are the signal.
        self.gated = len(self.views) == 2 and layers > 0
        if self.gated:
            self.gate = nn.Parameter(torch.tensor(2.0))  # .88 of it collaborative, at first

    def forward(self, x: Tensor, wanted: Wanted | None = None) -> Tensor:
        """[N, D] -> [N, D], or only the rows that are wanted: -> [B+M, D]."""
        share = torch.sigmoid(self.gate) if self.gated else None
        if wanted is not None:
            weights = None if share is None else torch.stack([share, 1 - share])
            return blended_rows([*self.views], weights, x, wanted.nodes, wanted.graphs)
        found: list[Tensor] = [view(x) for view in self.views]
        return found[0] if share is None else torch.lerp(found[1], found[0], share)


class MAGNET(RoutedRecommender):
    """Two views of the graph, a channel per cue, experts with roles, a router for each pair.

    Args:
        corpus: what the model learns from; it needs at least one modality.
        dim: embedding size D.
        layers: propagation steps of the behaviour channel.
        content_layers: propagation steps of the content channels.
        behaviour: whether experts see the behaviour channel beside the modalities'.
        content: what an item's content channel is: `graph`, its neighbours' ID embeddings; its
            `projected` features; or the sum of `both`.
        precision: of the products with features: `bfloat16` is faster on hardware that has it, and
            nearly as exact.
        late_add: weight of an item's content beside its propagated channel; with one step, 0.5
            gives back what the mean of content and step takes.
        user_content: what a user's content channel is: `propagated`, as the behaviour channel;
            `history`, the content of what they have, and users then bring items nothing of their
            own; or their `sum`.
        neighbours: of each item in a modality's graph, and in the similarity behind pseudo-edges.
        views: the graph with pseudo-edges beside the `plain` one, or one of them alone.
        pseudo_edges: of each user, at most.
        pseudo_weight: beside an interaction's weight of 1.
        pseudo_choice: `content`, or `random` to compare with.
        tail_only: whether pseudo-edges go to items of at most the median popularity only.
        roles: weight of the dominant channel, of each of a balanced pair, of the anchor; a role
            that is None has no experts.
        experts: `templates` begin at their roles; `free` ones know none; `one` is a single expert,
            which begins at the mean of the channels, and no router.
        router: what it sees: how the `pair` agrees; the `user` or the `item`; `all` three; or
            `nothing`, for equal gates.
        sharpness: how much the first gates follow agreement.
        route: weight of the router's terms, which the schedule weighs among themselves.
        template: weight of how far experts are from their templates.
        l2: weight of the squared norm of a batch's ID embeddings.
        content_l2: weight of the squared norm of a batch's projected content.
        loss: `bpr`; or `softmax` over the items of a batch, whose experts score by cosine, in
            ranking too. Every user meets every item of the batch: on a CPU, a step takes three to
            five times as long.
        temperature: of the softmax.
        fused: whether rankings gate experts in one pass over memory, which torch compiles at the
            first one. It takes half a minute, and where there is no GPU a C++ compiler and Python's
            headers.
    """

    present: Tensor  # [I, C] bool

    def __init__(
        self,
        corpus: Corpus,
        *,
        dim: int = 64,
        layers: int = 2,
        content_layers: int = 1,
        behaviour: bool = True,
        content: Content = "both",
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
        check_choice(Content, content=content)
        check_choice(UserContent, user_content=user_content)
        check_choice(Graphs, views=views)
        check_choice(EdgeChoice, pseudo_choice=pseudo_choice)
        check_choice(Experts, experts=experts)
        check_choice(Precision, precision=precision)
        check_choice(Sees, router=router)
        check_at_least(1, dim=dim, neighbours=neighbours)
        check_at_least(0, layers=layers, content_layers=content_layers)
        check_at_least(0, pseudo_edges=pseudo_edges, pseudo_weight=pseudo_weight, late_add=late_add)
        check_at_least(0, sharpness=sharpness, route=route, template=template)
        check_at_least(0, l2=l2, content_l2=content_l2)
        edged = views != "plain" and pseudo_edges > 0
        alike = modalities if content != "projected" or edged else {}
        check_neighbours(alike, neighbours, "model.neighbours")
        if user_content == "history" and not content_layers:
            raise ValueError(
                "model.user_content=history needs a step from items to users; give "
                "model.content_layers=1 or more"
            )
        if not behaviour and user_content == "history" and content == "projected":
            raise ValueError(
                "model.behaviour=false, user_content=history and content=projected leave no use "
                "for an embedding; change one of them"
            )
        names = (*((BEHAVIOUR,) if behaviour else ()), *modalities)
        templates = role_templates(names, roles)
        if experts == "one":
            templates = [Template("one", (1 / len(names),) * len(names))]
        elif experts == "free":
            templates = [t._replace(name=f"free/{n}") for n, t in enumerate(templates, 1)]
        super().__init__(corpus, [t.name for t in templates])
        if experts == "templates":
            self.about_experts = (
                "An expert dominant/a looks mostly at channel a, balanced/a+b at both alike, "
                "complementary/a at a and at what the others add to it."
            )
        self.channels, self.content, self.user_content = names, content, user_content
        self.content_layers, self.late_add = content_layers, late_add
        self.route, self.template, self.l2, self.content_l2 = route, template, l2, content_l2
        self.preference = Preference(corpus, loss, temperature)
        self.reads_negatives = not self.preference.softmax
        self.ranking = fused_ranking() if fused else ranking

        self.node = nn.Embedding(corpus.n_users + corpus.n_items, dim)  # users first
        for part in torch.split(self.node.weight.detach(), [corpus.n_users, corpus.n_items]):
            nn.init.xavier_uniform_(part)
        self.neighbours = self.project = None
        if content != "projected":
            self.neighbours = nn.ModuleList(
                SparseMatrix(_item_graph(modality, neighbours), symmetric=True)
                for modality in modalities.values()
            )
        if content != "graph":
            self.project = Projection(modalities, dim, precision=precision)
        present = [torch.ones(corpus.n_items, dtype=torch.bool)] * behaviour
        present += [modality.present for modality in modalities.values()]
        self.register_buffer("present", torch.stack(present, 1), persistent=False)  # [I, C]

        graphs = []
        self.about_edges = ""  # what training tells of the pseudo-edges
        if views != "augmented":
            graphs.append(normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items))
        if views != "plain":
            edges = content_edges(
                corpus,
                per_user=pseudo_edges,
                neighbours=neighbours,
                tail_only=tail_only,
                choice=pseudo_choice,
            )
            self.about_edges = f"{corpus.name}: {edge_statistics(corpus, edges)}"
            graphs.append(augmented_adjacency(corpus, edges, pseudo_weight))
        shared = [SparseMatrix(adjacency, symmetric=True) for adjacency in graphs]
        self.graphs = nn.ModuleList(shared)
        self.behaviour = None
        if behaviour or user_content != "history":  # else nobody looks at it
            self.behaviour = Views(shared, layers)
        self.contents = nn.ModuleList(Views(shared, content_layers) for _ in modalities)

        self.mix = RoleExperts(templates, anchored=experts != "free")
        self.router = PairRouter(self.mix.weights().detach(), dim, sees=router, sharpness=sharpness)
        self.schedule = EntropyTriggered(top_k=min(3, len(templates)))

    def on_fit_start(self) -> None:
        """Tell of the pseudo-edges: once, not wherever a run is opened again."""
        super().on_fit_start()
        if self.about_edges and self.trainer.is_global_zero:
            log.info("%s", self.about_edges)

    def wanted(self, picked: Picked) -> Wanted:
        """What a batch's rows need of the graphs."""
        index = picked.nodes(self.corpus.n_users)
        rows = [take_rows(graph.matrix, index) for graph in self.graphs]  # type: ignore[arg-type]
        return Wanted(picked, index, rows)

    def item_content(self, items: Tensor, projected: Tensor | None) -> list[Tensor]:
        """What items bring to each content channel, from IDs [I, D] and features: [I, D] each."""
        around = [smooth(items) for smooth in self.neighbours or ()]
        shown = [] if projected is None else [*projected.unbind(1)]
        match self.content:
            case "graph":
                return around
            case "projected":
                return shown
            case "both":
                return [a + b for a, b in zip(around, shown, strict=True)]

    def projected(self, wanted: Wanted | None = None) -> Tensor | None:
        """Features at the scale of embeddings, if they count: [I, M, D].

        The dearest part of a step: items that no wanted row depends on are left out, and zero,
        where that is less work.
        """
        if self.project is None:
            return None
        projected: Tensor = self.project(self.reached(wanted) if wanted is not None else None)
        return projected

    def reached(self, wanted: Wanted) -> Tensor | None:
        """Items whose content rows depend on, if they are few: [R]; otherwise None."""
        if self.content_layers > 1:
            return None  # two steps reach nearly all
        nodes = torch.zeros(len(self.node.weight), dtype=torch.bool, device=wanted.nodes.device)
        nodes[wanted.nodes] = True
        if self.content_layers:
            for found in wanted.graphs:
                nodes[found.part.col_indices()] = True
        items = nodes[self.corpus.n_users :].nonzero().squeeze(1)
        return items if len(items) < FEW * self.corpus.n_items else None

    def channel_vectors(
        self, projected: Tensor | None, wanted: Wanted | None = None
    ) -> tuple[Tensor, Tensor]:
        """Each channel's vectors of users and items.

        Args:
            projected: features, from `projected(wanted)`.
            wanted: rows of a batch; all if None.

        Returns:
            [C, U, D] and [C, I, D], or [C, B, D] and [C, M, D].
        """
        n_users = self.corpus.n_users

        def sides(rows: Tensor) -> tuple[Tensor, Tensor]:
            if wanted is None:
                return rows[:n_users], rows[n_users:]
            return wanted.picked.sides(rows)

        shown, found = self.items_of(wanted), []
        if self.behaviour is not None:
            user, item = sides(self.behaviour(self.node.weight, wanted))
            found.append((user, item))
        users, items = torch.split(self.node.weight, [n_users, self.corpus.n_items])
        own = torch.zeros_like(users) if self.user_content == "history" else users
        for view, content in zip(self.contents, self.item_content(items, projected), strict=True):
            user_m, item_m = sides(view(torch.cat([own, content]), wanted))
            if self.late_add:
                item_m = torch.add(item_m, content[shown], alpha=self.late_add)
            match self.user_content:
                case "propagated":
                    user_m = user
                case "sum":
                    user_m = user + user_m
            found.append((user_m, item_m))
        chosen = found[-len(self.channels) :]  # behaviour stands first, if it counts
        there = self.there(wanted).T.unsqueeze(-1)  # [C, I or M, 1]
        return torch.stack([u for u, _ in chosen]), torch.stack([i for _, i in chosen]) * there

    def there(self, wanted: Wanted | None) -> Tensor:
        """Which channels items have: [I, C] bool, or [M, C] of a batch."""
        return self.present[self.items_of(wanted)]

    def items_of(self, wanted: Wanted | None) -> Tensor | slice:
        """All items, or those of a batch: [M]."""
        return slice(None) if wanted is None else wanted.picked.item

    def gates(self, logits: Tensor, *, noise: float = 0.0) -> Tensor:
        """What the experts of pairs weigh, those left out nothing: [..., E] -> [..., E]."""
        if noise:
            logits = logits + noise * torch.randn_like(logits)
        return sparse_softmax(logits / self.routing.temperature, self.routing.top_k, dim=-1)

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Preference by mixed scores, the router's terms, and what holds templates and vectors."""
        wanted = self.wanted(self.preference.pick(batch))
        projected = self.projected(wanted)
        users, items = self.channel_vectors(projected, wanted)  # [C, B, D] [C, M, D]
        prefer = self.pairs if wanted.picked.own is None else self.block
        preference, full, kept = prefer(wanted, users, items)
        layer0 = wanted.picked.sides(embedding(wanted.nodes, self.node.weight, sparse=True))
        terms = {
            **preference,
            "route": self.route * self.route_loss(full, kept),
            "template": self.template * self.mix.penalty(),
            "l2": self.l2 * norm_penalty("squared", *layer0),
        }
        if projected is not None:
            rows = projected[wanted.picked.item]
            size = len(wanted.picked.user)
            terms["content_l2"] = self.content_l2 * rows.square().sum() / (2 * size)
        return terms

    def pairs(
        self, wanted: Wanted, users: Tensor, items: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """BPR: each user with an own item and with negatives.

        Args:
            wanted: rows of a batch.
            users: [C, B, D].
            items: [C, B(1+K), D].

        Returns:
            The term, and of the observed pairs the gates before and after experts are left out:
            [B, E] each.
        """
        u = self.mix(users).unsqueeze(2)  # [E, B, 1, D]
        i = self.mix(items).view(*u.shape[:2], -1, u.shape[-1])  # [E, B, 1+K, D]
        scores = (u * i).sum(-1).movedim(0, -1)  # [B, 1+K, E]
        scores = scores * self.mix.makes_up(self.there(wanted)).view(scores.shape)
        logits = self.router.pairs(
            self.router.terms("user", users), self.router.terms("item", items)
        )  # [B, 1+K, E]
        gates = self.gates(logits, noise=self.routing.noise)
        mixed = (gates * scores).sum(-1)  # [B, 1+K]
        full = (logits[:, 0] / self.routing.temperature).softmax(-1)  # [B, E]
        return {"bpr": bpr(mixed[:, 0], mixed[:, 1:])}, full, gates[:, 0]

    def block(
        self, wanted: Wanted, users: Tensor, items: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Softmax: every user with every item of the batch; arguments and result as of `pairs`."""
        scores = self.expert_users(users) @ self.expert_items(items, self.there(wanted)).mT
        user, item = self.router.terms("user", users), self.router.terms("item", items)
        logits = self.router.block(user, item)  # [E, B, M], as the scores
        now = self.routing
        if now.noise:
            logits = logits + now.noise * torch.randn_like(logits)
        if now.temperature != 1:
            logits = logits / now.temperature
        mixed, gates = block_mixture(logits, scores, now.top_k)
        own = wanted.picked.own
        assert own is not None
        # Once more for the pairs alone: a gradient of their place among all is as large as all.
        seen = self.router.pairs(user, item.rows(own))[:, 0]  # [B, E]
        full = (seen / now.temperature).softmax(-1)
        row = torch.arange(len(mixed), device=mixed.device)
        return self.preference.among(wanted.picked, mixed), full, gates[:, row, own].T

    def expert_users(self, users: Tensor) -> Tensor:
        """What experts make of users: [C, B, D] -> [E, B, D]."""
        return self.preference.compared(self.mix(users))

    def expert_items(self, items: Tensor, present: Tensor) -> Tensor:
        """What experts make of items, and of what they lack: [C, M, D], [M, C] -> [E, M, D]."""
        mixed = self.mix(items)
        if self.preference.softmax:  # by direction alone: there is nothing to make up for
            return self.preference.compared(mixed)
        made_up: Tensor = mixed * self.mix.makes_up(present).T.unsqueeze(-1)
        return made_up

    def encode(self) -> Encoded:
        """Channels of users, experts of items, and what the router makes of both."""
        users, items = self.channel_vectors(self.projected())
        return Encoded(
            users,
            self.router.terms("user", users),
            self.expert_items(items, self.present),
            self.router.terms("item", items),
        )

    @torch.no_grad()  # it works in place
    def score(self, encoded: Encoded, queries: Queries) -> Tensor:
        """`sum_e g_e(u, i) <y_u^e, y_i^e>`, in tiles of items: [B, I]; for rankings only."""
        users = self.expert_users(encoded.users[:, queries.user])  # [E, B, D]
        now = self.routing
        user, item, weights = self.router.scaled(
            encoded.user.rows(queries.user), encoded.item, now.temperature
        )
        found, tile = [], max(1, TILE.get(users.device.type, TILE["cuda"]) // users.shape[1])
        for first in range(0, self.corpus.n_items, tile):
            rows = slice(first, first + tile)
            items = encoded.items[:, rows]
            found.append(self.ranking(user, item.rows(rows), weights, users, items, now.top_k))
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def pair_gates(self, users: Tensor, items: Tensor, *, block: int = 8192) -> Tensor:
        """What each expert weighs in the scores of pairs: [P] and [P] -> [P, E]."""
        all_users, all_items = self.channel_vectors(self.projected())
        user, item = self.router.terms("user", all_users), self.router.terms("item", all_items)
        blocks = zip(torch.split(users, block), torch.split(items, block), strict=True)
        return torch.cat(
            [self.gates(self.router.pairs(user.rows(u), item.rows(i))[:, 0]) for u, i in blocks]
        )

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """What each channel weighs in an item's scores for its train users: [I] means each."""
        weights = torch.einsum("ie,iec->ci", self.item_gates(), self.mix.shares(self.present))
        return dict(zip(self.channels, weights, strict=True))

    @torch.no_grad()
    def pair_weights(self, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """What each channel weighs in the scores of pairs: [P] each."""
        # Of items that have the same channels all shares are the same: a few dozen of [E, C].
        kinds, kind = torch.unique(self.present, dim=0, return_inverse=True)
        shares, kind = self.mix.shares(kinds), kind[items]  # [S, E, C], [P]
        gates = self.pair_gates(users, items)  # [P, E]
        weights = gates.new_zeros(len(self.channels), len(items))
        for place, of_kind in enumerate(shares):
            pairs = (kind == place).nonzero().squeeze(1)
            weights[:, pairs] = (gates[pairs] @ of_kind).T
        return dict(zip(self.channels, weights, strict=True))


def _item_graph(modality: Modality, k: int) -> Tensor:
    """[I, I]: neighbours by content, symmetric and normalised."""
    return knn_adjacency(
        content_knn(modality, k), weights="similarity", normalize="symmetric", symmetrize=True
    )
