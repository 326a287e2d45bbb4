"""UniSRec: Towards Universal Sequence Representation Learning for Recommender Systems.

Hou et al., KDD 2022. https://arxiv.org/abs/2206.05941

A mixture of whitening experts adapts frozen content features, and a Transformer encodes the
sequence of adapted items. Scores are cosines with the adapted items, so cold-start items are scored
too.

From the paper: the experts, the noisy gate, cosines divided by a temperature, and ID embeddings
added to content (`ids`, its transductive setting). Ours: no pre-training on other data; one mixture
per modality, summed over the modalities that an item has; features normalised to unit length; one
dropout mask for all experts; items without any content are the mean item; packed sequences with a
target at each position.

Shapes: N items in all sequences of a batch, I items, F features, K experts, D embedding size, M
modalities, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, softplus

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.data import History, TrainingView, require_modalities
from mmrec.data.loaders import Samples
from mmrec.models.base import NoNewItems
from mmrec.models.content import ContentRecommender
from mmrec.models.sequential import ItemTables, SequentialRecommender
from mmrec.nn import (
    Content,
    ItemFeatures,
    channel_names,
    fill_missing,
    mean_item,
    unit_rows,
)
from mmrec.nn.transformer import Transformer, initialize


class WhiteningExperts(nn.Module):
    """Compute `sum_k g_k W_k (x - b_k)` with `g = softmax(V x + noise)`.

    In training, the noise is normal with standard deviation `softplus(U x) + 0.01`; in evaluation,
    it is 0. Gates are initially equal.

    Args:
        width: number of features F.
        dim: output size D.
        experts: number of experts K.
        dropout: dropout rate of the features, except in the gate.
    """

    def __init__(self, width: int, dim: int, experts: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(experts, dim, width))
        nn.init.normal_(self.weight, std=0.02)
        self.shift = nn.Parameter(torch.zeros(experts, width))
        self.gate = nn.Parameter(torch.zeros(width, experts))
        self.noise = nn.Parameter(torch.zeros(width, experts))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the mixture of experts: [I, F] -> [I, D]."""
        logits = x @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (softplus(x @ self.noise) + 0.01)
        seen = dropout(x, self.dropout, self.training)
        made = (seen @ self.weight.flatten(0, 1).T).view(len(x), *self.weight.shape[:2])
        made = made - torch.einsum("kdf,kf->kd", self.weight, self.shift)  # [I, K, D]
        mixed: Tensor = (logits.softmax(1).unsqueeze(-1) * made).sum(1)
        return mixed


class UniSRec(SequentialRecommender, ContentRecommender):
    """Transformer over adapted content, scored by cosine with the adapted items.

    Args:
        corpus: training interactions with an order, and at least one modality.
        dim: embedding size D; 300 in the paper.
        experts: number of experts K per modality.
        adaptor_dropout: dropout rate of the experts' input features, in [0, 1).
        ids: add ID embeddings to the adapted content. New items cannot be encoded then.
        temperature: temperature of the cosines in the cross-entropy.
        layers: number of Transformer blocks.
        heads: number of attention heads; must divide `dim`.
        inner: width of the feed-forward networks.
        dropout: dropout rate of inputs, attention weights and layer outputs, in [0, 1).
        max_length: maximum sequence length; older items are dropped.
        samples: `causal` (one target per position) or `prefix` (one sample per prefix).
    """

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        experts: int = 8,
        adaptor_dropout: float = 0.2,
        ids: bool = False,
        temperature: float = 0.07,
        layers: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        max_length: int = 50,
        samples: Samples = "causal",
    ) -> None:
        modalities = require_modalities(corpus, "unisrec")
        check_at_least(1, dim=dim, experts=experts, layers=layers, heads=heads, inner=inner)
        check_at_least(1, max_length=max_length)
        check_at_least(0.01, temperature=temperature)
        check_share(dropout=dropout, adaptor_dropout=adaptor_dropout, whole=False)
        check_choice(Samples, samples=samples)
        super().__init__(corpus)
        self.max_length, self.samples, self.temperature = max_length, samples, temperature
        self.item_features = ItemFeatures(modalities)
        self.adaptors = nn.ModuleList(
            WhiteningExperts(width, dim, experts, adaptor_dropout)
            for width in self.item_features.widths
        )
        self.item = nn.Embedding(corpus.n_items, dim) if ids else None
        self.apply(initialize)
        self.transformer = Transformer(
            dim, max_length=max_length, layers=layers, heads=heads, inner=inner, dropout=dropout
        )

    def adapt(self, content: Content) -> Tensor:
        """Sum the adapted modalities of each item, zero without content: [N, D]."""
        return self.adapted(content).sum(0)

    def adapted(self, content: Content) -> Tensor:
        """Adapt each modality of items, zero where absent: [M, N, D]."""
        each = zip(self.adaptors, content.rows, content.present.unbind(1), strict=True)
        return torch.stack([a(x) * there.unsqueeze(1) for a, x, there in each])

    def encode(self) -> ItemTables:
        """Return the normalised output vectors and the input vectors of all items."""
        content = self.item_features()
        inputs = self.adapt(content)
        inputs = fill_missing(inputs, content.present, mean_item(inputs, content.present))
        if self.item is not None:
            inputs = inputs + self.item.weight
        return ItemTables(unit_rows(inputs), inputs)

    def read(self, history: History, encoded: ItemTables) -> Tensor:
        """Return the normalised states at each position, divided by the temperature: [N, D]."""
        states = self.transformer(embedding(history.item, encoded.inputs), history.length)
        return unit_rows(states) / self.temperature

    @torch.no_grad()
    def item_weights(self) -> dict[str, Tensor]:
        """Return the share of each channel in the summed vector norms of an item: [I] each.

        Ours, because the model has no channel weights. Empty with a single channel.
        """
        parts = [*self.adapted(self.item_features())]  # [I, D] each
        if self.item is not None:
            parts.insert(0, self.item.weight)
        if len(parts) == 1:
            return {}
        length = torch.stack(parts).norm(dim=2)  # [C, I]
        shares = length / length.sum(0).clamp(min=torch.finfo(length.dtype).tiny)
        names = channel_names(self.corpus.modalities, behaviour=self.item is not None)
        return dict(zip(names, shares, strict=True))

    def from_content(self, content: Content) -> Tensor:
        """Return the normalised output vectors of new items: [N, D].

        Raises:
            NoNewItems: the model uses ID embeddings.
        """
        if self.item is not None:
            raise NoNewItems(
                "UniSRec with model.ids=true cannot score new items, which have no ID embedding; "
                "train with model.ids=false"
            )
        return unit_rows(self.adapt(content))

    def fallback_item(self) -> Tensor:
        """Return the normalised mean item of the catalogue: [D]."""
        content = self.item_features()
        return unit_rows(mean_item(self.adapt(content), content.present))
