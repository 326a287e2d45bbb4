"""Time and memory of a training step of graph models of content, relative to its products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from lightning import seed_everything
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.benchmarks.parts import (
    THREADS,
    WIDTHS,
    Row,
    alternating,
    peak_mib,
    row,
    with_features,
)
from mmrec.data import FolderData
from mmrec.models import (
    BM3,
    EGRA,
    FREEDOM,
    GRCN,
    GUME,
    LATTICE,
    MGCN,
    MMGCN,
    PGL,
    SMORE,
    LGMRec,
    Recommender,
    SLMRec,
)

aten = torch.ops.aten
PRODUCTS = {
    *(aten.mm.default, aten.mm.out, aten.addmm.default, aten.addmm.out, aten.addmm_.default),
    *(aten.bmm.default, aten.baddbmm.default),
    *(aten._embedding_bag.default, aten._embedding_bag_forward_only.default),
}
MODELS: Mapping[str, type[Recommender]] = {
    kind.__name__: kind
    for kind in (
        *(FREEDOM, BM3, MGCN, LGMRec, SMORE, GUME, EGRA),
        *(PGL, LATTICE, SLMRec, GRCN, MMGCN),
    )
}


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record the dense and sparse products that are computed, to repeat them alone.

    Attributes:
        calls: functions without arguments.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Callable[[], object]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and keep it if it is a product."""
        kwargs = dict(kwargs or {})
        if func in PRODUCTS:
            self.calls.append(partial(func, *args, **kwargs))
        return func(*args, **kwargs)

    @torch.no_grad()
    def repeat(self) -> None:
        """Compute the products again."""
        for call in self.calls:
            call()


def step(name: str, *, threads: int = THREADS, repeats: int = 7) -> Row:
    """Measure a step with the optimizer at the size of Baby, and the products that it contains.

    Sparse products of the bound are by our kernel, which is the faster one.
    """
    torch.set_num_threads(threads)
    seed_everything(0, verbose=False)
    data = with_features(FolderData(name="baby"), WIDTHS)
    model = MODELS[name](data.corpus)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    dataset = data.dataset(model)
    generator = torch.Generator().manual_seed(0)
    batch = dataset.batch(torch.randperm(len(dataset), generator=generator)[:2048], generator)
    model.start_epoch(0, generator)

    def ours() -> None:
        optimizer.zero_grad()
        loss = torch.stack([*model.losses(batch).values()]).sum()
        torch.autograd.backward(loss)
        optimizer.step()

    for _ in range(3):
        ours()
    peak = peak_mib()
    with Products() as products:
        ours()
    measured, bounds = alternating(ours, products.repeat, repeats)
    found = row(f"{name} step", measured, bounds, products=len(products.calls))
    return {**found, "peak_mib": peak}
