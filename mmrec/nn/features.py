"""Content features of a catalogue, and their linear projections.

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
    """Features of one modality, [I, F], with rows of zeros for items without the modality.

    Use `nn.Linear(features.width, dim)` on the result for a linear map of content. Its bias also
    changes items without the modality; multiply by `present` to keep them zero.

    Args:
        modality: features and presence.
        trainable: make the features parameters, as in many published models. They are then stored
            in checkpoints. Rows of items without the modality remain zero.
        standardize: subtract the mean over the items that have the modality, and divide by a
            scalar, so that the mean squared norm of rows is 1. This copies the features. Encoder
            outputs often have a large component in common to all items (85 % of the energy of the
            image features of `tiktok`), along which each optimizer step would move all items.
        precision: precision of the stored features; `bfloat16` copies them, after standardization.

    Attributes:
        width: number of features F.
        present: mask of the items that have the modality, [I] bool.
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
        return rows * present.unsqueeze(1)  # absent rows get no gradient


def embedding_linear(features: Features, dim: int) -> nn.Linear:
    """Create a linear map whose initial outputs have the scale of an embedding table.

    On standardized features, the initial outputs have the variance of an [I, D] table with Xavier
    initialization. The initial bias is zero.

    Args:
        features: standardized features.
        dim: embedding size D.
    """
    layer = nn.Linear(features.width, dim)
    nn.init.normal_(layer.weight, std=(2 / (len(features.present) + dim)) ** 0.5)
    nn.init.zeros_(layer.bias)
    return layer


class ProjectedFeatures(nn.Module):
    """Linear map of the features of one modality, `W f + b`, zero for items without it.

    Args:
        modality: features [I, F] and presence [I].
        dim: embedding size D.
        trainable: also train the features; see `Features`.
        standardize: standardize the features, and initialise the map like an embedding table; see
            `Features` and `embedding_linear`.
        precision: precision of the features and of their product with the weights; the output is
            float32. With `bfloat16`, the error is below 1 % of the norm of the output.
        unit: normalise the output to unit length.

    Attributes:
        present: mask of the items that have the modality, [I] bool.
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
        """Mask of the items that have the modality: [I] bool."""
        return self.features.present

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Project all items [I, D], or the given items [R] -> [R, D]."""
        # Masking the output also masks the gradient of the features, at a lower cost.
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
    """Standardized `ProjectedFeatures` of all modalities: [I, M, D].

    Args:
        modalities: modalities by name, each with features [I, F_m] and presence [I].
        dim: embedding size D.
        precision: see `ProjectedFeatures`.

    Attributes:
        names: names of the modalities.
        present: mask of the modalities, [I, M] bool.
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
        """Project all items: [I, M, D]. With `items` [R], all other rows are zero."""
        rows = torch.stack([project(items) for project in self.each], dim=1)  # [I or R, M, D]
        if items is None:
            return rows
        return rows.new_zeros(len(self.present), *rows.shape[1:]).index_copy(0, items, rows)


def center_and_scale(modality: Modality) -> tuple[Tensor, float]:
    """Return the mean [F] and the scale that standardize the present features.

    `scale * (features - mean)` has a mean squared norm of 1. The scale is 1 if the features are
    equal up to rounding errors.
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
