"""From an item's modalities to one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mmrec.data import Modality

FusionKind = Literal["vector", "scalar", "mean", "sum", "concat"]


class Projection(nn.Module):
    """Each modality at the scale of ID embeddings: `p_m = W_m f_m + b_m`, zero where it is absent.

    Features are scaled to unit mean square, so that one learning rate fits all modalities, and the
    output starts at the scale of an [I, D] table under Xavier initialisation.

    Args:
        modalities: by name; features [I, F_m] and presence [I] of each.
        dim: D.
    """

    present: Tensor

    def __init__(self, modalities: Mapping[str, Modality], dim: int) -> None:
        super().__init__()
        self.names = tuple(modalities)
        self.each = nn.ModuleList(_Projection(m.features, dim) for m in modalities.values())
        present = torch.stack([m.present for m in modalities.values()], dim=1)  # [I, M]
        self.register_buffer("present", present, persistent=False)

    def forward(self) -> Tensor:
        """-> [I, M, D]"""
        projected = torch.stack([project() for project in self.each], dim=1)
        return projected * self.present.unsqueeze(-1)


class _Projection(nn.Module):
    """One modality, whole."""

    features: Tensor

    def __init__(self, features: Tensor, dim: int) -> None:
        super().__init__()
        n_items, width = features.shape
        self.register_buffer("features", features, persistent=False)
        self.scale = 1 / float(rms(features))  # on the weights, as features can be gigabytes
        self.linear = nn.Linear(width, dim)
        xavier = (2 / (n_items + dim)) ** 0.5
        nn.init.normal_(self.linear.weight, std=xavier / width**0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self) -> Tensor:
        """-> [I, D]"""
        return linear(self.features, self.scale * self.linear.weight, self.linear.bias)


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


def rms(x: Tensor) -> Tensor:
    """Root mean square of all values; 1 for a tensor of zeros, so that dividing by it is safe."""
    value = x.square().mean().sqrt()
    return torch.where(value > 0, value, 1)
