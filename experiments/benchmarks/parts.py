"""What a run's parts cost, each beside a bound measured in the same process."""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor

from mmrec.config.startup import leave_memory_unfilled
from mmrec.data import FolderData, InteractionData, Modality, PlantedData, Queries, planted
from mmrec.evaluation import RankingMetric
from mmrec.graphs import normalized_adjacency
from mmrec.models import MAGNET, LightGCN, Recommender
from mmrec.nn import Propagation, SparseMatrix, sparse_matmul
from mmrec.nn.schedules import Constant
from mmrec.training.callbacks import Timing
from mmrec.training.provenance import peak_rss_mib

THREADS = 2
WIDTHS = {"visual": 4096, "textual": 384}  # of Baby's features
Row = dict[str, Any]


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call, until a GPU that there is has done it too."""
    start = now()
    run()
    return now() - start


def now() -> float:
    """The time at which all that was asked of a GPU is done."""
    if torch.cuda.max_memory_allocated():
        torch.cuda.synchronize()
    return time.perf_counter()


def training(data: InteractionData, *, epochs: int = 9, device: str = "cpu") -> Row:
    """A LightGCN epoch under Lightning, beside its sparse products alone (Baby: 58 steps)."""
    torch.set_num_threads(THREADS)
    model = LightGCN(data.corpus, dim=64, layers=2)
    adjacency, steps = model.propagate.adjacency.to(device), len(data.train_dataloader())
    operands = torch.randn(2, data.corpus.n_users + data.corpus.n_items, 64, device=device)
    bare = partial(products, bare_product, adjacency, operands, steps)
    measured, bounds = epochs_between(bare, model, data, epochs, device)
    return row("LightGCN epoch", measured, bounds, steps=steps, interactions=len(data.corpus.train))


def products(
    by: Callable[[Tensor, Tensor], Tensor], adjacency: Tensor, operands: Tensor, steps: int
) -> None:
    """Both layers of each step, forward and backward."""
    for _ in range(steps):
        for operand in operands:
            _ = by(adjacency, by(adjacency, operand))


def bare_product(matrix: Tensor, x: Tensor) -> Tensor:
    """Torch's own sparse product, by its faster kernel: the bound, whatever we use."""
    if x.is_cuda:
        return matrix @ x
    product: Tensor = torch.sparse.mm(matrix, x, "sum")
    return product


def epochs_between(
    bare: Callable[[], object],
    model: Recommender,
    data: InteractionData,
    epochs: int,
    device: str = "cpu",
) -> tuple[list[float], list[float]]:
    """Seconds of each epoch of a training, and of the mean of the bounds before and after it.

    Each epoch is measured between two bounds, as other users of a machine come and go.
    """
    timing, bounds = Timing(), [seconds(bare), seconds(bare)][1:]  # the first one warms up
    between = LambdaCallback(on_train_epoch_end=lambda *_: bounds.append(seconds(bare)))
    run = trainer(device, callbacks=[timing, between], max_epochs=1 + epochs, limit_val_batches=0)
    run.fit(model, datamodule=data)
    return timing.train_epochs[1:], [(one + two) / 2 for one, two in pairwise(bounds[1:])]


def alternating(
    ours: Callable[[], object], bare: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, in turn; after a first call that warms up."""
    ours()
    pairs = [(seconds(ours), seconds(bare)) for _ in range(repeats)]
    return [one for one, _ in pairs], [two for _, two in pairs]


def cut(model: MAGNET) -> MAGNET:
    """Keep three experts per pair from the start, as after the end of the schedule's ramp."""
    model.route_by(Constant(coverage=1.0, top_k=3))
    return model


def routed_training(data: InteractionData, *, epochs: int = 4, device: str = "cpu") -> Row:
    """A MAGNET epoch, beside the sum of its products alone.

    That is the sparse ones of both views and of the neighbours, the projections of features, and
    the experts' mixtures of a batch's rows: forward and backward.
    """
    torch.set_num_threads(THREADS)
    corpus, steps, dim = data.corpus, len(data.train_dataloader()), 64
    model = cut(MAGNET(corpus, dim=dim)).to(device)
    template = model.mix.template
    experts, channels = template.shape
    nodes = torch.randn(corpus.n_users + corpus.n_items, dim, device=device)
    rows = torch.randn(channels, 3 * data.batch_size, dim, device=device)
    features = [modality.features.to(device) for modality in corpus.modalities.values()]
    maps = [torch.randn(f.shape[1], dim, device=device) for f in features]
    propagations = [part for part in model.modules() if isinstance(part, Propagation)]
    products = [(part.adjacency, part.layers) for part in propagations]
    smoothing = [part for part in model.channels.neighbours or () if isinstance(part, SparseMatrix)]

    def step() -> None:
        for _ in range(2):
            for adjacency, layers in products:
                for _ in range(layers):
                    bare_product(adjacency, nodes)
            for smooth in smoothing:
                bare_product(smooth.matrix, nodes[corpus.n_users :])
        for f, weight in zip(features, maps, strict=True):
            projected = f @ weight
            f.T @ projected  # the gradient of the map
        mixed = torch.tensordot(template, rows, 1)  # [E, 3B, D]
        torch.tensordot(template.T, mixed, 1)
        torch.tensordot(mixed, rows, ([1, 2], [1, 2]))  # the gradient of the weights

    def bare() -> None:
        with torch.no_grad():
            for _ in range(steps):
                step()

    measured, bounds = epochs_between(bare, model, data, epochs, device)
    return {
        **row("MAGNET epoch", measured, bounds, steps=steps),
        "experts": experts,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """Of this process, or of what it has held on a GPU, if it had one."""
    return torch.cuda.max_memory_allocated() / 1024**2 or peak_rss_mib()


def routed_evaluation(
    data: InteractionData, *, fused: bool, users: int = 4096, repeats: int = 3, device: str = "cpu"
) -> Row:
    """MAGNET's scores of whole catalogues, beside the products of its experts and channels."""
    torch.set_num_threads(THREADS)
    model = cut(MAGNET(data.corpus, dim=64, fused=fused)).to(device)
    blocks = torch.split(torch.arange(users, device=device), data.eval_batch_size)
    with torch.inference_mode():
        encoded = model.encode()
        with (
            tempfile.TemporaryDirectory() as empty,
            patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=empty),
        ):
            compiling = seconds(lambda: model.score(encoded, Queries(blocks[0])))

        def ours() -> None:
            for block in blocks:
                model.score(encoded, Queries(block))

        def bare() -> None:
            for block in blocks:
                left = model.mix(encoded.users[:, block])
                for e in range(len(left)):
                    left[e] @ encoded.items[e].T
                for one, other in zip(
                    encoded.user_terms.channels, encoded.item_terms.channels, strict=True
                ):
                    one[block] @ other.T

        measured, bounds = alternating(ours, bare, repeats)
    found = row("MAGNET scores", measured, bounds, users=users, items=data.corpus.n_items)
    return {**found, "first": compiling}


def with_features(data: InteractionData, widths: Mapping[str, int]) -> InteractionData:
    """The data, with random features for want of their own."""
    corpus, generator = data.corpus, torch.Generator().manual_seed(0)
    present = torch.ones(corpus.n_items, dtype=torch.bool)
    data.corpus = replace(
        corpus,
        modalities={
            name: Modality(
                torch.randn(corpus.n_items, width, generator=generator),
                present,
                f"random {name}, {corpus.n_items} x {width}",  # what caches know it by
            )
            for name, width in widths.items()
        },
    )
    return data


def magnet_training(device: str = "cpu") -> Row:
    """On Baby, with features as wide as its own."""
    return routed_training(with_features(FolderData(name="baby"), WIDTHS), device=device)


def projecting(*, items: int = 7_050, width: int = 4_096, rank: int = 512, repeats: int = 5) -> Row:
    """Ways to project content, forward and back: seconds, and the relative error of each.

    Random features are the hardest for a low rank: they have none.
    """
    torch.set_num_threads(THREADS)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(items, width, generator=generator)
    weight, upstream = (torch.randn(n, 64, generator=generator) for n in (width, items))
    left, values, right = torch.svd_lowrank(features, rank)
    short, basis = left * values, right.T.contiguous()
    some = torch.randperm(items, generator=generator)[: items // 4]

    def full(dtype: torch.dtype) -> Callable[[], Tensor]:
        held = features.to(dtype)

        def run() -> Tensor:
            projected = held @ weight.to(dtype)
            held.T @ upstream.to(dtype)
            return projected.float()

        return run

    def gathered() -> Tensor:
        rows = features[some]
        projected = rows @ weight
        rows.T @ upstream[some]
        return projected

    def low_rank() -> Tensor:
        projected = short @ (basis @ weight)
        basis.T @ (short.T @ upstream)
        return projected

    exact = features @ weight
    ways = {
        "every item, float32": (full(torch.float32), exact),
        "a quarter of the items, gathered": (gathered, exact[some]),
        "every item, bfloat16": (full(torch.bfloat16), exact),
        f"every item, float32, of rank {rank}": (low_rank, exact),
    }
    found = {}
    for name, (way, expected) in ways.items():
        error = float((way() - expected).norm() / expected.norm())
        found[name] = [statistics.median(seconds(way) for _ in range(repeats)), error]
    return {"part": "projection", "items": items, "width": width, "ways": found}


def magnet_at_size(*, steps: int = 12, device: str = "cpu") -> Row:
    """On planted data of Electronics' size: an epoch of it, from the median of a few steps."""
    torch.set_num_threads(THREADS if device == "cpu" else 8)  # it is for neighbours only
    world = partial(planted, users=192_403, items=63_001, interactions_per_user=8.78)
    data = with_features(PlantedData(world=world), WIDTHS)
    model = cut(MAGNET(data.corpus, dim=64))
    moments: list[float] = []
    clock = LambdaCallback(on_train_batch_end=lambda *_: moments.append(now()))
    short = trainer(device, callbacks=[clock], max_steps=steps, limit_val_batches=0)
    short.fit(model, datamodule=data)
    step = statistics.median(two - one for one, two in pairwise(moments[2:]))
    epoch = len(data.train_dataloader())
    return {
        "part": "MAGNET at size",
        "users": data.corpus.n_users,
        "items": data.corpus.n_items,
        "train": len(data.corpus.train),
        "steps": epoch,
        "step": step,
        "seconds": step * epoch,
        "peak_mib": peak_mib(),
    }


def magnet_evaluation(*, fused: bool, device: str = "cpu") -> Row:
    """On Baby."""
    data = with_features(FolderData(name="baby"), WIDTHS)
    return routed_evaluation(data, fused=fused, device=device)


def evaluation(
    data: InteractionData, *, users: int | None = None, repeats: int = 5, device: str = "cpu"
) -> Row:
    """Full-ranking validation, beside score blocks and their top 50 alone."""
    torch.set_num_threads(THREADS)
    corpus, block = data.corpus, data.eval_batch_size
    model = LightGCN(corpus, dim=64, layers=2).to(device)
    metric = RankingMetric(corpus, "val", model.evaluation, detailed=False).to(device)
    queried = metric.users[:users]

    def ours() -> None:
        metric.reset()
        encoded = model.encode()
        for part in torch.split(queried, block):
            metric.update(part, model.score(encoded, Queries(part)))
        metric.compute()

    def bare() -> None:
        left, right = model.encode()
        for part in torch.split(queried, block):
            (left[part] @ right.T).topk(50)

    with torch.inference_mode():
        measured, bounds = alternating(ours, bare, repeats)
    return row("evaluation", measured, bounds, users=len(queried), items=corpus.n_items)


def row(name: str, measured: Sequence[float], bounds: Sequence[float], **sizes: int) -> Row:
    """Medians of what was measured, of its bounds, and of their ratios."""
    ratios = [ours / bound for ours, bound in zip(measured, bounds, strict=True)]
    return {
        "part": name,
        **sizes,
        "seconds": statistics.median(measured),
        "bound": statistics.median(bounds),
        "ratio": statistics.median(ratios),
    }


def baby_training(device: str = "cpu") -> Row:
    """On Baby; and its products by the kernel that we use, without anything else."""
    data = FolderData(name="baby")
    found, corpus = training(data, device=device), data.corpus
    adjacency = normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items).to(device)
    operands = torch.randn(2, corpus.n_users + corpus.n_items, 64, device=device)
    ours = partial(products, sparse_matmul, adjacency, operands, found["steps"])
    return {**found, "products": statistics.median(seconds(ours) for _ in range(3))}


def baby_evaluation(device: str = "cpu") -> Row:
    """On Baby."""
    return evaluation(FolderData(name="baby"), device=device)


def loading() -> Row:
    """Baby, read for the second time."""
    _ = FolderData(name="baby").corpus
    return {"part": "second load", "seconds": seconds(lambda: FolderData(name="baby").corpus)}


def command() -> Row:
    """The whole process of a LightGCN run on Baby."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["model=lightgcn", "data=baby", "trainer=cpu", "trainer.max_epochs=2"]
        mmrec(folder, *words, "run_dir=run")
        result = json.loads(Path(folder, "run", "result.json").read_text())
    return {"part": "LightGCN run", "peak_mib": result["peak_rss_mib"], **result["seconds"]}


def mmrec(folder: str, *words: str) -> None:
    """The command, as a user would give it in a folder.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    command = [sys.executable, "-m", "mmrec.run", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(json.dumps([command, done.stderr[-2000:]]))


def scaling(times: int) -> Row:
    """Planted data of so many times Baby's size; evaluation on a sample of 2,000 users.

    A step propagates the whole graph, so that batches grow with the data, and steps stay as many.
    """
    world = partial(planted, users=19_445 * times, items=7_050 * times, interactions_per_user=8.27)
    data = PlantedData(world=world, batch_size=2048 * times)
    made = seconds(lambda: data.corpus)
    train = training(data, epochs=2)
    ranked = evaluation(data, users=2_000, repeats=2)
    return {
        "times": times,
        "users": data.corpus.n_users,
        "items": data.corpus.n_items,
        "train": len(data.corpus.train),
        "made": made,
        "epoch": train["seconds"],
        "epoch_ratio": train["ratio"],
        "evaluation": ranked["seconds"],
        "evaluation_ratio": ranked["ratio"],
        "peak_mib": peak_rss_mib(),
    }


def trainer(device: str = "cpu", **options: Any) -> Trainer:
    """As the command makes it, without files."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    leave_memory_unfilled()
    return Trainer(
        accelerator=device,
        devices=1,
        deterministic=True if device == "cpu" else "warn",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **options,
    )
