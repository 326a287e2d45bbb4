"""Operations on each row of a table."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrec.nn.gates import at_least_float32


def unit_rows(x: Tensor) -> Tensor:
    """Normalise rows to unit length, in at least float32.

    Rows of zeros remain zero and get a zero gradient. With `torch.nn.functional.normalize`, their
    gradient would be multiplied by 1e12, and overflow in half precision.

    Args:
        x: [..., D].

    Returns:
        Unit vectors, [..., D].
    """
    x = at_least_float32(x)
    return x * inverse_norm(x)


def inverse_norm(x: Tensor) -> Tensor:
    """Return the inverse norm of rows; for rows of zeros, 0 without a gradient.

    Args:
        x: [..., D].

    Returns:
        Inverse norms, [..., 1].
    """
    norm: Tensor = torch.linalg.vector_norm(at_least_float32(x), dim=-1, keepdim=True)
    return norm.clamp(min=1e-12).reciprocal().masked_fill(norm == 0, 0.0)
