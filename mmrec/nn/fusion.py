"""From an item's modalities to one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mmrec.data import Modality

Precision = Literal["float32", "bfloat16"]
FusionKind = Literal["vector", "scalar", "mean", "sum", "concat"]


class Projection(nn.Module):
    """Each modality at the scale of ID embeddings: `p_m = W_m f_m + b_m`, zero where it is absent.

    `f_m` is centred over the items that have it, and scaled to a mean squared norm of one; the
    output starts at the scale of an [I, D] table under Xavier initialisation. Centring matters:
    encoders give all items a large common part (85 % of the energy of tiktok's image features), and
    along it every step of an optimiser moves all items at once.

    Args:
        modalities: by name; features [I, F_m] and presence [I] of each.
        dim: D.
        precision: of the products with features; the output is float32. `bfloat16` keeps a copy of
            the features, and is off by less than a hundredth of the output's length.
    """

    present: Tensor

    def __init__(
        self, modalities: Mapping[str, Modality], dim: int, *, precision: Precision = "float32"
    ) -> None:
        super().__init__()
        self.names = tuple(modalities)
        self.each = nn.ModuleList(_Projection(m, dim, precision) for m in modalities.values())
        present = torch.stack([m.present for m in modalities.values()], dim=1)  # [I, M]
        self.register_buffer("present", present, persistent=False)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """-> [I, M, D]; of some items only, each once, those of the others zero: [R]."""
        projected = torch.stack([project(items) for project in self.each], dim=1)
        if items is None:
            return projected * self.present.unsqueeze(-1)
        some = projected * self.present[items].unsqueeze(-1)
        return some.new_zeros(len(self.present), *some.shape[1:]).index_copy(0, items, some)


class _Projection(nn.Module):
    """One modality, whole.

    Centre and scale act on the weights, as features can be gigabytes; where they are copied anyway,
    they are centred before they lose digits.
    """

    features: Tensor
    mean: Tensor

    def __init__(self, modality: Modality, dim: int, precision: Precision) -> None:
        super().__init__()
        n_items, width = modality.features.shape
        mean, self.scale = center_and_scale(modality)
        features = modality.features
        if precision == "bfloat16":
            features = (self.scale * (features - mean)).bfloat16()
            mean, self.scale = torch.zeros_like(mean), 1.0
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("mean", mean, persistent=False)
        self.linear = nn.Linear(width, dim)
        nn.init.normal_(self.linear.weight, std=(2 / (n_items + dim)) ** 0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, items: Tensor | None) -> Tensor:
        """-> [I, D], or [R, D] of some items."""
        features = self.features if items is None else self.features[items]
        weight = self.scale * self.linear.weight
        offset = self.linear.bias - weight @ self.mean
        if features.dtype == weight.dtype:
            return linear(features, weight, offset)
        return linear(features, weight.to(features.dtype)).to(weight.dtype) + offset


def center_and_scale(modality: Modality) -> tuple[Tensor, float]:
    """What brings the features that are present to mean zero and to a mean squared norm of one.

    Returns:
        Their mean [F], and a factor for their deviations from it; 1 where they do not differ.
    """
    present = modality.present.sum().clamp(min=1)
    mean = modality.features.sum(0) / present
    total = torch.zeros((), dtype=torch.float64)
    parts = (torch.split(whole, 4096) for whole in (modality.features, modality.present))
    for rows, there in zip(*parts, strict=True):
        total += ((rows - mean) * there.unsqueeze(1)).square().sum()
    variance = float(total / present)
    differs = variance > 1e-10 * float(mean.square().sum())  # than rounding alone would have it
    return mean, variance**-0.5 if differs else 1.0


class Fusion(nn.Module):
    """One vector per item from its projected modalities.

    The gates are a convex combination, `sum_m g_m * p_m` with
    `g = softmax_m(W [p_1, ..., p_M] + b)`; an absent modality has weight zero. With two modalities
    the softmax is the sigmoid gate.

    Args:
        modalities: number of modalities M.
        dim: width D of each.
        kind: `vector` gates every dimension by itself, `scalar` a modality as a whole; `mean` and
            `sum` are over what is present; `concat` is a linear map of all.
    """

    def __init__(self, modalities: int, dim: int, *, kind: FusionKind) -> None:
        super().__init__()
        self.kind = kind
        out = {"vector": modalities * dim, "scalar": modalities, "concat": dim}
        if kind in out:
            self.linear = nn.Linear(modalities * dim, out[kind])

    def forward(self, projected: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fuse.

        Args:
            projected: [I, M, D], rows of absent modalities zero.
            present: [I, M] bool.

        Returns:
            The fused vectors [I, D], and the gate's weights [I, M, D or 1], which sum to one over M
            where anything is present; None where there is no gate.
        """
        match self.kind:
            case "vector" | "scalar":
                logits = self.linear(projected.flatten(1)).unflatten(1, (projected.shape[1], -1))
                weights = masked_softmax(logits, present.unsqueeze(-1), dim=1)  # [I, M, D or 1]
                return (weights * projected).sum(1), weights
            case "mean":
                return projected.sum(1) / present.sum(1, keepdim=True).clamp(min=1), None
            case "sum":
                return projected.sum(1), None
            case "concat":
                return self.linear(projected.flatten(1)), None


def masked_softmax(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the places where `mask` is true; zero elsewhere, also where it is nowhere true.

    Args:
        logits: any shape.
        mask: bool, broadcastable to it.
        dim: the dimension that sums to one.
    """
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~mask, lowest).softmax(dim) * mask
