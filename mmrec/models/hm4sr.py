"""HM4SR: Hierarchical Time-Aware Mixture of Experts for Multi-Modal Sequential Recommendation.

Zhang et al., WWW 2025. https://arxiv.org/abs/2501.14269

Channels of IDs and modalities pass through interactive experts, which see all channels; temporal
experts, gated by time; and one Transformer per channel. Scores are summed over channels.

From the paper and its authors' code: the whole model. `as_published` reproduces three details of
the code that the paper does not mention: the temporal experts are never trained; pairs with the
same target get logit 0 in the contrastive losses instead of being excluded; absolute times are
seconds in single precision. By default, the experts are trained, such pairs are excluded, and times
are scaled to 0 to 1000. Ours: features are standardized; any number of modalities is supported, and
absent ones are zero; items without a category do not count in the category loss; sequences are
packed (the code uses a random time gap after the last item); each position has a target, and the
contrastive losses use the last one.

Shapes: B sequences, N items in all sequences, C channels, M modalities, D embedding size, K
experts, I items.
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
    """Intermediate results of the model for a batch of histories.

    Attributes:
        where: layout of the sequences.
        time: time encoding, [N, 2 D].
        mixed: channels after the interactive and the temporal experts, [N, C, D].
        states: outputs of the Transformers, [N, C, D].
    """

    where: Layout
    time: Tensor
    mixed: Tensor
    states: Tensor


class HM4SR(SequentialRecommender):
    """Interactive and temporal experts, then one Transformer per channel of the sequence.

    Args:
        corpus: training interactions with timestamps, at least one modality, and item categories.
        dim: embedding size D.
        experts: number of interactive experts K.
        temporal_experts: number of temporal experts.
        category_weight: weight of the category loss; 0 disables it, and categories are not read.
        id_contrast: weight of the contrastive loss between ID states and target IDs.
        placeholder_contrast: weight of the contrastive loss with sequences in which placeholders,
            computed from time, replace the modality channels of some items.
        mask_share: share of a sequence that is replaced by placeholders, in [0, 1].
        temperature: temperature of the ID contrast; that of the placeholder contrast is 1.
        as_published: reproduce the public code where it deviates from the paper.
        layers: number of blocks of each Transformer.
        heads: number of attention heads; must divide `dim`.
        inner: width of the feed-forward networks.
        dropout: dropout rate of inputs, attention weights and layer outputs, in [0, 1).
        max_length: maximum sequence length; older items are dropped.
        samples: `causal` (one target per position) or `prefix` (one sample per prefix, as in the
            paper).
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
        nn.init.uniform_(self.gate, -(dim**-0.5), dim**-0.5)  # as in nn.Linear
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
        """Return the concatenated channels of all items: [I, C D]."""
        channels = torch.cat([self.item.weight.unsqueeze(1), self.project()], 1)  # [I, C, D]
        return ItemEmbeddings(channels.flatten(1))

    def interact(self, x: Tensor) -> Tensor:
        """Add the output of the interactive experts: [N, C, D] -> [N, C, D]."""
        made = self.expert(x.flatten(1)).view(-1, self.gate.shape[2], *x.shape[1:])  # [N, K, C, D]
        gates = (x.transpose(0, 1) @ self.gate + self.gate_bias).softmax(-1)  # [C, N, K]
        mixed = (gates.permute(1, 2, 0).unsqueeze(-1) * made).sum(1)
        out: Tensor = x + self.strength.unsqueeze(1) * mixed
        return out

    def stages(self, history: History, encoded: ItemEmbeddings) -> Reading:
        """Run the model on a batch of histories and return all intermediate results."""
        where = layout(history.length)
        rows = embedding(history.item, encoded.items).view(-1, *self.shape)
        x = self.interact(rows + self.position(where.position).unsqueeze(1))
        time = self.time(history, where.position)
        scale = self.time_gate(time).softmax(1) @ self.temporal  # [N, C D]
        x = x * scale.view_as(x)
        read = [each(x[:, c], where) for c, each in enumerate(self.interest)]
        return Reading(where, time, x, torch.stack(read, 1))

    def read(self, history: History, encoded: ItemEmbeddings) -> Tensor:
        """Return the concatenated states of all channels: [N, C D]."""
        return self.stages(history, encoded).states.flatten(1)

    @torch.no_grad()
    def sequence_weights(self, history: History, encoded: ItemEmbeddings) -> dict[str, Tensor]:
        """Return the share of each channel in the spread of scores at each position: [N] each.

        Ours, because the model has no channel weights. The spread of a channel is the standard
        deviation over the catalogue of its contribution to the scores.
        """
        states = self.stages(history, encoded).states.transpose(0, 1)  # [C, N, D]
        items = encoded.items.view(-1, *self.shape).transpose(0, 1)  # [C, I, D]
        items = items - items.mean(1, keepdim=True)
        variance = ((states @ (items.transpose(1, 2) @ items)) * states).sum(2) / items.shape[1]
        spread = variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()  # [C, N]
        return dict(zip(self.names, spread / spread.sum(0), strict=True))

    def losses(self, batch: Sequences) -> dict[str, Tensor]:
        """Return the cross-entropy, the category loss and both contrastive losses."""
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
        """Return InfoNCE of [B, D] and [B, D] with cosines, without negatives of equal target."""
        same = (target.unsqueeze(1) == target).fill_diagonal_(fill_value=False)  # [B, B]
        if not self.as_published:
            return info_nce(one, two, temperature, cosine=True, excluded=same)
        logits = unit_rows(one) @ unit_rows(two).T / temperature
        own = torch.arange(len(target), device=target.device)
        return cross_entropy(logits.masked_fill(same, 0.0), own)

    def masked(self, reading: Reading, history: History) -> list[Tensor]:
        """Return the user vectors of each modality with placeholders: [B, D] each."""
        where, count = reading.where, (self.mask_share * history.length).long()  # [B]
        row = torch.arange(len(count), device=count.device).repeat_interleave(history.length)
        order = (row + torch.rand(len(row), device=row.device, dtype=torch.float64)).argsort()
        chosen = torch.zeros_like(row, dtype=torch.bool)
        chosen[order] = where.position < count[row]  # random positions of each sequence
        found = []
        for m, placeholder in enumerate(self.placeholder):
            stand_in = placeholder(reading.time).to(reading.mixed.dtype)
            x = torch.where(chosen.unsqueeze(1), stand_in, reading.mixed[:, 1 + m])
            found.append(last_rows(self.interest[1 + m](x, where), history))
        return found
