"""SASRec: Self-Attentive Sequential Recommendation.

Kang and McAuley, ICDM 2018. https://arxiv.org/abs/1808.09781

A causal Transformer encodes the user's items in chronological order; scores are dot products of its
output at the last item with the item embeddings.

From the paper: self-attention over the latest `max_length` items, learned positions, shared input
and output embeddings, and `loss=bce`. From the re-implementations with the best results (Petrov and
Macdonald, https://arxiv.org/abs/2207.02763; Klenitskiy and Vasilev,
https://arxiv.org/abs/2309.07602): LayerNorm after each sub-layer, GELU, a wide feed-forward
network, initial weights from N(0, 0.02^2), and a cross-entropy over all items. Ours: sequences are
packed instead of padded, which reduces the cost without changing the results.

Shapes: B sequences, N items in all sequences, T targets, K negatives, D embedding size, I items.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import embedding

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.data import History, Sequences, TrainingView
from mmrec.data.loaders import Samples
from mmrec.models.base import ItemEmbeddings
from mmrec.models.sequential import SequentialRecommender
from mmrec.nn.losses import gbce_power, sampled_bce, sampled_softmax
from mmrec.nn.transformer import Transformer

NextItemLoss = Literal["cross_entropy", "bce", "gbce", "sampled_softmax"]


class SASRec(SequentialRecommender):
    """Causal Transformer over the user's item sequence, scored by dot product with items.

    Args:
        corpus: training interactions with an order; content is not used.
        dim: embedding size D.
        layers: number of Transformer blocks.
        heads: number of attention heads; must divide `dim`.
        inner: width of the feed-forward networks.
        dropout: dropout rate of inputs, attention weights and layer outputs, in [0, 1).
        max_length: maximum sequence length; older items are dropped.
        samples: `causal` (one target per position) or `prefix` (one sample per prefix). The cost of
            `prefix` is higher by about the mean sequence length.
        loss: `cross_entropy` over all items, or a loss over `data.negatives` sampled items: `bce`
            as in the paper; `gbce`, which corrects for the number of sampled items; or
            `sampled_softmax`, which corrects for their sampling probabilities.
        calibration: t of `gbce`, from 0 (equal to `bce`) to 1.
    """

    reads_content = False

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        max_length: int = 50,
        samples: Samples = "causal",
        loss: NextItemLoss = "cross_entropy",
        calibration: float = 0.75,
    ) -> None:
        check_at_least(1, dim=dim, layers=layers, heads=heads, inner=inner, max_length=max_length)
        check_share(calibration=calibration)
        check_share(dropout=dropout, whole=False)
        check_choice(Samples, samples=samples)
        check_choice(NextItemLoss, loss=loss)
        super().__init__(corpus)
        self.max_length, self.samples = max_length, samples
        self.loss, self.calibration = loss, calibration
        self.reads_negatives = loss != "cross_entropy"
        self.item = nn.Embedding(corpus.n_items, dim)
        nn.init.normal_(self.item.weight, std=0.02)
        self.transformer = Transformer(
            dim, max_length=max_length, layers=layers, heads=heads, inner=inner, dropout=dropout
        )

    def encode(self) -> ItemEmbeddings:
        """Return the item embeddings."""
        return ItemEmbeddings(self.item.weight)

    def read(self, history: History, encoded: ItemEmbeddings) -> Tensor:
        """Return the output of the Transformer at each position: [N, D]."""
        embedded = embedding(history.item, encoded.items)  # [N, D]
        states: Tensor = self.transformer(embedded, history.length)
        return states

    def losses(self, batch: Sequences) -> dict[str, Tensor]:
        """Return the loss of the targets, over all items or over sampled negatives."""
        if self.loss == "cross_entropy":
            return super().losses(batch)
        states = self.read(batch.history, self.encode())[batch.position]  # [T, D]
        positive = (states * self.item(batch.target)).sum(-1)  # [T]
        negative = (states.unsqueeze(1) * self.item(batch.negative)).sum(-1)  # [T, K]
        if self.loss == "sampled_softmax":
            return {self.loss: sampled_softmax(positive, negative, batch.chance)}
        power = 1.0
        if self.loss == "gbce":
            power = gbce_power(batch.negative.shape[1], self.corpus.n_items, self.calibration)
        return {self.loss: sampled_bce(positive, negative, power)}
