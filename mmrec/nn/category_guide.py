"""Channel weights from a predictor of item categories.

Shapes: N rows, C channels, D embedding size, G categories, I items.
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
    """Multi-hot category targets of items, not stored in checkpoints.

    Args:
        categories: pairs of item and category.
        n_items: number of items I.
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
        """Return the targets of items [N].

        Returns:
            Multi-hot targets [N, G] float, and a mask of the items with any category [N] bool.
        """
        begin, end = self.start[items], self.start[items + 1]
        row, place = ranges(begin, end - begin)
        targets = torch.zeros(len(items), self.count, device=items.device)
        targets[row, self.category[place]] = 1.0
        return targets, end > begin


def item_labels(corpus: TrainingView) -> CategoryLabels:
    """Return the category targets of a data set.

    Raises:
        SettingError: no item has a category.
    """
    categories = corpus.categories
    if categories is None or not len(categories.item):
        raise SettingError(
            setting="model.category_weight",
            problem=f"the category loss needs categories, but no item of {corpus.name} has one",
            hint="set model.category_weight=0 to train without categories, or set "
            "data.columns.categories to their column in items.csv",
        )
    return CategoryLabels(categories, corpus.n_items)


class CategoryGuide(nn.Module):
    """Predict categories from channels, and compute channel weights.

    With one linear map per channel, `h_c = A_c x_c + a_c`, a shared predictor gives each channel a
    scalar `<v, h_c>`. The channel weights are the softmax of these scalars over the present
    channels. The category logits are a linear map of `sum_c weight_c h_c`, so that channels that
    are informative about categories learn larger weights.

    Args:
        channels: number of channels C.
        dim: embedding size D.
        categories: number of categories G; 0 predicts no categories.
        weighed: learn the weights; otherwise all present channels have equal weights.
    """

    def __init__(self, channels: int, dim: int, categories: int, *, weighed: bool = True) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.empty(channels, dim, dim))
        self.bias = nn.Parameter(torch.zeros(channels, 1, dim))
        nn.init.uniform_(self.map, -(dim**-0.5), dim**-0.5)  # as in nn.Linear
        # A bias would cancel in the softmax.
        self.scalar = nn.Linear(dim, 1, bias=False) if weighed else None
        self.predict = nn.Linear(dim, categories) if categories else None

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute channel weights and category logits.

        Args:
            x: channels, [C, N, D].
            present: mask of the channels, [N, C] bool.

        Returns:
            Weights [N, C], which sum to 1 and are 0 for absent channels; and category logits
            [N, G], or None if no categories are predicted.
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
    """Binary cross-entropy, averaged over the categories of labelled rows.

    Args:
        logits: category logits, [N, G].
        targets: multi-hot targets, [N, G].
        labelled: mask of the rows to include, [N] bool.

    Returns:
        A scalar; 0 if no row is labelled.
    """
    terms = binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return (terms.mean(1) * labelled).sum() / labelled.sum().clamp(min=1)
