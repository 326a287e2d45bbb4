from __future__ import annotations

import torch
from torch.nn.functional import normalize

from mmrec.nn import unit_rows


def test_rows_have_norm_one_and_zeros_get_no_gradient():
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    x[0, 1] = 0
    x.requires_grad_()
    found = unit_rows(x)
    torch.testing.assert_close(found, normalize(x, dim=-1))
    (found * torch.arange(24.0).view(2, 4, 3)).sum().backward()
    assert not x.grad[0, 1].any()
    expected = torch.autograd.grad(
        (normalize(x, dim=-1) * torch.arange(24.0).view(2, 4, 3)).sum(), x
    )
    torch.testing.assert_close(x.grad[1], expected[0][1])


def test_half_precision_is_divided_in_float32():
    x = torch.full((1, 4), 6e4, dtype=torch.float16)  # its squared norm has no half
    assert torch.equal(unit_rows(x), torch.full((1, 4), 0.5))
