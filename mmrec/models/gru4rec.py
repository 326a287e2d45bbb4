"""GRU4Rec: Session-based Recommendations with Recurrent Neural Networks.

Hidasi et al., ICLR 2016. https://arxiv.org/abs/1511.06939

A GRU reads a user's items in order of time; a linear map of its state is compared with all items.

From the paper: the GRU over item embeddings. From the re-implementation that later papers compare
with (RecBole, https://arxiv.org/abs/2011.01731): whole histories instead of sessions, dropout of
the inputs only, a linear map from the hidden size to the embedding size, one table of items for
input and output, and a cross-entropy over all items where the paper ranks against the items of the
batch. Ours: sequences are packed, and each position has a target (`samples=causal`).

B sequences, N items of all of them, L longest sequence, D dim, H hidden, I items.
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
    """Score items by the dot product with a linear map of the GRU's state after the latest item.

    Args:
        corpus: training interactions; they need an order.
        dim: D.
        hidden: H, width of the GRU's state.
        layers: number of GRU layers.
        dropout: rate, of the embedded sequence.
        max_length: longest sequence; older items are left out.
        samples: `causal` has a target at each position of a user's sequence; `prefix` makes a
            sample of each target.
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
        """Return the table of items."""
        return ItemEmbeddings(self.item.weight)

    def read(self, history: History, encoded: ItemEmbeddings) -> Tensor:
        """Return the mapped state of each sequence after each of its items: [N, D]."""
        x = dropout(embedding(history.item, encoded.items), self.dropout, self.training)  # [N, D]
        if not len(x):
            return x
        length = history.length[history.length > 0]  # PackedSequence has no empty sequences
        where = layout(length)
        packed = pack_padded_sequence(
            where.pad(x), length.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)  # [B, L, H]
        mapped: Tensor = self.out(where.pack(states))
        return mapped
