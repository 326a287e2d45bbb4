import pytest
import torch

from mmrec.nn import SparseMixture


def made(width=7, dim=5, experts=4, rows=30):
    torch.manual_seed(0)
    return SparseMixture(width, dim, experts), torch.randn(rows, width)


def naive(mixture, x, top_k):
    """Row by row, expert by expert."""
    weight = mixture.expert.weight.view(mixture.experts, mixture.dim, -1)
    bias = mixture.expert.bias.view(mixture.experts, mixture.dim)
    rows, gates = [], torch.zeros(len(x), mixture.experts)
    for n, row in enumerate(x):
        logits = mixture.gate(row)
        best = sorted(range(mixture.experts), key=lambda e: -logits[e].item())[:top_k]
        gates[n, best] = logits[best].softmax(0)
        rows.append(sum(gates[n, e] * (weight[e] @ row + bias[e]) for e in best))
    return torch.stack(rows), gates


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, None])
def test_only_the_best_experts_of_a_row_count(top_k):
    mixture, x = made()
    found = mixture(x, top_k=top_k)
    rows, gates = naive(mixture, x, top_k)
    torch.testing.assert_close(found.rows, rows)
    torch.testing.assert_close(found.kept, gates)
    torch.testing.assert_close(found.full, mixture.gate(x).softmax(-1))


@pytest.mark.parametrize("top_k", [2, None])
def test_rows_that_are_absent_keep_no_expert_and_are_zero(top_k):
    mixture, x = made()
    present = torch.arange(len(x)) % 3 > 0
    whole, found = mixture(x, top_k=top_k), mixture(x, present, top_k=top_k)
    torch.testing.assert_close(found.rows, whole.rows * present.unsqueeze(1))
    torch.testing.assert_close(found.kept, whole.kept * present.unsqueeze(1))
    assert torch.equal(found.full, whole.full)


@pytest.mark.parametrize("top_k", [1, 2])
def test_rows_sorted_by_expert_give_what_all_experts_for_all_rows_give(top_k):
    mixture, x = made()
    gates = mixture(x, top_k=top_k).kept.detach()
    gradients = []
    for way in (mixture.all_at_once, mixture.one_by_one):
        mixture.zero_grad()
        found = way(x, gates)
        found.square().sum().backward()
        gradients.append((found, mixture.expert.weight.grad.clone(), mixture.expert.bias.grad))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_an_expert_that_nobody_keeps_still_has_a_gradient_of_zero():
    mixture, x = made()
    with torch.no_grad():
        mixture.gate.bias[2] = -100.0
    mixture(x, top_k=2).rows.sum().backward()
    of_expert = mixture.expert.weight.grad.view(4, 5, -1)
    assert not of_expert[2].any()
    assert of_expert[[0, 1, 3]].flatten(1).any(1).all()


def test_temperature_sharpens_and_noise_changes_gates():
    mixture, x = made()
    warm, cold = (mixture(x, top_k=None, temperature=t).full for t in (1.0, 0.1))
    assert (cold.amax(1) >= warm.amax(1)).all()
    assert not torch.equal(mixture(x, top_k=None, noise=1.0).full, warm)
