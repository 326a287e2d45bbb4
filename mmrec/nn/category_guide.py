"""Weights of channels from a predictor of item categories.

N rows, C channels, D dim, G categories, I items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mmrec.config.errors import SettingError
from mmrec.data import Categories, TrainingView
from mmrec.data.batches import ranges
from mmrec.nn.fusion import masked_softmax
from mmrec.nn.gates import at_least_float32


class CategoryLabels(nn.Module):
    """The categories of items, as targets; not trained, and not part of checkpoints.

    Args:
        categories: pairs of item and category.
        n_items: I.
    """

    start: Tensor
    category: Tensor

    def __init__(self, categories: Categories, n_items: int) -> None:
        super().__init__()
        self.count = len(categories.names)
        bounds = torch.bincount(categories.item, minlength=n_items).cumsum(0)  # [I]
        self.register_buffer("start", torch.cat([bounds.new_zeros(1), bounds]), persistent=False)
        order = categories.item.argsort(stable=True)
        self.register_buffer("category", categories.category[order], persistent=False)

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the categories of items [N].

        Returns:
            [N, G] float, 1 for the categories that an item bears and 0 for others; and [N] bool,
            whether it bears any.
        """
        begin, end = self.start[items], self.start[items + 1]
        row, place = ranges(begin, end - begin)
        targets = torch.zeros(len(items), self.count, device=items.device)
        targets[row, self.category[place]] = 1.0
        return targets, end > begin


def item_labels(corpus: TrainingView) -> CategoryLabels:
    """Return the categories of the items.

    Raises:
        SettingError: no item has one.
    """
    categories = corpus.categories
    if categories is None or not len(categories.item):
        raise SettingError(
            setting="model.category_weight",
            problem=f"no item of {corpus.name} has a category, which the category loss reads",
            hint="set model.category_weight=0 to train without categories, or name their column "
            "of items.csv in data.columns.categories",
        )
    return CategoryLabels(categories, corpus.n_items)


class CategoryGuide(nn.Module):
    """Predict the categories of rows from their channels, and weigh the channels.

    With `h_c = A_c x_c + a_c`, one linear map per channel, the common predictor gives each channel
    a scalar `<v, h_c>`. The weights are their softmax over the channels that a row has. The logits
    of the categories are a linear map of `sum_c weight_c h_c`: a channel that tells the categories
    gets a larger weight.

    Args:
        channels: C.
        dim: D.
        categories: G; 0: channels are weighed, and nothing is predicted.
        weighed: False: all channels that a row has get the same weight.
    """

    def __init__(self, channels: int, dim: int, categories: int, *, weighed: bool = True) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.empty(channels, dim, dim))
        self.bias = nn.Parameter(torch.zeros(channels, 1, dim))
        nn.init.uniform_(self.map, -(dim**-0.5), dim**-0.5)  # as of nn.Linear
        self.scalar = nn.Linear(dim, 1, bias=False) if weighed else None  # softmax has no bias
        self.predict = nn.Linear(dim, categories) if categories else None

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weigh the channels.

        Args:
            x: [C, N, D].
            present: [N, C] bool.

        Returns:
            Weights [N, C], which sum to one, 0 for absent channels; and logits of the categories
            [N, G], None where nothing is predicted.
        """
        hidden = x @ self.map + self.bias  # [C, N, D]
        scores = x.new_zeros(present.shape)
        if self.scalar is not None:
            scores = self.scalar(hidden).squeeze(-1).T  # [N, C]
        weights = masked_softmax(at_least_float32(scores), present, dim=1)
        if self.predict is None:
            return weights, None
        fused = (weights.T.unsqueeze(-1) * hidden).sum(0)  # [N, D]
        return weights, self.predict(fused)


def category_loss(logits: Tensor, targets: Tensor, labelled: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over the categories of labelled rows.

    Args:
        logits: [N, G].
        targets: [N, G] of zeros and ones.
        labelled: [N] bool; other rows do not count.

    Returns:
        A scalar; 0 if no row is labelled.
    """
    terms = binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return (terms.mean(1) * labelled).sum() / labelled.sum().clamp(min=1)
