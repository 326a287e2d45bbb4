"""Base class of sequential models, which predict the next item of a sequence."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmrec.data import History, Queries, Sequences
from mmrec.models.base import Recommender
from mmrec.nn.losses import full_cross_entropy
from mmrec.nn.transformer import last_rows


class ItemTables(NamedTuple):
    """Separate item vectors for the output and the input of a sequential model.

    Attributes:
        items: output vectors, compared with states, [I, D].
        inputs: input vectors of sequences, [I, D].
    """

    items: Tensor
    inputs: Tensor


class SequentialRecommender(Recommender):
    """Base class of models that score items by the dot product with the state of a sequence.

    Models with several channels concatenate them in states and in items; the dot product is then
    the sum over channels. Subclasses define `encode` and `read`.

    Shapes: B sequences, N items in all sequences, T targets, D embedding size, I items.
    """

    batch_type = Sequences
    needs_history = True
    reads_negatives = False

    def encode(self) -> Any:
        """Return item vectors with the attribute `items`, [I, D], which is compared with states."""
        raise TypeError(f"{type(self).__name__} must define encode()")

    def read(self, history: History, encoded: Any) -> Tensor:
        """Return the state of each sequence at each of its items.

        Args:
            history: packed sequences with N items.
            encoded: result of `encode`.

        Returns:
            States, [N, D].
        """
        raise TypeError(f"{type(self).__name__} must define read()")

    def sequence_weights(self, history: History, encoded: Any) -> dict[str, Tensor]:
        """Return channel weights at each item of sequences: [N] each; empty without weights.

        By default, the weights of `item_weights`, which do not depend on the position.

        Args:
            history: packed sequences with N items.
            encoded: result of `encode`.
        """
        return {name: weight[history.item] for name, weight in self.item_weights().items()}

    def score(self, encoded: Any, queries: Queries) -> Tensor:
        """Score all items with the state at the last item: [B, I], 0 without a history."""
        history = queries.require_history()
        states = last_rows(self.read(history, encoded), history)  # [B, D]
        return torch.mm(states, encoded.items.T)

    def losses(self, batch: Sequences) -> dict[str, Tensor]:
        """Return the cross-entropy of the targets over all items."""
        encoded = self.encode()
        states = self.read(batch.history, encoded)[batch.position]  # [T, D]
        return {"cross_entropy": full_cross_entropy(states, encoded.items, batch.target)}
