"""Base class of models that encode items from their content."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmrec.models.base import Recommender
from mmrec.nn import Content, ItemFeatures, fill_missing
from mmrec.nn.content import Rows

log = logging.getLogger(__name__)


class ContentRecommender(Recommender):
    """Base class of models that can score items added after training, by their content.

    Attributes:
        item_features: content of the catalogue.
    """

    item_features: ItemFeatures

    def on_fit_start(self) -> None:
        """Log a warning if some items have no content."""
        super().on_fit_start()
        bare = self.corpus.without_content()
        if bare and self.trainer.is_global_zero:
            log.warning(
                "%d of %d items have no content; the model ranks them by their interactions, "
                "or else as the mean item",
                bare,
                self.corpus.n_items,
            )

    def from_content(self, content: Content) -> Tensor:
        """Encode items from content alone: [N, D]."""
        raise TypeError(f"{type(self).__name__} must define from_content()")

    def fallback_item(self) -> Tensor:
        """Return the vector used for items without any content: [D]."""
        raise TypeError(f"{type(self).__name__} must define fallback_item()")

    @torch.no_grad()
    def encode_items(
        self, features: Mapping[str, Rows], present: Mapping[str, Rows] | None = None
    ) -> Tensor:
        """Encode items that were not in the training data: [N, D].

        Rank them with `model.score(model.encode()._replace(items=items), queries)`. See
        `mmrec.nn.ItemFeatures.new` for the arguments and errors.
        """
        content = self.item_features.new(features, present)
        with evaluating(self):  # without dropout and masking
            items = self.from_content(content)
            if content.present.any(1).all():  # the fallback encodes the catalogue; avoid it
                return items
            return fill_missing(items, content.present, self.fallback_item())


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation mode, and restore the mode of each submodule afterwards."""
    trained = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in trained:
            part.training = True
