"""Fusion of the projected modalities of an item.

Shapes: I items, M modalities, D embedding size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

FusionKind = Literal["vector", "scalar", "mean", "sum", "concat"]


class Fusion(nn.Module):
    """Combine the projected modalities of each item into one vector.

    The gates form a convex combination, `sum_m g_m * p_m` with
    `g = softmax_m(W [p_1, ..., p_M] + b)`. Modalities that an item lacks have weight zero. With two
    modalities the softmax equals a sigmoid gate.

    Args:
        modalities: number of modalities M.
        dim: embedding size D of each.
        kind: `vector` has a gate per modality and dimension, `scalar` one per modality; `mean` and
            `sum` run over the modalities that an item has; `concat` is a linear map of all.
    """

    def __init__(self, modalities: int, dim: int, *, kind: FusionKind) -> None:
        super().__init__()
        self.kind = kind
        out = {"vector": modalities * dim, "scalar": modalities, "concat": dim}
        if kind in out:
            self.linear = nn.Linear(modalities * dim, out[kind])

    def forward(self, projected: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fuse the modalities.

        Args:
            projected: [I, M, D], zero for modalities that an item lacks.
            present: [I, M] bool.

        Returns:
            The fused vectors [I, D], and the gates [I, M, D or 1] or None if `kind` has no gate.
            Gates sum to one over M if the item has any modality.
        """
        match self.kind:
            case "vector" | "scalar":
                logits = self.linear(projected.flatten(1)).unflatten(1, (projected.shape[1], -1))
                gates = masked_softmax(logits, present.unsqueeze(-1), dim=1)  # [I, M, D or 1]
                return (gates * projected).sum(1), gates
            case "mean":
                return projected.sum(1) / present.sum(1, keepdim=True).clamp(min=1), None
            case "sum":
                return projected.sum(1), None
            case "concat":
                return self.linear(projected.flatten(1)), None


def masked_softmax(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the positions where `mask` is true; all other positions are zero.

    Args:
        logits: any shape.
        mask: bool, broadcastable to `logits`. Where it is false along all of `dim`, the result is
            zero.
        dim: dimension that sums to one.
    """
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~mask, lowest).softmax(dim) * mask
