"""Content features of a catalogue, and linear maps of them.

Shapes: I items, M modalities, F width of a modality, D embedding size, R selected items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from mmrec.data import Modality
from mmrec.nn.rows import unit_rows

Precision = Literal["float32", "bfloat16"]


class Features(nn.Module):
    """The features of one modality: [I, F]. Items without the modality have a row of zeros.

    A linear map of content is an `nn.Linear(features.width, dim)` applied to the result. Its bias
    also reaches items without the modality; multiply by `present` to leave them at zero.

    Args:
        modality: features and presence.
        trainable: train the features as parameters, as many published models do; they are then
            part of checkpoints. Rows of items without the modality stay zero.
        standardize: subtract the mean over the items that have the modality, and divide by one
            factor, so that rows have a mean squared norm of 1. This makes a copy of the features.
            Encoders give all items a large common part (85 % of the energy of the image features
            of `tiktok`), along which each step of an optimizer would move all items at once.
        precision: of the stored features; `bfloat16` makes a copy, after they are standardized.

    Attributes:
        width: F.
        present: [I] bool, False where an item lacks the modality.
    """

    present: Tensor
    rows: Tensor

    def __init__(
        self,
        modality: Modality,
        *,
        trainable: bool = False,
        standardize: bool = False,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.width = modality.width
        self.complete = bool(modality.present.all())
        self.register_buffer("present", modality.present, persistent=False)
        rows = modality.features
        if standardize:
            mean, scale = center_and_scale(modality)
            rows = (rows - mean).mul_(scale).masked_fill_(~modality.present.unsqueeze(1), 0.0)
        if precision == "bfloat16":
            rows = rows.bfloat16()
        if trainable:
            self.rows = nn.Parameter(rows.clone())
        else:
            self.register_buffer("rows", rows, persistent=False)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Return the features of all items [I, F], or of the given items [R] -> [R, F]."""
        rows = self.rows if items is None else embedding(items, self.rows)
        if self.complete or not isinstance(self.rows, nn.Parameter):
            return rows
        present = self.present if items is None else self.present[items]
        return rows * present.unsqueeze(1)  # no gradient reaches an absent row


def embedding_linear(features: Features, dim: int) -> nn.Linear:
    """Create a linear map whose results start at the scale of an embedding table.

    Applied to standardized features, the results have the variance of an [I, D] table under Xavier
    initialization. The bias starts at zero.

    Args:
        features: standardized features.
        dim: D.
    """
    layer = nn.Linear(features.width, dim)
    nn.init.normal_(layer.weight, std=(2 / (len(features.present) + dim)) ** 0.5)
    nn.init.zeros_(layer.bias)
    return layer


class ProjectedFeatures(nn.Module):
    """A linear map of the features of one modality, `W f + b`; zero where an item lacks it.

    Args:
        modality: features [I, F] and presence [I].
        dim: D.
        trainable: train the features too; see `Features`.
        standardize: center and scale the features, and start as an embedding table does; see
            `Features` and `embedding_linear`.
        precision: of the features and their product with the weights; the output is float32. With
            `bfloat16` its error is below one hundredth of its norm.
        unit: divide the result by its norm.

    Attributes:
        present: [I] bool, False where an item lacks the modality.
    """

    def __init__(
        self,
        modality: Modality,
        dim: int,
        *,
        trainable: bool = False,
        standardize: bool = False,
        precision: Precision = "float32",
        unit: bool = False,
    ) -> None:
        super().__init__()
        self.unit = unit
        self.features = Features(
            modality, trainable=trainable, standardize=standardize, precision=precision
        )
        if standardize:
            self.linear = embedding_linear(self.features, dim)
        else:
            self.linear = nn.Linear(modality.width, dim)

    @property
    def present(self) -> Tensor:
        """[I] bool."""
        return self.features.present

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Project all items [I, D], or the given items [R] -> [R, D]."""
        # Masking the result masks the gradient of the features as well, at less cost.
        rows, present = self.features.rows, self.present
        if items is not None:
            rows, present = rows[items], present[items]
        weight, bias = self.linear.weight, self.linear.bias
        if rows.dtype == weight.dtype:
            projected = linear(rows, weight, bias)
        else:
            projected = linear(rows, weight.to(rows.dtype)).to(weight.dtype) + bias
        if self.unit:
            projected = unit_rows(projected)
        return projected * present.unsqueeze(1)


class Projection(nn.Module):
    """The standardized `ProjectedFeatures` of every modality: [I, M, D].

    Args:
        modalities: by name; features [I, F_m] and presence [I] of each.
        dim: D.
        precision: see `ProjectedFeatures`.

    Attributes:
        names: names of the modalities.
        present: [I, M] bool.
    """

    present: Tensor

    def __init__(
        self, modalities: Mapping[str, Modality], dim: int, *, precision: Precision = "float32"
    ) -> None:
        super().__init__()
        self.names = tuple(modalities)
        self.each = nn.ModuleList(
            ProjectedFeatures(m, dim, standardize=True, precision=precision)
            for m in modalities.values()
        )
        present = torch.stack([m.present for m in modalities.values()], dim=1)  # [I, M]
        self.register_buffer("present", present, persistent=False)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Project all items: [I, M, D]. With `items` [R], rows of other items are zero."""
        rows = torch.stack([project(items) for project in self.each], dim=1)  # [I or R, M, D]
        if items is None:
            return rows
        return rows.new_zeros(len(self.present), *rows.shape[1:]).index_copy(0, items, rows)


def center_and_scale(modality: Modality) -> tuple[Tensor, float]:
    """Return the mean [F] of the present features, and the factor that standardizes deviations.

    `scale * (features - mean)` has a mean squared norm of 1. The factor is 1 if the features do not
    differ by more than rounding errors.
    """
    present = modality.present.sum().clamp(min=1)
    mean = modality.features.sum(0) / present
    total = torch.zeros((), dtype=torch.float64)
    blocks = (torch.split(whole, 4096) for whole in (modality.features, modality.present))
    for rows, there in zip(*blocks, strict=True):
        total += ((rows - mean) * there.unsqueeze(1)).square().sum()
    variance = float(total / present)
    differs = variance > 1e-10 * float(mean.square().sum())
    return mean, variance**-0.5 if differs else 1.0
