"""What models of content cost: a step of MAMEX, and ranking items that came after training."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from experiments.benchmarks.parts import (
    THREADS,
    WIDTHS,
    Row,
    alternating,
    epochs_between,
    peak_mib,
    row,
    with_features,
)
from mmrec.data import FolderData, InteractionData, PlantedData, planted
from mmrec.evaluation.inference import best_items
from mmrec.models import MAMEX
from mmrec.models.mamex import ModalityVectors, alignment
from mmrec.nn import SparseMixture
from mmrec.nn.gates import sparse_softmax
from mmrec.nn.schedules import Constant


def training(
    data: InteractionData, *, epochs: int = 2, device: str = "cpu", threads: int = THREADS
) -> Row:
    """A MAMEX epoch, beside its products with features alone, forward and backward."""
    torch.set_num_threads(threads)
    model, steps = MAMEX(data.corpus).to(device), len(data.train_dataloader())
    model.route_by(Constant(coverage=1.0, top_k=2))
    items, width = data.corpus.n_items, model.user.weight.shape[1]
    rows = model.item_features().rows
    random = partial(torch.randn, device=device)
    of_gates = [random(x.shape[1], model.eligible) for x in rows]
    of_experts = [random(x.shape[1], width) for x in rows]
    joined = random(items, len(rows) * width)
    of_fusion = random(len(rows) * width, width)

    def step() -> None:
        for x, gate, expert in zip(rows, of_gates, of_experts, strict=True):
            x.T @ (x @ gate)
            for half in torch.split(x, items // 2)[:2]:  # two of four experts see a row
                for _ in range(2):
                    half.T @ (half @ expert)
        hidden = joined @ of_fusion
        joined.T @ hidden
        hidden @ of_fusion.T

    def bare() -> None:
        with torch.no_grad():
            for _ in range(steps):
                step()

    measured, bounds = epochs_between(bare, model, data, epochs, device)
    found = row("MAMEX epoch", measured, bounds, steps=steps)
    share = aligning(model.to(device), steps) / found["seconds"]
    return {**found, "align": share, "peak_mib": peak_mib()}


def aligning(model: MAMEX, steps: int) -> float:
    """Seconds that the alignment term takes in an epoch, forward and backward."""
    views = model.catalogue()
    leaves = [x.detach().requires_grad_() for x in (views.items, views.each)]

    def once() -> None:
        torch.autograd.backward(alignment(ModalityVectors(leaves[0], leaves[1], *views[2:])))

    measured, _ = alternating(once, lambda: None, 9)
    return steps * statistics.median(measured)


def baby(device: str = "cpu") -> Row:
    """On Baby, with features as wide as its own."""
    return training(with_features(FolderData(name="baby"), WIDTHS), device=device)


def scientific(device: str = "cpu", *, threads: int = THREADS) -> Row:
    """On Scientific."""
    return training(FolderData(name="scientific"), epochs=9, device=device, threads=threads)


def dispatch(*, repeats: int = 9) -> Row:
    """Two of four experts for each row, forward and backward: each for its rows, or all for all."""
    torch.set_num_threads(THREADS)
    sizes = {}
    for rows, width in ((1_600, 128), (1_600, 512), (7_050, 384), (7_050, 4_096)):
        x, mixture = torch.randn(rows, width), SparseMixture(width, 128, 4)
        with torch.no_grad():
            gates = sparse_softmax(mixture.gate(x), 2, dim=-1)

        def run(way: Callable[[Tensor, Tensor], Tensor], x: Tensor, gates: Tensor) -> None:
            torch.autograd.backward(way(x, gates).sum())

        few, every = (
            partial(run, way, x, gates) for way in (mixture.one_by_one, mixture.all_at_once)
        )
        one, all_ = (statistics.median(times) for times in alternating(few, every, repeats))
        sizes[f"{rows:,} x {width:,}"] = [one, all_]
    return {"part": "dispatch", "sizes": sizes}


def arrivals(
    *,
    items: int = 100_000,
    users: int = 10_000,
    k: int = 20,
    block: int = 512,
    device: str = "cpu",
) -> Row:
    """The best of many new items for many users, beside products and their top k alone."""
    torch.set_num_threads(THREADS)
    world = partial(planted, users=users, items=2_000, interactions_per_user=5.0)
    model = MAMEX(PlantedData(world=world).corpus).eval().to(device)
    generator = torch.Generator().manual_seed(0)
    features = {n: torch.randn(items, 64, generator=generator) for n in model.names}
    with torch.inference_mode():
        vectors = model.encode_items(features)
        known = model.user.weight
        blocks = torch.split(torch.arange(users, device=device), block)

        def ours() -> None:
            for some in blocks:
                best_items(known[some] @ vectors.T, some, k)

        def bare() -> None:
            for some in blocks:
                (known[some] @ vectors.T).topk(k)

        measured, bounds = alternating(ours, bare, 3)
    found = row("new items", measured, bounds, users=users, items=items)
    return {**found, "peak_mib": peak_mib()}
