"""CAMMSR: category-guided attentive mixture of experts for multimodal sequential recommendation.

arXiv 2603.04320, ICDE 2026. https://arxiv.org/abs/2603.04320

A re-implementation from the abstract and the published architecture figure; no code is public, and
the formulas are unknown to us. From the figure: one channel for IDs and one per modality, with one
shared table of positions; a shared pool of experts with an attentive gate per channel; a category
predictor with one weight per item and channel, and `x + w * experts(x)`; DyT before the encoder;
one Transformer per channel; positions swapped between two channels after the experts, and InfoNCE
between the two swapped outputs. Ours: linear experts and gates; the weights of the predictor
(`CategoryGuide`) and its targets (all categories of an item, with binary cross-entropy); the score
(dot products with the item vectors, summed over channels); the pairs of channels that are swapped
(all pairs of modalities, or the IDs with the only modality); all alternative settings; packed
sequences with a target at each position; weight 0 and no swaps for absent modalities.

Shapes: B sequences, N items in all sequences, T targets, C channels, M modalities, D embedding
size, K experts, I items, G categories.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.config.errors import SettingError
from mmrec.data import History, Sequences, TrainingView, require_modalities
from mmrec.data.loaders import Samples, check_ordered
from mmrec.models.base import ItemEmbeddings
from mmrec.models.sequential import SequentialRecommender
from mmrec.nn import (
    CategoryGuide,
    ExpertPool,
    Pool,
    PoolGate,
    Projection,
    TimeEncoding,
    category_loss,
    channel_names,
    even_gates,
    item_labels,
)
from mmrec.nn.losses import full_cross_entropy, info_nce
from mmrec.nn.transformer import Layout, Normalization, Transformer, initialize, last_rows, layout

ChannelWeights = Literal["category", "uniform"]
Swap = Literal["after", "before", "mask"]
Against = Literal["swapped", "clean"]


class Reading(NamedTuple):
    """Intermediate results of the model for a batch of histories.

    Attributes:
        where: layout of the sequences.
        present: channels that each item has, [N, C] bool.
        embedded: channels with positions, [C, N, D].
        mixed: channels after the experts, [C, N, D].
        logits: category logits, [N, G]; None without category predictions.
        states: outputs of the Transformers, [N, C D].
    """

    where: Layout
    present: Tensor
    embedded: Tensor
    mixed: Tensor
    logits: Tensor | None
    states: Tensor


class CAMMSR(SequentialRecommender):
    """Experts and one Transformer per channel of a sequence; scores are summed over channels.

    Args:
        corpus: training interactions with an order, at least one modality, and item categories.
        dim: embedding size D.
        experts: number of experts K; 0 disables experts, channel weights and the category loss.
        pool: `shared` experts for all channels, or `separate` experts per channel.
        gate: type of the gate of each channel, `linear` or `attention`.
        top_k: number of experts kept per item and channel; None keeps all.
        channel_weights: channel weights w: from the `category` predictor, or `uniform` (all 1).
        category_weight: weight of the category loss; 0 disables it, and categories are not read.
        contrast: weight lambda of the contrastive loss; 0 disables it.
        swap: swap `after` or `before` the experts, or `mask`: replace positions by zeros.
        against: contrast the two `swapped` outputs, or each with its `clean` output.
        swap_rate: probability of swapping a position, in [0, 1].
        temperature: temperature of the contrastive loss.
        time: add embeddings of the time of each item and of the gap before it.
        norm: normalization before each Transformer: `dyt`, `layernorm` or `none`.
        norm_inside: normalization in the blocks of the Transformers.
        layers: number of blocks of each Transformer.
        heads: number of attention heads; must divide `dim`.
        inner: width of the feed-forward networks.
        dropout: dropout rate of inputs, attention weights and layer outputs, in [0, 1).
        max_length: maximum sequence length; older items are dropped.
        samples: `causal` (one target per position) or `prefix` (one sample per prefix).

    Raises:
        SettingError: settings contradict each other, or no item has a category.
    """

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        experts: int = 4,
        pool: Pool = "shared",
        gate: PoolGate = "linear",
        top_k: int | None = None,
        channel_weights: ChannelWeights = "category",
        category_weight: float = 1.0,
        contrast: float = 0.1,
        swap: Swap = "after",
        against: Against = "swapped",
        swap_rate: float = 0.2,
        temperature: float = 0.2,
        time: bool = False,
        norm: Normalization = "dyt",
        norm_inside: Normalization = "layernorm",
        layers: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        max_length: int = 50,
        samples: Samples = "causal",
    ) -> None:
        modalities = require_modalities(corpus, "cammsr")
        check_at_least(1, dim=dim, layers=layers, heads=heads, inner=inner, max_length=max_length)
        check_at_least(0, experts=experts, category_weight=category_weight, contrast=contrast)
        check_at_least(0.01, temperature=temperature)
        check_share(dropout=dropout, whole=False)
        check_share(swap_rate=swap_rate)
        check_choice(Pool, pool=pool)
        check_choice(PoolGate, gate=gate)
        check_choice(ChannelWeights, channel_weights=channel_weights)
        check_choice(Swap, swap=swap)
        check_choice(Against, against=against)
        check_choice(Normalization, norm=norm, norm_inside=norm_inside)
        check_choice(Samples, samples=samples)
        weighed = channel_weights == "category"
        if top_k is not None and not 1 <= top_k <= experts:
            expected = f"null, or 1 to model.experts={experts}"
            raise SettingError(setting="model.top_k", value=top_k, expected=expected)
        if not experts and (weighed or category_weight):
            problem = "channel weights and the category loss need experts"
            hint = "also set model.channel_weights=uniform model.category_weight=0"
            raise SettingError(setting="model.experts", value=0, problem=problem, hint=hint)
        super().__init__(corpus)
        self.names = channel_names(modalities, behaviour=True)
        self.max_length, self.samples, self.reads_time = max_length, samples, time
        self.category_weight, self.contrast = category_weight, contrast
        self.swap, self.against = swap, against
        self.swap_rate, self.temperature = swap_rate, temperature
        swapped = range(1 if len(modalities) > 1 else 0, len(self.names))
        self.pairs = [*combinations(swapped, 2)]
        self.item = nn.Embedding(corpus.n_items, dim)
        self.project = Projection(modalities, dim)
        self.position = nn.Embedding(max_length, dim)
        self.time = self.time_map = None
        if time:
            check_ordered(corpus.name, corpus.train)
            self.time = TimeEncoding(corpus.train.by_user(corpus.n_users), dim)
            self.time_map = nn.Linear(2 * dim, dim)
        self.apply(initialize)
        channels = len(self.names)
        self.pool = self.guide = None
        if experts:
            self.pool = ExpertPool(channels, dim, experts, pool=pool, gate=gate, top_k=top_k)
        self.labels = item_labels(corpus) if category_weight else None
        if self.labels is not None or weighed:
            count = 0 if self.labels is None else self.labels.count
            self.guide = CategoryGuide(channels, dim, count, weighed=weighed)
        self.interest = nn.ModuleList(
            Transformer(
                dim,
                max_length=None,
                layers=layers,
                heads=heads,
                inner=inner,
                dropout=dropout,
                norm=norm,
                norm_inside=norm_inside,
            )
            for _ in self.names
        )

    def encode(self) -> ItemEmbeddings:
        """Return the concatenated channels of all items: [I, C D]."""
        channels = torch.cat([self.item.weight.unsqueeze(1), self.project()], 1)  # [I, C, D]
        return ItemEmbeddings(channels.flatten(1))

    def by_channel(self, rows: Tensor) -> Tensor:
        """Split concatenated channels: [N, C D] -> [C, N, D]."""
        return rows.view(-1, len(self.names), self.item.embedding_dim).transpose(0, 1)

    def present(self, items: Tensor) -> Tensor:
        """Return the presence mask of channels, always true for IDs: [N] -> [N, C] bool."""
        there = self.project.present[items]
        return torch.cat([there.new_ones(len(items), 1), there], 1)

    def weigh(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return w / C, with rows that sum to 1, and category logits: [N, C] and [N, G]."""
        if self.guide is None:
            return even_gates(present), None
        weights, logits = self.guide(x, present)
        return weights, logits

    def mix(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return `x_c + w_c * experts(x)_c`, [C, N, D], and the category logits."""
        if self.pool is None:
            return x, None
        weights, logits = self.weigh(x, present)
        scale = (weights * present.sum(1, keepdim=True)).to(x.dtype)  # [N, C], the mean is 1
        return x + scale.T.unsqueeze(-1) * self.pool(x), logits

    def states(self, channels: Tensor, where: Layout) -> Tensor:
        """Apply to each channel its Transformer: [C, N, D] -> [N, C D]."""
        read = [each(x, where) for each, x in zip(self.interest, channels, strict=True)]
        return torch.cat(read, 1)

    def places(self, history: History, where: Layout) -> Tensor:
        """Embed the position of each item and, with `time`, its time: [N, D]."""
        embedded: Tensor = self.position(where.position)
        if self.time is not None and self.time_map is not None:
            embedded = embedded + self.time_map(self.time(history, where.position))
        return embedded

    def stages(self, history: History, encoded: ItemEmbeddings) -> Reading:
        """Run the model on a batch of histories and return all intermediate results."""
        where, present = layout(history.length), self.present(history.item)
        rows = self.by_channel(embedding(history.item, encoded.items))
        embedded = rows + self.places(history, where)  # [C, N, D]
        mixed, logits = self.mix(embedded, present)
        return Reading(where, present, embedded, mixed, logits, self.states(mixed, where))

    def read(self, history: History, encoded: ItemEmbeddings) -> Tensor:
        """Return the concatenated states of all channels: [N, C D]."""
        return self.stages(history, encoded).states

    def losses(self, batch: Sequences) -> dict[str, Tensor]:
        """Return the cross-entropy, the category loss and the contrastive loss of swaps."""
        encoded = self.encode()
        reading = self.stages(batch.history, encoded)
        states = reading.states[batch.position]  # [T, C D]
        terms = {"cross_entropy": full_cross_entropy(states, encoded.items, batch.target)}
        if self.labels is not None and reading.logits is not None:
            loss = category_loss(reading.logits, *self.labels(batch.history.item))
            terms["category"] = self.category_weight * loss
        if self.contrast:
            each = [self.swap_loss(batch, reading, pair) for pair in self.pairs]
            terms["contrast"] = self.contrast * torch.stack(each).mean()
        return terms

    def swap_loss(self, batch: Sequences, reading: Reading, pair: tuple[int, int]) -> Tensor:
        """Swap random positions between two channels and contrast the resulting user vectors."""
        both, present = [*pair], reading.present
        x = reading.embedded if self.swap == "before" else reading.mixed
        chosen = torch.rand(len(present), device=x.device) < self.swap_rate  # [N]
        chosen = (chosen & present[:, both].all(1)).unsqueeze(1)
        others = torch.zeros_like(x[both]) if self.swap == "mask" else x[both[::-1]]
        swapped = torch.where(chosen, others, x[both])  # [2, N, D]
        if self.swap == "before":
            whole = x.index_copy(0, torch.tensor(both, device=x.device), swapped)
            swapped = self.mix(whole, present)[0][both]
        one, two = (
            last_rows(self.interest[c](rows, reading.where), batch.history)
            for c, rows in zip(pair, swapped, strict=True)
        )  # [B, D] each
        sides = [(one, two), (two, one)]
        if self.against == "clean":
            clean = self.by_channel(last_rows(reading.states, batch.history))
            sides = [(clean[pair[0]], one), (clean[pair[1]], two)]
        excluded = None
        if self.samples == "prefix":  # other samples of the same user are not negatives
            excluded = (batch.user.unsqueeze(1) == batch.user).fill_diagonal_(fill_value=False)
        terms = [info_nce(*s, self.temperature, cosine=True, excluded=excluded) for s in sides]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def sequence_weights(self, history: History, encoded: ItemEmbeddings) -> dict[str, Tensor]:
        """Return the normalised weight of each channel for each item of the sequences: [N] each."""
        reading = self.stages(history, encoded)
        weights, _ = self.weigh(reading.embedded, reading.present)
        return dict(zip(self.names, weights.unbind(1), strict=True))

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Return the normalised weight of each channel per item, at the mean position: [I] each."""
        items = torch.arange(self.corpus.n_items, device=self.item.weight.device)
        rows = self.by_channel(self.encode().items)
        weights, _ = self.weigh(rows + self.position.weight.mean(0), self.present(items))
        return dict(zip(self.names, weights.unbind(1), strict=True))
