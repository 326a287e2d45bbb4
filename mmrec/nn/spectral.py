"""Filters and fusion of modalities in the frequency domain.

Shapes: I items, M modalities, D embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.fft import irfft, rfft

from mmrec.nn.gates import at_least_float32


class SpectralFusion(nn.Module):
    """Filter projected modalities in the frequency domain, and multiply their spectra.

    With the orthonormal Fourier transform over the embedding dimension, `F_m = rfft(p_m)`:

    - filtered modalities: `irfft(w_m * F_m)`
    - fusion: `irfft(w * prod_m F_m)`, a circular convolution of the modalities

    The filters w_m and w are complex, with standard normal initial values. The product runs over
    the modalities that an item has.

    Ong and Khong, WSDM 2025. https://arxiv.org/abs/2412.14978

    Args:
        modalities: number of modalities M.
        dim: embedding size D.
    """

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__()
        # Real and imaginary parts; the filter of the fusion is the last one.
        self.filters = nn.Parameter(torch.randn(modalities + 1, dim // 2 + 1, 2))

    def forward(self, projected: Sequence[Tensor], present: Tensor | None = None) -> list[Tensor]:
        """Filter and fuse the modalities.

        Args:
            projected: M projected modalities p_m, [I, D] each.
            present: mask of the modalities, [I, M] bool; None marks all as present.

        Returns:
            The M filtered modalities and their fusion, [I, D] each. The fusion is zero for items
            without any modality.
        """
        dim = projected[0].shape[1]
        with torch.autocast(projected[0].device.type, enabled=False):  # needs full precision
            filters = torch.view_as_complex(self.filters)  # [M+1, D/2+1]
            spectra = [rfft(at_least_float32(p), norm="ortho") for p in projected]  # [I, D/2+1]
            factors = spectra
            if present is not None:
                there = present.unsqueeze(-1).unbind(1)  # [I, 1] each
                factors = [x.where(mask, 1.0) for x, mask in zip(spectra, there, strict=True)]
            products = [x * w for x, w in zip(spectra, filters[:-1], strict=True)]
            products.append(reduce(torch.mul, factors) * filters[-1])
            *filtered, fused = [irfft(x, n=dim, norm="ortho") for x in products]
            if present is not None:
                fused = fused * present.any(1, keepdim=True)
            return [*filtered, fused]
