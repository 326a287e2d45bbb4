"""MAMEX: modality-aware mixture of experts for cold-start recommendation.

arXiv 2508.08042, CIKM 2025. https://arxiv.org/abs/2508.08042

From the paper and its authors' code: items are represented by content only, so cold-start items are
scored like all others. A sparse mixture of linear experts adapts each modality; a gate over
modalities fuses them; an alignment term pulls the fused vector towards each modality; balance terms
keep experts and modalities in use; users have embeddings. As in the code, alignment and balance use
all items, including cold-start items. Ours: presence masks and `modality_dropout` (mentioned in the
paper, absent from the code); the balance of experts uses the gates before top-k, so that unused
experts can recover; on data with cold-start items, negatives are warm items unless
`data.distribution` says otherwise (the code samples from all items); items without any content are
scored as the mean item.

Shapes: U users, I items, N selected items, M modalities, E experts per modality, F_m width of
modality m, D embedding size, B batch, K negatives per pair.
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
    """Encoded content of N items."""

    items: Tensor  # [N, D], undefined for items without content
    each: Tensor  # [N, M, D], zero where a modality is absent
    present: Tensor  # [N, M] bool
    full: Tensor  # [N, M, E] gates of experts
    kept: Tensor  # [N, M, E] gates after top-k, zero where a modality is absent
    share: Tensor | None  # [N, M] gates of modalities


class MAMEX(RoutedRecommender, ContentRecommender):
    """Items encoded from content with a mixture of experts per modality and a gate over modalities.

    `x_m = sum_e w_e (W_e f_m + b_e)` over the `top_k` experts of modality m, with `f_m` of unit
    length; `e = sum_m g_m x_m` with `g = softmax(MLP([x_1, ..., x_M]))`; the score is `<u, e>`. The
    schedule's `top_k`, `temperature` and `noise` apply to the experts, not to the gate g.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        experts: number of experts E per modality.
        fusion: fusion of modalities: a learned `gate`, or `mean`, `sum` or `concat`.
        dropout: dropout rate inside the gate, in [0, 1).
        loss: `bpr`, or `softmax` of cosines over the items of a batch, which ranks by cosine too
            (ours).
        temperature: temperature of the softmax.
        align: weight of the mean squared distance between items and each of their modalities.
        balance: weight of the balance terms of experts and modalities; the schedule scales it.
        l2: weight of the squared norm of the batch's user and item vectors.
        modality_dropout: probability of hiding a modality of an item in training, in [0, 1). One
            modality is always kept, so it has no effect on data with a single modality.
    """

    about_experts = "Expert a/1 is the first expert of modality a."

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
        # Without the popularity correction: cold-start items have no popularity to learn from.
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
        """Warn if `modality_dropout` has no effect."""
        super().on_fit_start()
        if self.modality_dropout and len(self.names) == 1 and self.trainer.is_global_zero:
            log.warning("model.modality_dropout has no effect on data with a single modality")

    @property
    def eligible(self) -> int:
        """Number of experts per modality."""
        return len(self.experts) // len(self.names)

    def views(self, content: Content) -> ModalityVectors:
        """Apply the experts and the fusion to content."""
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
            items = (share.unsqueeze(-1) * stacked).sum(1)  # three times as fast as einsum
        else:
            items, _ = self.fuse(stacked, present)
        items = items.to(self.user.weight.dtype)  # gates are float32 in a half-precision model
        return ModalityVectors(
            items, stacked, present, torch.stack(full, 1), torch.stack(kept, 1), share
        )

    def catalogue(self) -> ModalityVectors:
        """Encode all items; in training, with modality dropout."""
        content = self.item_features()
        if self.training and self.modality_dropout:
            content = content._replace(present=thinned(content.present, self.modality_dropout))
        return self.views(content)

    def ranked(self, views: ModalityVectors) -> Tensor:
        """Return item vectors for scoring, with the mean item for those without content: [N, D]."""
        items = self.ranking_loss.normalized(views.items)
        if self.item_features.complete:
            return items
        return fill_missing(items, views.present, mean_item(items, views.present))

    def from_content(self, content: Content) -> Tensor:
        """Encode items from content, normalised if the loss uses cosines: [N, D]."""
        return self.ranking_loss.normalized(self.views(content).items)

    def fallback_item(self) -> Tensor:
        """Return the mean item of the catalogue: [D]."""
        known = self.catalogue()
        return mean_item(self.ranking_loss.normalized(known.items), known.present)

    def encode(self) -> Embeddings:
        """Return user embeddings, and items encoded from content."""
        users = self.ranking_loss.normalized(self.user.weight)
        return Embeddings(users, self.ranked(self.catalogue()))

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """Return the ranking loss, the alignment, the balance terms and the L2 penalty."""
        views = self.catalogue()
        index = self.ranking_loss.index(batch)
        rows = index.rows(self.user.weight, self.ranked(views))  # [B, D] [B, D] [B, K, D]
        if self.ranking_loss.softmax:  # distinct items instead: [B, D] [M, D]
            users, items = rows
            prefer = self.ranking_loss.softmax_loss(
                index, self.ranking_loss.normalized(users) @ items.T
            )
            rows = users, views.items[index.item]  # not normalised, for the L2 penalty
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
        """Return the weight of each expert per item, which does not depend on users: [I, ME]."""
        views = self.catalogue()
        return joint(shares(views), views.kept)

    @torch.no_grad()
    def pair_gates(self, queries: Queries, items: Tensor) -> Tensor:
        """Return the weight of each expert per pair, which depends on the item only: [P, ME]."""
        return self.item_gates()[items]

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Return the weight of each modality: [I] each; empty with `concat`."""
        if self.fusion == "concat":
            return {}
        return dict(zip(self.names, shares(self.catalogue()).unbind(1), strict=True))


def shares(views: ModalityVectors) -> Tensor:
    """Return the weights of modalities: gates, or equal weights without a gate: [N, M]."""
    return even_gates(views.present) if views.share is None else views.share


def joint(share: Tensor, gates: Tensor) -> Tensor:
    """Multiply modality weights with expert gates: [N, M] and [N, M, E] -> [N, ME]."""
    return (share.unsqueeze(-1) * gates).flatten(1)


def alignment(views: ModalityVectors) -> Tensor:
    """Return `sum_m MSE(e, x_m)`, with means over the items that have modality m."""
    apart = views.items.unsqueeze(1) - views.each  # [N, M, D]
    there = views.present
    share = there / (there.sum(0).clamp(min=1) * apart.shape[-1])
    return (share * apart.square().sum(-1)).sum()


def balance(views: ModalityVectors) -> Tensor:
    """Return `sum_m KL(uniform || mean expert gate of m) + KL(uniform || mean modality gate)`.

    Expert gates are averaged over the items that have modality m, modality gates over the items
    that have any. If items lack modalities, the target of the modality gates is the mean of equal
    gates over the modalities that each item has.
    """
    terms = [
        imbalance(g, p) for g, p in zip(views.full.unbind(1), views.present.unbind(1), strict=True)
    ]
    if views.share is not None:
        terms.append(imbalance(views.share, views.present))
    return torch.stack(terms).sum()


def thinned(present: Tensor, chance: float) -> Tensor:
    """Hide present modalities at random, but keep at least one per item: [N, M] bool."""
    luck = torch.rand(present.shape, device=present.device)
    best = luck.masked_fill(~present, -1).argmax(1, keepdim=True)  # [N, 1]
    stays = (luck >= chance).scatter(1, best, value=True)
    return present & stays
