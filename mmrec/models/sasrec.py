"""SASRec: Self-Attentive Sequential Recommendation.

Kang and McAuley, ICDM 2018. https://arxiv.org/abs/1808.09781

A causal Transformer reads a user's items in order of time; its output at the last one is compared
with all items.

From the paper: self-attention over the latest `max_length` items, learned positions, one table of
items for input and output, and `loss=bce`. From the re-implementations that reach the best numbers
of it (Petrov and Macdonald, https://arxiv.org/abs/2207.02763; Klenitskiy and Vasilev,
https://arxiv.org/abs/2309.07602): LayerNorm behind each sub-layer, GELU, a wide feed-forward
network, weights from N(0, 0.02^2), and a cross-entropy over all items. Ours: sequences are packed
rather than padded, which changes nothing but the cost.

B sequences, N items of all of them, T targets, K negatives, D dim, I items.
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
    """Score items by the dot product with the Transformer's state after the latest item.

    Args:
        corpus: what the model learns from; its interactions need an order.
        dim: D.
        layers: number of Transformer blocks.
        heads: attention heads; a divisor of `dim`.
        inner: width of the feed-forward networks.
        dropout: rate, of the embedded sequence, attention weights and outputs of layers.
        max_length: longest sequence; older items are left out.
        samples: `causal` learns a target at each position of a user's sequence at once; `prefix`
            makes a sample of each target, which costs about the mean length of a sequence more.
        loss: `cross_entropy` over all items; or of `data.negatives` sampled ones `bce`, as in the
            paper, `gbce` or `sampled_softmax`, which correct for sampling: the first for how few
            items are drawn, the second for the chance of each.
        calibration: t of `gbce`, from 0 (as `bce`) to 1.
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
        """Return the table of items."""
        return ItemEmbeddings(self.item.weight)

    def read(self, history: History, encoded: ItemEmbeddings) -> Tensor:
        """Return the state of each sequence after each of its items: [N, D]."""
        embedded = embedding(history.item, encoded.items)  # [N, D]
        states: Tensor = self.transformer(embedded, history.length)
        return states

    def losses(self, batch: Sequences) -> dict[str, Tensor]:
        """Cross-entropy of the targets, over all items or over negatives."""
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
