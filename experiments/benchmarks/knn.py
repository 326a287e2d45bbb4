"""What the exact neighbours of every item cost, against their bare matrix products.

python -m experiments.benchmarks.knn --items 8000 --width 1024
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mmrec.config.startup import keep_freed_memory
from mmrec.graphs import knn_graph
from mmrec.training.provenance import peak_rss_mib


def bench_knn(
    items: int, width: int, k: int, block: int, repeats: int = 3, threads: int = 2
) -> dict[str, float]:
    """Time `knn_graph` and the bare products with their top-k.

    Args:
        items: rows of random features.
        width: columns of them.
        k: neighbours an item.
        block: rows of a block, for both.
        repeats: runs of each, alternating; the fastest counts.
        threads: of torch.

    Returns:
        Seconds of both, their ratio, and the peak memory of the process in GiB when only
        `knn_graph` has run.
    """
    torch.set_num_threads(threads)
    features = torch.randn(items, width, generator=torch.Generator().manual_seed(0))
    graph: list[float] = []
    bare: list[float] = []
    for _ in range(repeats):
        graph.append(_seconds(lambda: knn_graph(features, k, block=block)))
        if not bare:
            peak = peak_rss_mib() / 1024
        bare.append(_seconds(lambda: _bare(features, k, block)))
    return {
        "items": items,
        "width": width,
        "k": k,
        "block": block,
        "threads": threads,
        "seconds": min(graph),
        "bare_seconds": min(bare),
        "ratio": min(graph) / min(bare),
        "peak_gib": peak,
    }


def _bare(features: Tensor, k: int, block: int) -> None:
    for rows in features.chunk(-(-len(features) // block)):
        (rows @ features.T).topk(k)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Measure what the command line asks for, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=8000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    keep_freed_memory()
    json.dump(bench_knn(**vars(parser.parse_args())), sys.stdout, indent=2)


if __name__ == "__main__":
    main()
