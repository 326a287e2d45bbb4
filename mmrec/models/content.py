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
    """A model that knows items by their content, those that came after training too.

    Attributes:
        item_features: the catalogue's content.
    """

    item_features: ItemFeatures

    def on_fit_start(self) -> None:
        """Tell of items without any content."""
        super().on_fit_start()
        bare = self.corpus.without_content()
        if bare and self.trainer.is_global_zero:
            log.warning(
                "%d of %d items have no content; unless more is known, they rank as the mean item",
                bare,
                self.corpus.n_items,
            )

    def from_content(self, content: Content) -> Tensor:
        """What content alone makes of items: [N, D]."""
        raise TypeError(f"{type(self).__name__} must define from_content()")

    def fallback_item(self) -> Tensor:
        """What stands for an item without any content: [D]."""
        raise TypeError(f"{type(self).__name__} must define fallback_item()")

    @torch.no_grad()
    def encode_items(
        self, features: Mapping[str, Rows], present: Mapping[str, Rows] | None = None
    ) -> Tensor:
        """New items, in the place of those of `encode`: [N, D].

        `model.score(model.encode()._replace(items=items), queries)` ranks them. Arguments and
        errors are as of `mmrec.nn.ItemFeatures.new`.
        """
        content = self.item_features.new(features, present)
        with evaluating(self):  # what training hides or drops is no part of an item
            items = self.from_content(content)
            if content.present.any(1).all():  # or the catalogue would be encoded for nothing
                return items
            return fill_missing(items, content.present, self.fallback_item())


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each part is in training again that was."""
    trained = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in trained:
            part.training = True
