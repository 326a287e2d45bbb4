"""Time of a training step of SASRec, relative to its matrix products and attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from experiments.benchmarks.parts import THREADS, Row, alternating, seconds
from mmrec.data import History, Interactions, Sequences, TrainingView
from mmrec.models import SASRec
from mmrec.nn.losses import full_cross_entropy

ITEMS, LENGTH, DIM, LAYERS, HEADS, INNER, BATCH = 12_101, 50, 64, 2, 2, 256, 256
BLOCK = 64  # rows of logits at a time


def step(threads: int = THREADS, device: str = "cpu") -> Row:
    """Measure a step with the optimizer on sequences of full length, and its bound."""
    torch.set_num_threads(threads)
    pairs = Interactions(torch.arange(8) // 4, torch.arange(8), torch.arange(8))
    corpus = TrainingView(
        name="any", n_users=2, n_items=ITEMS, train=pairs, split="any", fingerprint="any"
    )
    model = SASRec(corpus, dim=DIM, layers=LAYERS, heads=HEADS, inner=INNER, max_length=LENGTH).to(
        device
    )
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    item = torch.randint(ITEMS, (BATCH * LENGTH,), device=device)
    user = torch.arange(BATCH, device=device)
    history = History(item, torch.full((BATCH,), LENGTH, device=device))
    none = item.new_empty(len(item), 0)
    place = torch.arange(len(item), device=device)
    batch = Sequences(user, history, place, item.flip(0), none, none.float())

    def ours() -> None:
        optimizer.zero_grad()
        loss = torch.stack([*model.losses(batch).values()]).sum()
        torch.autograd.backward(loss)
        optimizer.step()

    measured, bounds = alternating(ours, partial(bare, device), 7)
    ratios = sorted(one / two for one, two in zip(measured, bounds, strict=True))
    return {
        "part": "SASRec step",
        "seconds": sorted(measured)[len(measured) // 2],
        "bound": sorted(bounds)[len(bounds) // 2],
        "ratio": ratios[len(ratios) // 2],
        **losses(),
    }


def bare(device: str) -> None:
    """Compute the matrix products and attention of a step, forward and backward."""
    rows = BATCH * LENGTH
    x = torch.ones(rows, DIM, device=device)
    for _ in range(LAYERS):
        for width_in, width_out in ((DIM, 3 * DIM), (DIM, DIM), (DIM, INNER), (INNER, DIM)):
            left = x if width_in == DIM else torch.ones(rows, width_in, device=device)
            weight = torch.ones(width_in, width_out, device=device)
            out = left @ weight
            _ = out @ weight.T, left.T @ out
        heads = torch.ones(3, BATCH, HEADS, LENGTH, DIM // HEADS, device=device, requires_grad=True)
        query, key, value = heads
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        torch.autograd.backward(attended, torch.ones_like(attended))
    items = torch.ones(ITEMS, DIM, device=device)
    for block in torch.split(x, BLOCK if device == "cpu" else rows):
        logits = block @ items.T
        _ = logits @ items, logits.T @ block


def losses(rows: int = 800) -> dict[str, Any]:
    """Measure the cross-entropy over all items with gradients, by ours and by autograd."""
    generator = torch.Generator().manual_seed(0)
    x, items = (torch.randn(n, DIM, generator=generator) for n in (rows, ITEMS))
    target = torch.randint(ITEMS, (rows,), generator=generator)
    for tensor in (x, items):
        tensor.requires_grad_()

    def plain(x: Tensor, items: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(x @ items.T, target)

    def step(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        torch.autograd.backward(loss(x, items, target))

    return {
        f"loss by {name}": min(seconds(partial(step, loss)) for _ in range(7))
        for name, loss in (("ours", full_cross_entropy), ("autograd", plain))
    }
