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

    Gates give the convex combination `sum_m g_m * p_m` with `g = softmax_m(W [p_1, ..., p_M] + b)`.
    Absent modalities have weight 0. With two modalities, the softmax equals a sigmoid gate.

    Args:
        modalities: number of modalities M.
        dim: embedding size D of each modality.
        kind: `vector` has one gate per modality and dimension, `scalar` one per modality; `mean`
            and `sum` use the modalities that an item has; `concat` is a linear map of all.
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
            projected: projected modalities, [I, M, D], zero if absent.
            present: mask of the modalities, [I, M] bool.

        Returns:
            The fused vectors [I, D], and the gates [I, M, D or 1], or None if `kind` has no gate.
            Gates sum to 1 over M if the item has any modality.
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
        logits: logits of any shape.
        mask: bool, broadcastable to `logits`. If it is false for all positions along `dim`, the
            result is zero.
        dim: dimension along which the result sums to 1.
    """
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~mask, lowest).softmax(dim) * mask
