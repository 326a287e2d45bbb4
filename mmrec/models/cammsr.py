"""CAMMSR: category-guided attentive mixture of experts for multimodal sequential recommendation.

arXiv 2603.04320, ICDE 2026. https://arxiv.org/abs/2603.04320

From the abstract and the published architecture figure; no code is public, and the formulas are not
known to us. From the figure: one channel for IDs and one per modality, and one table of positions
for all; a pool of experts that the channels share, with an attentive gate per channel; a category
predictor that emits one weight per item and channel, and `x + w * experts(x)`; DyT before the
encoder, one Transformer per channel; positions swapped between two channels after the experts, and
InfoNCE between both swapped outputs. Ours: linear experts and gates; how the predictor makes the
weights (`CategoryGuide`); its targets (all categories of an item, with binary cross-entropy); the
score (the sum over channels of dot products with the item vectors); which channels are swapped (the
modalities in pairs, or the IDs with the only modality); all alternatives that settings offer;
packed sequences with a target at each position; absent modalities have weight 0, and no swaps.

B sequences, N items of all of them, T targets, C channels, M modalities, D dim, K experts, I items,
G categories.
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
    """A history at each stage of the model.

    Attributes:
        where: layout of the sequences.
        present: [N, C] bool.
        embedded: [C, N, D], channels with positions.
        mixed: [C, N, D], after the experts.
        logits: [N, G] of the categories, None if none are predicted.
        states: [N, C D], after the Transformers.
    """

    where: Layout
    present: Tensor
    embedded: Tensor
    mixed: Tensor
    logits: Tensor | None
    states: Tensor


class CAMMSR(SequentialRecommender):
    """Read each channel of a sequence with experts and a Transformer; sum the channels' scores.

    Args:
        corpus: training interactions, which need an order, content and categories.
        dim: D.
        experts: K; 0: channels are read as they are, without weights and category loss.
        pool: `shared` by the channels, or `separate` experts for each.
        gate: of a channel, `linear` or `attention`.
        top_k: experts that a channel of an item keeps; None: all.
        channel_weights: w, from the `category` predictor, or `uniform` (1 each).
        category_weight: weight of the category loss; 0: no category is read.
        contrast: weight lambda of the contrast; 0: nothing is swapped.
        swap: `after` the experts, `before` them, or `mask`: zeros instead of the other channel.
        against: contrast both `swapped` outputs, or each with its own `clean` output.
        swap_rate: chance of a position to be swapped.
        temperature: of the contrast.
        time: add embeddings of the gap before an item and of its time to its position.
        norm: before each Transformer, `dyt`, `layernorm` or `none`.
        norm_inside: in its blocks.
        layers: blocks of each Transformer.
        heads: attention heads; a divisor of `dim`.
        inner: width of the feed-forward networks.
        dropout: rate, of the Transformers' inputs, attention weights and outputs of layers.
        max_length: longest sequence; older items are left out.
        samples: `causal` (a target at each position of a sequence) or `prefix` (a sample of each).

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
            problem = "there are no experts that channels could be weighed with"
            hint = "set model.channel_weights=uniform model.category_weight=0 too"
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
        """Return the channels of all items, side by side: [I, C D]."""
        channels = torch.cat([self.item.weight.unsqueeze(1), self.project()], 1)  # [I, C, D]
        return ItemEmbeddings(channels.flatten(1))

    def by_channel(self, rows: Tensor) -> Tensor:
        """[N, C D] -> [C, N, D]"""
        return rows.view(-1, len(self.names), self.item.embedding_dim).transpose(0, 1)

    def present(self, items: Tensor) -> Tensor:
        """Return which channels items have; all have an ID: [N] -> [N, C] bool."""
        there = self.project.present[items]
        return torch.cat([there.new_ones(len(items), 1), there], 1)

    def weigh(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return w / C, whose rows sum to one, and logits of categories: [N, C] and [N, G]."""
        if self.guide is None:
            return even_gates(present), None
        weights, logits = self.guide(x, present)
        return weights, logits

    def mix(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Add the experts, `x_c + w_c * experts(x)_c`: [C, N, D], and logits of categories."""
        if self.pool is None:
            return x, None
        weights, logits = self.weigh(x, present)
        scale = (weights * present.sum(1, keepdim=True)).to(x.dtype)  # [N, C], the mean is 1
        return x + scale.T.unsqueeze(-1) * self.pool(x), logits

    def states(self, channels: Tensor, where: Layout) -> Tensor:
        """Read each channel with its Transformer: [C, N, D] -> [N, C D]."""
        read = [each(x, where) for each, x in zip(self.interest, channels, strict=True)]
        return torch.cat(read, 1)

    def places(self, history: History, where: Layout) -> Tensor:
        """Embed the position of each item and, if asked for, its time: [N, D]."""
        embedded: Tensor = self.position(where.position)
        if self.time is not None and self.time_map is not None:
            embedded = embedded + self.time_map(self.time(history, where.position))
        return embedded

    def stages(self, history: History, encoded: ItemEmbeddings) -> Reading:
        """Run the model over a history."""
        where, present = layout(history.length), self.present(history.item)
        rows = self.by_channel(embedding(history.item, encoded.items))
        embedded = rows + self.places(history, where)  # [C, N, D]
        mixed, logits = self.mix(embedded, present)
        return Reading(where, present, embedded, mixed, logits, self.states(mixed, where))

    def read(self, history: History, encoded: ItemEmbeddings) -> Tensor:
        """Return the states of all channels, side by side: [N, C D]."""
        return self.stages(history, encoded).states

    def losses(self, batch: Sequences) -> dict[str, Tensor]:
        """Cross-entropy of the targets, category loss of the histories, contrast of swaps."""
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
        """Exchange random positions of two channels, and contrast the users' outputs."""
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
        if self.samples == "prefix":  # other samples of the same user are no negatives
            excluded = (batch.user.unsqueeze(1) == batch.user).fill_diagonal_(fill_value=False)
        terms = [info_nce(*s, self.temperature, cosine=True, excluded=excluded) for s in sides]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def sequence_weights(self, history: History, encoded: ItemEmbeddings) -> dict[str, Tensor]:
        """Return the share of each channel in the weights of each item of sequences: [N] each."""
        reading = self.stages(history, encoded)
        weights, _ = self.weigh(reading.embedded, reading.present)
        return dict(zip(self.names, weights.unbind(1), strict=True))

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Return the share of each channel in the weights of each item, at the mean position."""
        items = torch.arange(self.corpus.n_items, device=self.item.weight.device)
        rows = self.by_channel(self.encode().items)
        weights, _ = self.weigh(rows + self.position.weight.mean(0), self.present(items))
        return dict(zip(self.names, weights.unbind(1), strict=True))
