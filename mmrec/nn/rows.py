"""Operations on each row of a table."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrec.nn.gates import at_least_float32


def unit_rows(x: Tensor) -> Tensor:
    """Divide each row by its norm, in at least float32.

    A row of zeros stays zero and gets a gradient of zero. That of
    `torch.nn.functional.normalize` would be multiplied by 1e12, and overflow in half precision.

    Args:
        x: [..., D].

    Returns:
        [..., D]
    """
    x = at_least_float32(x)
    return x * inverse_norm(x)


def inverse_norm(x: Tensor) -> Tensor:
    """Return the factors that make rows of length one; 0, without a gradient, for a row of zeros.

    Args:
        x: [..., D].

    Returns:
        [..., 1]
    """
    norm: Tensor = torch.linalg.vector_norm(at_least_float32(x), dim=-1, keepdim=True)
    return norm.clamp(min=1e-12).reciprocal().masked_fill(norm == 0, 0.0)
