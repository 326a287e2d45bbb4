"""MAMEX: modality-aware mixture of experts for items that nobody has had yet.

arXiv 2508.08042, CIKM 2025. https://arxiv.org/abs/2508.08042

From the paper and its authors' code: an item is nothing but its content, so that one without
interactions is scored like any other. A sparse mixture of linear experts adapts each modality, a
gate over modalities fuses them, an alignment term draws the fused vector to each modality's, and
balance terms keep experts and modalities in use; users are free embeddings. Ours: presence masks
and `modality_dropout`, of which the paper speaks and the code has nothing; the balance of experts
looks at gates before the smaller ones are cut, so that an expert that nobody keeps can come back;
alignment and balance are over all items, as in the code: cold ones, whose content is known, too;
where items are cold, negatives are warm ones, unless `data.distribution` says otherwise, and the
code draws from all; an item without any content is scored as the mean item.

U users, I items, M modalities, E experts of each, F_m width of modality m, D dim, B batch,
K negatives a pair.
"""

from __future__ import annotations

import logging
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.data import Queries, TrainingView, Triplets, require_modalities
from mmrec.models.base import Embeddings
from mmrec.models.content import ContentRecommender
from mmrec.models.routed import RoutedRecommender
from mmrec.nn import (
    Content,
    Fusion,
    ItemFeatures,
    Loss,
    Mixed,
    RankingLoss,
    SparseMixture,
    at_least_float32,
    even_gates,
    fill_missing,
    imbalance,
    masked_softmax,
    mean_item,
)
from mmrec.nn.losses import norm_penalty
from mmrec.nn.schedules import Constant

log = logging.getLogger(__name__)

FusionOfViews = Literal["gate", "mean", "sum", "concat"]


class ModalityVectors(NamedTuple):
    """What content says of N items."""

    items: Tensor  # [N, D], anything where an item has no content
    each: Tensor  # [N, M, D], zero where a modality is absent
    present: Tensor  # [N, M] bool
    full: Tensor  # [N, M, E] gates of experts
    kept: Tensor  # [N, M, E] the same, after the cut; zero where a modality is absent
    share: Tensor | None  # [N, M] gate of modalities


class MAMEX(RoutedRecommender, ContentRecommender):
    """Two levels of gates between content and an item's vector.

    `x_m = sum_e w_e (W_e f_m + b_e)` over the `top_k` experts of modality m, `f_m` of length one;
    `e = sum_m g_m x_m`, `g = softmax(MLP([x_1, ..., x_M]))`; score `<u, e>`. The schedule's
    `top_k`, `temperature` and `noise` are of the experts of each modality, and not of the gate g.

    Args:
        corpus: what the model learns from; it needs at least one modality.
        dim: D.
        experts: E, of each modality.
        fusion: of modalities: a `gate`, or `mean`, `sum` or `concat` without one.
        dropout: in the gate, where there is one.
        loss: `bpr`; or `softmax`, which is ours: a user's item against the other items of the
            batch, by cosine, in ranking too.
        temperature: of the softmax.
        align: weight of the mean squared distance of items to each of their modalities.
        balance: weight of the terms that even out experts and modalities, which the schedule
            weighs further.
        l2: weight of the squared norm of a batch's users and items.
        modality_dropout: chance that training hides a modality of an item; one always stays, so
            that it does nothing where there is one. Nor does the gate between them, nor `dropout`.
    """

    about_experts = "Expert a/1 is the first of modality a."

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 128,
        experts: int = 4,
        fusion: FusionOfViews = "gate",
        dropout: float = 0.1,
        loss: Loss = "bpr",
        temperature: float = 0.2,
        align: float = 1.0,
        balance: float = 1.0,
        l2: float = 1e-6,
        modality_dropout: float = 0.0,
    ) -> None:
        modalities = require_modalities(corpus, "mamex")
        check_at_least(1, dim=dim, experts=experts)
        check_at_least(0, align=align, balance=balance, l2=l2)
        check_choice(FusionOfViews, fusion=fusion)
        check_share(dropout=dropout, modality_dropout=modality_dropout, whole=False)
        super().__init__(corpus, [f"{m}/{e}" for m in modalities for e in range(1, experts + 1)])
        self.names = tuple(modalities)
        self.align, self.balance, self.l2 = align, balance, l2
        self.modality_dropout = modality_dropout
        # Uncorrected, it learns what is liked beyond popularity: all that a cold item can have.
        self.ranking_loss = RankingLoss(corpus, loss, temperature, corrected=False)
        self.reads_negatives = not self.ranking_loss.softmax
        self.item_features = ItemFeatures(modalities)
        self.user = nn.Embedding(corpus.n_users, dim)
        nn.init.normal_(self.user.weight, std=0.1)
        self.mixtures = nn.ModuleList(
            SparseMixture(width, dim, experts) for width in self.item_features.widths
        )
        count = len(self.names)
        self.fusion, self.gated = fusion, fusion == "gate"
        self.fuse: nn.Module
        if fusion == "gate":
            self.fuse = nn.Sequential(
                nn.Linear(count * dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, count)
            )
        else:
            self.fuse = Fusion(count, dim, kind=fusion)
        self.schedule = Constant(coverage=1.0, top_k=min(2, experts))

    def on_fit_start(self) -> None:
        """Tell of a setting that does nothing."""
        super().on_fit_start()
        if self.modality_dropout and len(self.names) == 1 and self.trainer.is_global_zero:
            log.warning("model.modality_dropout hides nothing: there is one modality, which stays")

    @property
    def eligible(self) -> int:
        """The experts of one modality."""
        return len(self.experts) // len(self.names)

    def views(self, content: Content) -> ModalityVectors:
        """Content as the model sees it."""
        rows, present = content
        now = self.routing
        each, full, kept = [], [], []
        for mixture, x, there in zip(self.mixtures, rows, present.unbind(1), strict=True):
            mixed: Mixed = mixture(
                x,
                there,
                top_k=now.top_k,
                temperature=now.temperature,
                noise=now.noise if self.training else 0.0,
            )
            each.append(mixed.rows)
            full.append(mixed.full)
            kept.append(mixed.kept)
        stacked = torch.stack(each, 1)  # [N, M, D]
        share = None
        if self.gated:
            share = masked_softmax(at_least_float32(self.fuse(stacked.flatten(1))), present, dim=1)
            items = (share.unsqueeze(-1) * stacked).sum(1)  # einsum takes thrice the time
        else:
            items, _ = self.fuse(stacked, present)
        items = items.to(self.user.weight.dtype)  # gates have more digits than a model of halves
        return ModalityVectors(
            items, stacked, present, torch.stack(full, 1), torch.stack(kept, 1), share
        )

    def catalogue(self) -> ModalityVectors:
        """Of all items, some modalities hidden in training."""
        content = self.item_features()
        if self.training and self.modality_dropout:
            content = content._replace(present=thinned(content.present, self.modality_dropout))
        return self.views(content)

    def ranked(self, views: ModalityVectors) -> Tensor:
        """Items as a score takes them; those without content are the mean of the others: [N, D]."""
        items = self.ranking_loss.normalized(views.items)
        if self.item_features.complete:
            return items
        return fill_missing(items, views.present, mean_item(items, views.present))

    def from_content(self, content: Content) -> Tensor:
        """New items."""
        return self.ranking_loss.normalized(self.views(content).items)

    def fallback_item(self) -> Tensor:
        """The mean item of the catalogue."""
        known = self.catalogue()
        return mean_item(self.ranking_loss.normalized(known.items), known.present)

    def encode(self) -> Embeddings:
        """Users as they are, items from their content."""
        users = self.ranking_loss.normalized(self.user.weight)
        return Embeddings(users, self.ranked(self.catalogue()))

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Ranking loss, alignment over all items, balance of experts and of modalities."""
        views = self.catalogue()
        index = self.ranking_loss.index(batch)
        rows = index.rows(self.user.weight, self.ranked(views))  # [B, D] [B, D] [B, K, D]
        if self.ranking_loss.softmax:  # or distinct: [B, D] [M, D]
            users, items = rows
            prefer = self.ranking_loss.softmax_loss(
                index, self.ranking_loss.normalized(users) @ items.T
            )
            rows = users, views.items[index.item]  # of cosines the length is lost
        else:
            prefer = self.ranking_loss(index, *rows)
        now = self.routing
        share = shares(views)[batch.positive]
        gates, load = (joint(share, x[batch.positive]) for x in (views.full, views.kept))
        there = views.present[batch.positive]
        even = even_gates(there.repeat_interleave(self.eligible, 1))
        decided = self.observe(gates, load, even)
        return {
            **prefer,
            "align": self.align * alignment(views),
            "balance": self.balance * now.coverage * balance(views),
            "confidence": now.confidence * decided,
            "l2": self.l2 * norm_penalty("squared", *rows),
        }

    @torch.no_grad()
    def item_gates(self) -> Tensor:
        """What each expert weighs in an item: [I, ME]; who asks does not matter."""
        views = self.catalogue()
        return joint(shares(views), views.kept)

    @torch.no_grad()
    def pair_gates(self, queries: Queries, items: Tensor) -> Tensor:
        """The same for pairs, which their items decide: P queries and [P] -> [P, ME]."""
        return self.item_gates()[items]

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """What each modality weighs in an item: [I] each; nothing where they are concatenated."""
        if self.fusion == "concat":
            return {}
        return dict(zip(self.names, shares(self.catalogue()).unbind(1), strict=True))


def shares(views: ModalityVectors) -> Tensor:
    """Of modalities: the gate's, or equal ones: [N, M]."""
    return even_gates(views.present) if views.share is None else views.share


def joint(share: Tensor, gates: Tensor) -> Tensor:
    """What each expert of each modality weighs in an item: [N, M] and [N, M, E] -> [N, ME]."""
    return (share.unsqueeze(-1) * gates).flatten(1)


def alignment(views: ModalityVectors) -> Tensor:
    """`sum_m MSE(e, x_m)`, over the items that have m."""
    apart = views.items.unsqueeze(1) - views.each  # [N, M, D]
    there = views.present
    share = there / (there.sum(0).clamp(min=1) * apart.shape[-1])
    return (share * apart.square().sum(-1)).sum()


def balance(views: ModalityVectors) -> Tensor:
    """`sum_m KL(uniform || mean gate of m's experts) + KL(uniform || mean gate of modalities)`.

    Means are over the items that have the modality, and over those that have any; where items lack
    some, the mean of modalities is held to that of equal gates among what they have.
    """
    terms = [
        imbalance(g, p) for g, p in zip(views.full.unbind(1), views.present.unbind(1), strict=True)
    ]
    if views.share is not None:
        terms.append(imbalance(views.share, views.present))
    return torch.stack(terms).sum()


def thinned(present: Tensor, chance: float) -> Tensor:
    """Some of what is there hidden at random, never an item's last: [N, M] bool."""
    luck = torch.rand(present.shape, device=present.device)
    best = luck.masked_fill(~present, -1).argmax(1, keepdim=True)  # [N, 1]
    stays = (luck >= chance).scatter(1, best, value=True)
    return present & stays
