"""The pool of experts against sums written out, row by row."""

from __future__ import annotations

import pytest
import torch

from mmrec.nn import ExpertPool

CHANNELS, ROWS, DIM, EXPERTS = 3, 5, 4, 6


@pytest.fixture
def x():
    return torch.randn(CHANNELS, ROWS, DIM, generator=torch.Generator().manual_seed(0))


def build(**settings):
    torch.manual_seed(0)
    pool = ExpertPool(CHANNELS, DIM, EXPERTS, **settings)
    for parameter in pool.parameters():
        torch.nn.init.normal_(parameter)
    return pool


@pytest.mark.parametrize("pool", ["shared", "separate"])
@pytest.mark.parametrize("gate", ["linear", "attention"])
@pytest.mark.parametrize("top_k", [None, 2])
def test_the_output_is_the_gated_sum_of_the_experts(x, pool, gate, top_k):
    module = build(pool=pool, gate=gate, top_k=top_k).requires_grad_(False)
    expected = torch.empty_like(x)
    for c in range(CHANNELS):
        own = c if pool == "separate" else 0
        for n in range(ROWS):
            row = x[c, n]
            logits = row @ module.query[c]
            if gate == "attention":
                logits = logits @ module.key[own] / 2.0  # the root of DIM
            else:
                logits = logits + module.query_bias[c, 0]
            kept = logits.argsort(descending=True)[:top_k]
            powers = {int(k): float(logits[k].exp()) for k in kept}
            total = sum(powers.values())
            expected[c, n] = 0.0
            for k, power in powers.items():
                out = row @ module.weight[own][k * DIM : (k + 1) * DIM] + module.bias[own, k]
                expected[c, n] += power / total * out
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


def test_a_shared_pool_maps_equal_rows_with_equal_gates_alike(x):
    module = build()
    with torch.no_grad():
        module.query.copy_(module.query[:1].expand(CHANNELS, -1, -1))
        module.query_bias.copy_(module.query_bias[:1].expand(CHANNELS, -1, -1))
    out = module(x[:1].expand(CHANNELS, -1, -1))
    torch.testing.assert_close(out, out[:1].expand(CHANNELS, -1, -1))


@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_gates_sum_to_one_over_the_kept_experts(x, top_k):
    gates = build(top_k=top_k).gates(x)
    torch.testing.assert_close(gates.sum(-1), torch.ones(CHANNELS, ROWS))
    assert ((gates > 0).sum(-1) == (top_k or EXPERTS)).all()
