from __future__ import annotations

import math

import pytest
import torch

from mmrec.nn import SpectralFusion


def transform(dim):
    """The unitary matrix of the discrete Fourier transform."""
    index = torch.arange(dim, dtype=torch.float64)
    return torch.exp(-2j * math.pi * index[:, None] * index / dim) / math.sqrt(dim)


def whole_filter(half, dim):
    """A filter of all D frequencies whose results are real, from those up to D/2."""
    whole = torch.zeros(dim, dtype=torch.complex128)
    for k in range(dim // 2 + 1):
        value = torch.complex(*half[k].double())
        whole[k] = value
        if k in (0, dim - k):  # such a frequency is its own mirror image
            whole[k] = value.real
        else:
            whole[dim - k] = value.conj()
    return whole


@pytest.mark.parametrize("dim", [1, 2, 5, 8])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_filters_and_fusion_equal_the_dense_transform(modalities, dim):
    rng = torch.Generator().manual_seed(0)
    layer = SpectralFusion(modalities, dim)
    rows = [torch.randn(4, dim, generator=rng) for _ in range(modalities)]
    present = torch.ones(4, modalities, dtype=torch.bool)
    present[1, 0] = False
    present[2] = False
    rows = [x * present[:, m, None] for m, x in enumerate(rows)]
    found = layer(rows, present)
    assert len(found) == modalities + 1
    matrix = transform(dim)
    spectra = [x.to(torch.complex128) @ matrix.T for x in rows]
    for m, spectrum in enumerate(spectra):
        expected = (spectrum * whole_filter(layer.filters[m], dim)) @ matrix.conj()
        torch.testing.assert_close(found[m], expected.real.float())
        assert expected.imag.abs().max() < 1e-9
    for item in range(4):
        product = whole_filter(layer.filters[-1], dim)
        for m, spectrum in enumerate(spectra):
            if present[item, m]:
                product = product * spectrum[item]
        expected = (product @ matrix.conj()).real.float() if present[item].any() else 0
        torch.testing.assert_close(found[-1][item], torch.zeros(dim) + expected)


def test_no_mask_is_a_mask_of_ones():
    layer = SpectralFusion(2, 6)
    rows = [torch.randn(3, 6) for _ in range(2)]
    for found, expected in zip(
        layer(rows), layer(rows, torch.ones(3, 2, dtype=torch.bool)), strict=True
    ):
        assert torch.equal(found, expected)


def test_shifted_channels_give_shifted_results():
    layer = SpectralFusion(1, 8)
    rows = torch.randn(3, 8)
    for found, shifted in zip(layer([rows]), layer([rows.roll(3, 1)]), strict=True):
        torch.testing.assert_close(shifted, found.roll(3, 1))
