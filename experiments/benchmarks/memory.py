"""What a full-graph model holds on each device, by the size of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.benchmarks.parts import THREADS, Row, trainer
from mmrec.config.startup import forget_peak_memory
from mmrec.data import Corpus, InteractionData, Interactions
from mmrec.models import LightGCN
from mmrec.training.provenance import peak_rss_mib

HELD_OUT = 2048
SIZES = (
    (19_445, 7_050, 120_000, 64),
    (311_120, 112_800, 1_900_000, 64),
    (1_000_000, 200_000, 10_000_000, 64),
    (1_000_000, 200_000, 10_000_000, 128),
)


def device_memory(users: int, items: int, edges: int, dim: int) -> Row:
    """Three steps of LightGCN and the ranking of 512 users, beyond what the data take.

    Measured on a CPU; the tensors are the same on a GPU.
    """
    torch.set_num_threads(THREADS)
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randint(users * items, (edges,), generator=rng)
    pair: Tensor = torch.unique(drawn)
    pair = pair[torch.randperm(len(pair), generator=rng)]
    parts = (pair[:HELD_OUT], pair[HELD_OUT : 2 * HELD_OUT], pair[2 * HELD_OUT :])
    val, test, train = (Interactions(part // items, part % items) for part in parts)
    data = InteractionData()
    data.corpus = Corpus(
        name="random",
        n_users=users,
        n_items=items,
        train=train,
        val=val,
        test=test,
        split="official",
        fingerprint="0" * 64,
        modalities={},
    )
    _ = data.sampler
    forget_peak_memory()
    before = peak_rss_mib()
    model = LightGCN(data.corpus, dim=dim, layers=2)
    forget_peak_memory()  # the graph is made on the CPU, also for a GPU
    short = trainer(max_steps=3, limit_val_batches=1, val_check_interval=3)
    short.fit(model, datamodule=data)
    return {
        "users": users,
        "items": items,
        "train": len(train),
        "dim": dim,
        "mib": peak_rss_mib() - before,
    }
