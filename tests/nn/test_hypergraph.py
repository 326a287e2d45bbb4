from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mmrec.nn import Hypergraph, HypergraphConvolution, soft_assignment

EVERY = torch.ones(4, dtype=torch.bool)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_assignments_are_a_softmax_and_absent_nodes_have_none(rng):
    logits = torch.randn(4, 3, generator=rng)
    present = torch.tensor([True, False, True, True])
    found = soft_assignment(logits, 0.5, present)
    for node in range(4):
        weights = torch.exp(logits[node] / 0.5)
        expected = weights / weights.sum() if present[node] else torch.zeros(3)
        torch.testing.assert_close(found[node], expected)


def test_gumbel_noise_draws_hyperedges_in_proportion_to_the_softmax():
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    found = soft_assignment(logits, 0.2, torch.ones(20_000, dtype=torch.bool), noise=True)
    torch.testing.assert_close(found.sum(1), torch.ones(20_000))
    share = torch.bincount(found.argmax(1), minlength=3) / 20_000
    torch.testing.assert_close(share, logits[0].softmax(0), atol=0.015, rtol=0)


def test_low_temperature_logits_of_half_precision_stay_finite():
    logits = torch.tensor([[6e4, -6e4]] * 4, dtype=torch.float16)
    assert torch.equal(soft_assignment(logits, 0.01, EVERY), torch.tensor([[1.0, 0.0]] * 4))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_convolution_is_a_product_of_incidences(layers, rng):
    users, items = torch.rand(5, 3, generator=rng), torch.rand(4, 3, generator=rng)
    x = torch.randn(4, 2, generator=rng)
    found = HypergraphConvolution(layers, 0.5).eval()(users, items, x)
    before = torch.linalg.matrix_power(items @ items.T, layers - 1) @ x
    torch.testing.assert_close(found.embed(found.items), items @ items.T @ before)
    torch.testing.assert_close(found.embed(found.users), users @ items.T @ before)


def test_cosine_factors_multiply_to_cosines_of_embeddings(rng):
    users = torch.rand(5, 3, generator=rng)
    users[2] = 0  # joins no hyperedge, so that every cosine is zero
    found = Hypergraph(users, torch.rand(4, 3, generator=rng), torch.randn(3, 7, generator=rng))
    x = torch.randn(6, 7, generator=rng)
    one, others = found.cosine_factors(x, users)
    assert one.shape == (6, 3)
    expected = cosine_similarity(x[:, None], (users @ found.edges)[None], dim=2)
    torch.testing.assert_close(one @ others.T, expected)


def test_assignments_are_dropped_in_training_only():
    layer = HypergraphConvolution(1, 0.5)
    users, x = torch.ones(1, 1000), torch.ones(1, 2)
    items = torch.ones(1, 1000)
    torch.manual_seed(0)
    in_training = layer(users, items, x)
    dropped = in_training.embed(in_training.users)
    in_evaluation = layer.eval()(users, items, x)
    kept = in_evaluation.embed(in_evaluation.users)
    assert torch.equal(kept, torch.full((1, 2), 1000.0))
    assert dropped[0, 0] % 4 == 0  # each edge that both keep counts 2 x 2
    assert 700 < dropped[0, 0] < 1300
