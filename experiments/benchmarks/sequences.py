"""Time of a training step of SASRec and CAMMSR, relative to products and parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from experiments.benchmarks.parts import THREADS, Row, alternating, seconds
from mmrec.data import Categories, History, Interactions, Modality, Sequences, TrainingView
from mmrec.models import CAMMSR, Recommender, SASRec
from mmrec.nn import category_loss
from mmrec.nn.losses import full_cross_entropy
from mmrec.nn.transformer import layout

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
    ours = partial(train, model, optimizer_of(model), full_length(device))
    return {"part": "SASRec step", **compared(ours, partial(bare, device)), **losses()}


def cammsr(threads: int = THREADS) -> Row:
    """Measure a step of CAMMSR with two modalities, beside the sum of its parts."""
    torch.set_num_threads(threads)
    pairs = Interactions(torch.arange(8) // 4, torch.arange(8), torch.arange(8))
    there = torch.ones(ITEMS, dtype=torch.bool)
    modalities = {
        name: Modality(torch.randn(ITEMS, width), there, name)
        for name, width in (("image", 512), ("text", 384))
    }
    items = torch.arange(ITEMS)
    corpus = TrainingView(
        name="any",
        n_users=2,
        n_items=ITEMS,
        train=pairs,
        split="any",
        fingerprint="any",
        modalities=modalities,
        categories=Categories(items, items % 25, tuple(str(n) for n in range(25))),
    )
    model = CAMMSR(corpus, dim=DIM, layers=LAYERS, heads=HEADS, inner=INNER, max_length=LENGTH)
    optimizer, batch = optimizer_of(model), full_length("cpu")
    ours = partial(train, model, optimizer, batch)
    return {"part": "CAMMSR step", **compared(ours, partial(parts_of, model, optimizer, batch))}


def parts_of(model: CAMMSR, optimizer: torch.optim.Optimizer, batch: Sequences) -> None:
    """Run what a step of CAMMSR consists of, each part forward and backward by itself.

    The parts are the projection of content, experts with the category loss, a Transformer for each
    channel and each swapped one, the cross-entropy, and the optimizer.
    """
    channels, rows = len(model.names), len(batch.history.item)
    encoded = model.encode().items
    torch.autograd.backward(encoded, torch.ones_like(encoded))
    where, present = layout(batch.history.length), model.present(batch.history.item)
    x = torch.randn(channels, rows, DIM, requires_grad=True)
    mixed, logits = model.mix(x, present)
    assert model.labels is not None
    assert logits is not None
    loss = category_loss(logits, *model.labels(batch.history.item))
    torch.autograd.backward([mixed, loss], [torch.ones_like(mixed), torch.ones(())])
    swapped = {channel for pair in model.pairs for channel in pair}
    for channel, read in enumerate(model.interest):
        for _ in range(2 if channel in swapped else 1):
            y = read(x[channel].detach().requires_grad_(), where)
            torch.autograd.backward(y, torch.ones_like(y))
    states = torch.randn(rows, channels * DIM, requires_grad=True)
    items = encoded.detach().requires_grad_()
    torch.autograd.backward(full_cross_entropy(states, items, batch.target))
    optimizer.step()
    optimizer.zero_grad()


def full_length(device: str) -> Sequences:
    """A batch of sequences of full length, with a target at each position."""
    item = torch.randint(ITEMS, (BATCH * LENGTH,), device=device)
    user = torch.arange(BATCH, device=device)
    history = History(item, torch.full((BATCH,), LENGTH, device=device))
    none = item.new_empty(len(item), 0)
    place = torch.arange(len(item), device=device)
    return Sequences(user, history, place, item.flip(0), none, none.float())


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Adam, as a run has it."""
    return torch.optim.Adam(model.parameters(), fused=True)


def train(model: Recommender, optimizer: torch.optim.Optimizer, batch: Sequences) -> None:
    """Take a step."""
    optimizer.zero_grad()
    loss = torch.stack([*model.losses(batch).values()]).sum()
    torch.autograd.backward(loss)
    optimizer.step()


def compared(ours: Callable[[], None], bound: Callable[[], None]) -> dict[str, float]:
    """Medians of seconds and of ratios, measured in turn."""
    measured, bounds = alternating(ours, bound, 7)
    ratios = sorted(one / two for one, two in zip(measured, bounds, strict=True))
    return {
        "seconds": sorted(measured)[len(measured) // 2],
        "bound": sorted(bounds)[len(bounds) // 2],
        "ratio": ratios[len(ratios) // 2],
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
