"""SASRecF: SASRec whose items have content.

No paper of its own; a baseline of RecBole (https://arxiv.org/abs/2011.01731) over SASRec, Kang and
McAuley, ICDM 2018. https://arxiv.org/abs/1808.09781

From RecBole: `fusion=concat`, a linear map of ID embedding and features as input of SASRec, whose
states are compared with ID embeddings. Ours: features are standardized content of any number of
modalities; `add` and `content`; an item without any content is the mean item under `content`; the
training of our SASRec (packed sequences, a target at each position).

N items of the sequences of a batch, I items, M modalities, D dim.
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
    """Read fused items with SASRec's Transformer.

    With `p_m = W_m f_m + b_m`, zero for an item without modality m:

    - `concat`: the input is `W [e, p_1, ..., p_M] + b`, and states are compared with e.
    - `add`: both are `e + sum_m p_m`.
    - `content`: both are `sum_m p_m`; there are no ID embeddings.

    Args:
        corpus: training interactions, which need an order, and content.
        fusion: `concat`, `add` or `content`.
        dim: D.
        layers: number of Transformer blocks.
        heads: attention heads; a divisor of `dim`.
        inner: width of the feed-forward networks.
        dropout: rate, of the embedded sequence, attention weights and outputs of layers.
        max_length: longest sequence; older items are left out.
        samples: `causal` has a target at each position of a user's sequence; `prefix` makes a
            sample of each target.
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
        """Return the items as states are compared with them, and as sequences have them."""
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
        """Return the state of each sequence after each of its items: [N, D]."""
        embedded = embedding(history.item, encoded.inputs)  # [N, D]
        states: Tensor = self.transformer(embedded, history.length)
        return states
