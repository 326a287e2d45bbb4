"""Base class of models that predict the next item of a sequence."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmrec.data import History, Queries, Sequences
from mmrec.models.base import Recommender
from mmrec.nn.losses import full_cross_entropy
from mmrec.nn.transformer import last_rows


class ItemTables(NamedTuple):
    """Vectors of items that differ in what they are for.

    Attributes:
        items: [I, D], compared with states.
        inputs: [I, D], read in sequences.
    """

    items: Tensor
    inputs: Tensor


class SequentialRecommender(Recommender):
    """A model that compares the state of a sequence with the vectors of all items.

    A model with several channels concatenates them, in states as in items: the dot product is then
    the sum over the channels.

    Shapes: B sequences, N items of all of them, T targets, D embedding size, I items.
    """

    batch_type = Sequences
    needs_history = True
    reads_negatives = False

    def encode(self) -> Any:
        """Return tables of items; those that states are compared with are `items`: [I, D]."""
        raise TypeError(f"{type(self).__name__} must define encode()")

    def read(self, history: History, encoded: Any) -> Tensor:
        """Return the state of each sequence after each of its items.

        Args:
            history: N items.
            encoded: as returned by `encode`.

        Returns:
            [N, D]
        """
        raise TypeError(f"{type(self).__name__} must define read()")

    def sequence_weights(self, history: History, encoded: Any) -> dict[str, Tensor]:
        """Return what matters at each item of sequences, per channel: [N] each; empty if nothing.

        By default the weights of the items, wherever they stand.

        Args:
            history: N items.
            encoded: as returned by `encode`.
        """
        return {name: weight[history.item] for name, weight in self.item_weights().items()}

    def score(self, encoded: Any, queries: Queries) -> Tensor:
        """Compare the state after the last item with all items: [B, I], 0 without a history."""
        history = queries.require_history()
        states = last_rows(self.read(history, encoded), history)  # [B, D]
        return torch.mm(states, encoded.items.T)

    def losses(self, batch: Sequences) -> dict[str, Tensor]:
        """Cross-entropy of the targets over all items."""
        encoded = self.encode()
        states = self.read(batch.history, encoded)[batch.position]  # [T, D]
        return {"cross_entropy": full_cross_entropy(states, encoded.items, batch.target)}
