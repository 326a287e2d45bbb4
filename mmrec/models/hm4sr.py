"""HM4SR: Hierarchical Time-Aware Mixture of Experts for Multi-Modal Sequential Recommendation.

Zhang et al., WWW 2025. https://arxiv.org/abs/2501.14269

Channels of IDs and modalities pass experts that see all of them together, then experts that a gate
over time chooses, and a Transformer each; scores are sums over channels.

From the paper and its authors' code: all of it. `as_published` keeps what the code does and the
paper does not say: the temporal experts are never trained, in contrasts a pair with the same target
gets the logit 0 instead of none, and absolute times are seconds in single precision. Without it,
experts are trained, such pairs are left out, and times run from 0 to 1000. Ours: features are
standardized; any number of modalities, with zeros where an item lacks one; items without a category
do not count; packed sequences (the code reads a random gap behind the last item), and a target at
each position, where contrasts have the last one.

B sequences, N items of all of them, C channels, M modalities, D dim, K experts, I items.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.data import History, Sequences, TrainingView, require_modalities
from mmrec.data.loaders import Samples, check_ordered
from mmrec.models.base import ItemEmbeddings
from mmrec.models.sequential import SequentialRecommender
from mmrec.nn import (
    Projection,
    TimeEncoding,
    category_loss,
    channel_names,
    item_labels,
    unit_rows,
)
from mmrec.nn.losses import full_cross_entropy, info_nce
from mmrec.nn.transformer import Layout, Transformer, initialize, last_rows, layout


class Reading(NamedTuple):
    """A history at the stages of the model.

    Attributes:
        where: layout of the sequences.
        time: [N, 2 D].
        mixed: [N, C, D], after both kinds of experts.
        states: [N, C, D], after the Transformers.
    """

    where: Layout
    time: Tensor
    mixed: Tensor
    states: Tensor


class HM4SR(SequentialRecommender):
    """Mix the channels of items, then scale them by time, and read each with a Transformer.

    Args:
        corpus: training interactions, which need an order, content and categories.
        dim: D.
        experts: K, of the interactive experts.
        temporal_experts: number of temporal experts.
        category_weight: weight of the category loss; 0: no category is read.
        id_contrast: weight of the contrast of ID states with the IDs of targets.
        placeholder_contrast: weight of the contrast with sequences where placeholders, made of the
            time, stand for some items' modalities.
        mask_share: share of a sequence that placeholders replace.
        temperature: of the ID contrast; that of placeholders is 1.
        as_published: keep the behaviour of the public code where it is not the paper's.
        layers: blocks of each Transformer.
        heads: attention heads; a divisor of `dim`.
        inner: width of the feed-forward networks.
        dropout: rate, of the Transformers' inputs, attention weights and outputs of layers.
        max_length: longest sequence; older items are left out.
        samples: `causal` has a target at each position of a user's sequence; `prefix` makes a
            sample of each target, as in the paper.
    """

    reads_time = True

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        experts: int = 4,
        temporal_experts: int = 4,
        category_weight: float = 1.0,
        id_contrast: float = 1.0,
        placeholder_contrast: float = 1.0,
        mask_share: float = 0.3,
        temperature: float = 0.2,
        as_published: bool = False,
        layers: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        max_length: int = 50,
        samples: Samples = "causal",
    ) -> None:
        modalities = require_modalities(corpus, "hm4sr")
        check_at_least(1, dim=dim, experts=experts, temporal_experts=temporal_experts)
        check_at_least(1, layers=layers, heads=heads, inner=inner, max_length=max_length)
        check_at_least(0, category_weight=category_weight, id_contrast=id_contrast)
        check_at_least(0, placeholder_contrast=placeholder_contrast)
        check_at_least(0.01, temperature=temperature)
        check_share(mask_share=mask_share)
        check_share(dropout=dropout, whole=False)
        check_choice(Samples, samples=samples)
        check_ordered(corpus.name, corpus.train)
        super().__init__(corpus)
        self.max_length, self.samples, self.as_published = max_length, samples, as_published
        self.category_weight, self.id_contrast = category_weight, id_contrast
        self.placeholder_contrast, self.mask_share = placeholder_contrast, mask_share
        self.temperature = temperature
        self.names = channel_names(modalities, behaviour=True)
        channels = len(self.names)
        self.shape = channels, dim
        self.item = nn.Embedding(corpus.n_items, dim)
        self.project = Projection(modalities, dim)
        self.position = nn.Embedding(max_length, dim)
        by_user = corpus.train.by_user(corpus.n_users)
        self.time = TimeEncoding(by_user, dim, scaled=not as_published)
        self.time_gate = nn.Linear(2 * dim, temporal_experts)
        self.apply(initialize)
        width = channels * dim
        self.expert = nn.Linear(width, experts * width)
        self.gate = nn.Parameter(torch.empty(channels, dim, experts))
        self.gate_bias = nn.Parameter(torch.zeros(channels, 1, experts))
        nn.init.uniform_(self.gate, -(dim**-0.5), dim**-0.5)  # as of nn.Linear
        self.strength = nn.Parameter(torch.ones(channels).index_fill(0, torch.tensor(0), 0.0))
        temporal = torch.randn(temporal_experts, width) * 0.1
        if as_published:
            self.register_buffer("temporal", temporal)
        else:
            self.temporal = nn.Parameter(temporal)
        self.labels = item_labels(corpus) if category_weight else None
        if self.labels is not None:
            self.predict = nn.Linear(width, self.labels.count)
        if placeholder_contrast:
            self.placeholder = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in modalities)
        self.interest = nn.ModuleList(
            Transformer(
                dim, max_length=None, layers=layers, heads=heads, inner=inner, dropout=dropout
            )
            for _ in range(channels)
        )

    def encode(self) -> ItemEmbeddings:
        """Return the channels of all items, side by side: [I, C D]."""
        channels = torch.cat([self.item.weight.unsqueeze(1), self.project()], 1)  # [I, C, D]
        return ItemEmbeddings(channels.flatten(1))

    def interact(self, x: Tensor) -> Tensor:
        """Add the interactive experts, which see all channels: [N, C, D] -> [N, C, D]."""
        made = self.expert(x.flatten(1)).view(-1, self.gate.shape[2], *x.shape[1:])  # [N, K, C, D]
        gates = (x.transpose(0, 1) @ self.gate + self.gate_bias).softmax(-1)  # [C, N, K]
        mixed = (gates.permute(1, 2, 0).unsqueeze(-1) * made).sum(1)
        out: Tensor = x + self.strength.unsqueeze(1) * mixed
        return out

    def stages(self, history: History, encoded: ItemEmbeddings) -> Reading:
        """Run the model over a history."""
        where = layout(history.length)
        rows = embedding(history.item, encoded.items).view(-1, *self.shape)
        x = self.interact(rows + self.position(where.position).unsqueeze(1))
        time = self.time(history, where.position)
        scale = self.time_gate(time).softmax(1) @ self.temporal  # [N, C D]
        x = x * scale.view_as(x)
        read = [each(x[:, c], where) for c, each in enumerate(self.interest)]
        return Reading(where, time, x, torch.stack(read, 1))

    def read(self, history: History, encoded: ItemEmbeddings) -> Tensor:
        """Return the states of all channels, side by side: [N, C D]."""
        return self.stages(history, encoded).states.flatten(1)

    @torch.no_grad()
    def sequence_weights(self, history: History, encoded: ItemEmbeddings) -> dict[str, Tensor]:
        """Return the share of each channel in the spread of scores after each item: [N] each.

        Ours: the model weighs no channels. The spread is the standard deviation over the catalogue
        of what a channel adds to the scores.
        """
        states = self.stages(history, encoded).states.transpose(0, 1)  # [C, N, D]
        items = encoded.items.view(-1, *self.shape).transpose(0, 1)  # [C, I, D]
        items = items - items.mean(1, keepdim=True)
        variance = ((states @ (items.transpose(1, 2) @ items)) * states).sum(2) / items.shape[1]
        spread = variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()  # [C, N]
        return dict(zip(self.names, spread / spread.sum(0), strict=True))

    def losses(self, batch: Sequences) -> dict[str, Tensor]:
        """Cross-entropy of the targets, category loss, and both contrasts."""
        history, encoded = batch.history, self.encode()
        reading = self.stages(history, encoded)
        states = reading.states.flatten(1)[batch.position]
        terms = {"cross_entropy": full_cross_entropy(states, encoded.items, batch.target)}
        if self.labels is not None:
            logits = self.predict(embedding(history.item, encoded.items))
            loss = category_loss(logits, *self.labels(history.item))
            terms["category"] = self.category_weight * loss
        target = batch.target[torch.searchsorted(batch.position, history.last())]  # [B]
        users = last_rows(reading.states.flatten(1), history).view(-1, *self.shape)
        if self.id_contrast:
            loss = self.contrast(users[:, 0], self.item(target), target, self.temperature)
            terms["id_contrast"] = self.id_contrast * loss
        if self.placeholder_contrast:
            masked = self.masked(reading, history)
            each = [
                self.contrast(users[:, 1 + m], rows, target, 1.0) for m, rows in enumerate(masked)
            ]
            terms["placeholder"] = self.placeholder_contrast * torch.stack(each).mean()
        return terms

    def contrast(self, one: Tensor, two: Tensor, target: Tensor, temperature: float) -> Tensor:
        """InfoNCE of rows with cosines; rows with the same target are no negatives: [B, D] each."""
        same = (target.unsqueeze(1) == target).fill_diagonal_(fill_value=False)  # [B, B]
        if not self.as_published:
            return info_nce(one, two, temperature, cosine=True, excluded=same)
        logits = unit_rows(one) @ unit_rows(two).T / temperature
        own = torch.arange(len(target), device=target.device)
        return cross_entropy(logits.masked_fill(same, 0.0), own)

    def masked(self, reading: Reading, history: History) -> list[Tensor]:
        """Return the outputs of each modality with placeholders in some places: [B, D] each."""
        where, count = reading.where, (self.mask_share * history.length).long()  # [B]
        row = torch.arange(len(count), device=count.device).repeat_interleave(history.length)
        order = (row + torch.rand(len(row), device=row.device, dtype=torch.float64)).argsort()
        chosen = torch.zeros_like(row, dtype=torch.bool)
        chosen[order] = where.position < count[row]  # shuffled within each sequence
        found = []
        for m, placeholder in enumerate(self.placeholder):
            stand_in = placeholder(reading.time).to(reading.mixed.dtype)
            x = torch.where(chosen.unsqueeze(1), stand_in, reading.mixed[:, 1 + m])
            found.append(last_rows(self.interest[1 + m](x, where), history))
        return found
