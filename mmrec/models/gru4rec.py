"""GRU4Rec: Session-based Recommendations with Recurrent Neural Networks.

Hidasi et al., ICLR 2016. https://arxiv.org/abs/1511.06939

A GRU encodes the user's items in chronological order; scores are dot products of the projected GRU
state with the item embeddings.

From the paper: the GRU over item embeddings. From RecBole (https://arxiv.org/abs/2011.01731), the
implementation that later papers compare with: full histories instead of sessions; dropout of the
inputs only; a linear projection from the hidden size to the embedding size; shared input and output
embeddings; and a cross-entropy over all items, where the paper ranks against the items of the
batch. Ours: sequences are packed, and each position has a target (`samples=causal`).

Shapes: B sequences, N items in all sequences, L longest sequence, D embedding size, H hidden size,
I items.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import dropout, embedding
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.data import History, TrainingView
from mmrec.data.loaders import Samples
from mmrec.models.base import ItemEmbeddings
from mmrec.models.sequential import SequentialRecommender
from mmrec.nn.transformer import layout


class GRU4Rec(SequentialRecommender):
    """GRU over the user's item sequence, scored by dot product with item embeddings.

    Args:
        corpus: training interactions with an order; content is not used.
        dim: embedding size D.
        hidden: hidden size H of the GRU.
        layers: number of GRU layers.
        dropout: dropout rate of the embedded sequence, in [0, 1).
        max_length: maximum sequence length; older items are dropped.
        samples: `causal` (one target per position) or `prefix` (one sample per prefix).
    """

    reads_content = False

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.3,
        max_length: int = 50,
        samples: Samples = "causal",
    ) -> None:
        check_at_least(1, dim=dim, hidden=hidden, layers=layers, max_length=max_length)
        check_share(dropout=dropout, whole=False)
        check_choice(Samples, samples=samples)
        super().__init__(corpus)
        self.dropout, self.max_length, self.samples = dropout, max_length, samples
        self.item = nn.Embedding(corpus.n_items, dim)
        nn.init.xavier_normal_(self.item.weight)
        self.gru = nn.GRU(dim, hidden, layers, bias=False, batch_first=True)
        for weights in self.gru.parameters():
            nn.init.xavier_uniform_(weights)
        self.out = nn.Linear(hidden, dim)

    def encode(self) -> ItemEmbeddings:
        """Return the item embeddings."""
        return ItemEmbeddings(self.item.weight)

    def read(self, history: History, encoded: ItemEmbeddings) -> Tensor:
        """Return the projected GRU state at each position: [N, D]."""
        x = dropout(embedding(history.item, encoded.items), self.dropout, self.training)  # [N, D]
        if not len(x):
            return x
        length = history.length[history.length > 0]  # PackedSequence rejects empty sequences
        where = layout(length)
        packed = pack_padded_sequence(
            where.pad(x), length.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)  # [B, L, H]
        mapped: Tensor = self.out(where.pack(states))
        return mapped
