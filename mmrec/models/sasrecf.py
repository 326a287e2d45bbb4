"""SASRecF: SASRec with item content.

A baseline of RecBole (https://arxiv.org/abs/2011.01731) without a separate paper, based on SASRec:
Kang and McAuley, ICDM 2018. https://arxiv.org/abs/1808.09781

From RecBole: `fusion=concat`, where the input of SASRec is a linear map of ID embedding and
features, and its states are compared with ID embeddings. Ours: standardized features of any number
of modalities; `add` and `content`; with `content`, items without any content are the mean item;
training as in our SASRec (packed sequences, a target at each position).

Shapes: N items in all sequences of a batch, I items, M modalities, D embedding size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.data import History, TrainingView, require_modalities
from mmrec.data.loaders import Samples
from mmrec.models.sequential import ItemTables, SequentialRecommender
from mmrec.nn import Projection, fill_missing, mean_item
from mmrec.nn.transformer import Transformer, initialize

FusionOfInputs = Literal["concat", "add", "content"]


class SASRecF(SequentialRecommender):
    """SASRec over items that fuse ID embeddings and content.

    With ID embeddings e and `p_m = W_m f_m + b_m`, which is zero for items without modality m:

    - `concat`: the input is `W [e, p_1, ..., p_M] + b`; states are compared with e.
    - `add`: input and output items are `e + sum_m p_m`.
    - `content`: input and output items are `sum_m p_m`, without ID embeddings.

    Args:
        corpus: training interactions with an order, and at least one modality.
        fusion: `concat`, `add` or `content`.
        dim: embedding size D.
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
        fusion: FusionOfInputs = "concat",
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        max_length: int = 50,
        samples: Samples = "causal",
    ) -> None:
        modalities = require_modalities(corpus, "sasrecf")
        check_at_least(1, dim=dim, layers=layers, heads=heads, inner=inner, max_length=max_length)
        check_share(dropout=dropout, whole=False)
        check_choice(FusionOfInputs, fusion=fusion)
        check_choice(Samples, samples=samples)
        super().__init__(corpus)
        self.fusion, self.max_length, self.samples = fusion, max_length, samples
        if fusion != "content":
            self.item = nn.Embedding(corpus.n_items, dim)
        if fusion == "concat":
            self.fuse = nn.Linear((1 + len(modalities)) * dim, dim)
        self.project = Projection(modalities, dim)
        self.apply(initialize)
        self.transformer = Transformer(
            dim, max_length=max_length, layers=layers, heads=heads, inner=inner, dropout=dropout
        )

    def encode(self) -> ItemTables:
        """Return the output and the input vectors of all items."""
        content = self.project()  # [I, M, D]
        match self.fusion:
            case "concat":
                columns = torch.cat([self.item.weight, content.flatten(1)], 1)  # [I, (1 + M) D]
                return ItemTables(self.item.weight, self.fuse(columns))
            case "add":
                items = self.item.weight + content.sum(1)
            case _:
                present, items = self.project.present, content.sum(1)
                items = fill_missing(items, present, mean_item(items, present))
        return ItemTables(items, items)

    def read(self, history: History, encoded: ItemTables) -> Tensor:
        """Return the output of the Transformer at each position: [N, D]."""
        embedded = embedding(history.item, encoded.inputs)  # [N, D]
        states: Tensor = self.transformer(embedded, history.length)
        return states
