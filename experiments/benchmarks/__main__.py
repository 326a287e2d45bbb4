"""`python -m experiments.benchmarks` measures what it costs; `--full` adds size, `--gpu` is of one.

The table is in README.md beside this.

Each part runs in a fresh process. What counts are ratios to bounds from the same process, as
machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks import cold, graphs, many, memory, parts, sequences
from experiments.benchmarks.knn import bench_knn
from mmrec.config.startup import keep_freed_memory
from mmrec.training.provenance import git_commit, versions

log = logging.getLogger(__name__)
FOLDER = Path(__file__).parent
Part = Callable[[], dict[str, Any]]
GPU = " on a GPU"
OF_MAMEX = "products with features, of two experts and of the gates"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="63,001 x 4,096 kNN and 16 x Baby too")
    parser.add_argument("--gpu", action="store_true", help="on a GPU, what has a place there")
    parser.add_argument("--only", default="", help="parts whose name holds this; others stay")
    arguments = parser.parse_args()
    if arguments.gpu and not torch.cuda.is_available():
        sys.exit("--gpu: torch finds none here; leave it out to measure this machine's CPU")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.monotonic()
    work = on_gpu() if arguments.gpu else on_cpu(full=arguments.full)
    measured = {}
    for name in [name for name in work if arguments.only in name]:
        measured[name] = fresh(work[name])
        log.info("%4.0fs %s %s", time.monotonic() - start, name, json.dumps(measured[name]))
    store = FOLDER / "results.json"
    earlier = json.loads(store.read_text()) if store.exists() else {}
    origin = {"commit": git_commit(), "machine": machine(gpu=arguments.gpu)}
    everything = {**earlier, **{name: {**value, **origin} for name, value in measured.items()}}
    store.write_text(json.dumps(everything, indent=1) + "\n")
    (FOLDER / "README.md").write_text(page(everything))


def on_cpu(*, full: bool) -> dict[str, Part]:
    """What there is to measure, and what takes long only if asked for."""
    work: dict[str, Part] = {
        "LightGCN epoch, Baby": parts.baby_training,
        "evaluation, Baby": parts.baby_evaluation,
        "MAGNET epoch, Baby": parts.magnet_training,
        "MAGNET scores, Baby": partial(parts.magnet_evaluation, fused=False),
        "fused MAGNET scores, Baby": partial(parts.magnet_evaluation, fused=True),
        "MAMEX epoch, Baby": cold.baby,
        "MAMEX epoch, Scientific": cold.scientific,
        "MAMEX epoch, Scientific, one thread": partial(cold.scientific, threads=1),
        "SASRec step": sequences.step,
        "CAMMSR step": sequences.cammsr,
        **{f"{name} step, Baby": partial(graphs.step, name) for name in graphs.MODELS},
        "100,000 new items": cold.arrivals,
        "dispatch": cold.dispatch,
        "projection": parts.projecting,
        "second load, Baby": parts.loading,
        "whole run, Baby": parts.command,
        "search": many.trials,
        "report": many.report_of,
        "kNN 8,000 x 1,024": partial(bench_knn, 8_000, 1_024, 10, 1_024),
        **{f"{n} x Baby": partial(parts.scaling, n) for n in ((1, 4, 16) if full else (1, 4))},
    }
    if full:
        for size in memory.SIZES:
            name = "memory of {:,} users, {:,} items, {:,} edges, d={}".format(*size)
            work[name] = partial(memory.device_memory, *size)
        work["MAGNET at Electronics' size"] = parts.magnet_at_size
        work["kNN 63,001 x 4,096"] = partial(bench_knn, 63_001, 4_096, 10, 1_024, repeats=1)
    return work


def on_gpu() -> dict[str, Part]:
    """What a GPU's users wait for."""
    work: dict[str, Part] = {
        "LightGCN epoch, Baby": partial(parts.baby_training, "cuda"),
        "evaluation, Baby": partial(parts.baby_evaluation, "cuda"),
        "MAGNET epoch, Baby": partial(parts.magnet_training, "cuda"),
        "MAGNET scores, Baby": partial(parts.magnet_evaluation, fused=False, device="cuda"),
        "fused MAGNET scores, Baby": partial(parts.magnet_evaluation, fused=True, device="cuda"),
        "MAMEX epoch, Baby": partial(cold.baby, "cuda"),
        "MAMEX epoch, Scientific": partial(cold.scientific, "cuda"),
        "SASRec step": partial(sequences.step, device="cuda"),
        "100,000 new items": partial(cold.arrivals, device="cuda"),
        "MAGNET at Electronics' size": partial(parts.magnet_at_size, steps=60, device="cuda"),
    }
    return {f"{name}{GPU}": part for name, part in work.items()}


def fresh(part: Part) -> dict[str, Any]:
    """Call in a process of its own, set up as a command is, so that memory is the part's alone."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=keep_freed_memory) as pool:
        return pool.submit(part).result()


def machine(*, gpu: bool) -> str:
    """What it ran on."""
    if gpu:
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = models[0] if models else platform.processor()
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, {parts.THREADS} threads"


def page(results: dict[str, dict[str, Any]]) -> str:
    """The table."""
    bounded = [
        ("LightGCN epoch, Baby", "58 steps of `torch.sparse.mm`, forward and backward", "1.6"),
        ("evaluation, Baby", "score blocks and their top 50", "1.6"),
        ("MAGNET epoch, Baby", "sparse products, projections and experts' products", "1.5"),
        ("MAGNET scores, Baby", "products of experts and channels", "2.5"),
        ("fused MAGNET scores, Baby", "products of experts and channels", "2.5"),
        ("MAMEX epoch, Baby", OF_MAMEX, "1.5"),
        ("MAMEX epoch, Scientific", OF_MAMEX, "1.5"),
        ("MAMEX epoch, Scientific, one thread", OF_MAMEX, "1.5"),
        ("SASRec step", "matrix products and attention, forward and backward", "1.5"),
        ("CAMMSR step", "its parts by themselves, forward and backward", "1.5"),
        *(
            (f"{name} step, Baby", "its dense and sparse products, forward and backward", "1.5")
            for name in graphs.MODELS
        ),
        ("100,000 new items", "their products with 10,000 users, and the top 20", "1.6"),
        ("kNN 8,000 x 1,024", "full square of products and its top 10", "1.4"),
        ("kNN 63,001 x 4,096", "full square of products and its top 10", "1.4"),
    ]
    lines = [HEAD]
    for name, bound, limit in bounded:
        if name in results:
            found = results[name]
            limit_s = found.get("bound", found.get("bare_seconds"))
            lines.append(
                f"| {name} | {found['seconds']:.2f} | {bound} | {limit_s:.2f} | "
                f"**{found['ratio']:.2f}** | {limit} |"
            )
    lines.append(OTHER)
    for name, key, text, limit in (
        (
            "MAMEX epoch, Scientific",
            "align",
            "share of an epoch of MAMEX that alignment takes",
            "0.2",
        ),
        ("MAMEX epoch, Baby", "align", "the same, on Baby", "0.2"),
        ("LightGCN epoch, Baby", "products", "the same 58 steps' products by our kernel, s", ""),
        ("whole run, Baby", "peak_mib", "peak memory of a LightGCN run on Baby, MiB", "650"),
        ("MAGNET epoch, Baby", "peak_mib", "peak memory of MAGNET on Baby, MiB", "2,048"),
        ("100,000 new items", "peak_mib", "peak memory of ranking 100,000 new items, MiB", ""),
        (
            "MAGNET at Electronics' size",
            "seconds",
            "an epoch of MAGNET on data of Electronics' size, s (from its steps)",
            "",
        ),
        ("MAGNET at Electronics' size", "peak_mib", "peak memory of it, MiB", "24,576"),
        (
            "fused MAGNET scores, Baby",
            "first",
            "compiling its fused scores, and the first block, s",
            "",
        ),
        ("second load, Baby", "seconds", "loading Baby a second time, s", "1"),
        (
            "kNN 63,001 x 4,096",
            "peak_gib",
            "peak memory of 63,001 x 4,096 kNN, GiB",
            "2.33 (2.5 GB)",
        ),
        *(
            (
                f"{name} step, Baby",
                "peak_mib",
                f"peak memory of {name} on Baby with features of 4,096 and 384, MiB",
                "900" if name == "FREEDOM" else "1,229",
            )
            for name in graphs.MODELS
        ),
        ("SASRec step", "loss by ours", "a cross-entropy of 800 rows over 12,101 items, s", ""),
        ("SASRec step", "loss by autograd", "the same by autograd on one matrix of logits, s", ""),
        ("search", "ratio", "a trial of a search, relative to the same run alone", "1.05"),
        ("report", "seconds", "a report of 1,000 runs, s", "20"),
        ("report", "peak_mib", "its peak memory, MiB", "1,024"),
    ):
        if key in results.get(name, {}):
            lines.append(f"| {text} | {results[name][key]:.2f} | {limit} |")
    lines.append(SCALING)
    base = results.get("1 x Baby")
    for times in (1, 4, 16):
        grown = results.get(f"{times} x Baby")
        if grown and base:
            per_train = grown["epoch"] / grown["train"] / (base["epoch"] / base["train"])
            per_pair = grown["evaluation"] / grown["items"] / (base["evaluation"] / base["items"])
            lines.append(
                f"| {times} | {grown['users']:,} | {grown['items']:,} | {grown['train']:,} | "
                f"{grown['epoch']:.2f} | {per_train:.2f} | {grown['epoch_ratio']:.2f} | "
                f"{grown['evaluation']:.2f} | {per_pair:.2f} | {grown['evaluation_ratio']:.2f} | "
                f"{grown['peak_mib']:.0f} |"
            )
    if "projection" in results:
        found = results["projection"]
        lines.append(PROJECTION.format(**found))
        lines += [f"| {way} | {s:.3f} | {e:.1e} |" for way, (s, e) in found["ways"].items()]
    if "dispatch" in results:
        lines.append(DISPATCH)
        lines += [
            f"| {size} | {few * 1e3:.1f} | {every * 1e3:.1f} | {few / every:.2f} |"
            for size, (few, every) in results["dispatch"]["sizes"].items()
        ]
    lines += of_a_gpu(results, [name for name, *_ in bounded])
    held = [value for name, value in results.items() if name.startswith("memory of ")]
    lines.append(MEMORY)
    lines += [
        f"| {h['users']:,} | {h['items']:,} | {h['train']:,} | {h['dim']} | {h['mib']:,.0f} |"
        for h in held
    ]
    origins = sorted({(str(r["commit"]), r["machine"]) for r in results.values()})
    lines += [
        "",
        "## Where the figures come from",
        "",
        "- command: `make bench`, `make bench-full` for the largest, and the one above on a GPU",
    ]
    lines += [f"- commit `{commit}` on {where}" for commit, where in origins]
    lines.append("- " + ", ".join(f"{name} {version}" for name, version in versions().items()))
    return "\n".join(lines) + "\n"


def of_a_gpu(results: dict[str, dict[str, Any]], names: list[str]) -> list[str]:
    """The table of what was measured on one."""
    there = [(name, results[name + GPU]) for name in names if name + GPU in results]
    size = results.get(f"MAGNET at Electronics' size{GPU}")
    lines = [HEAD_GPU] if there or size else []
    for name, found in there:
        held = f"{found['peak_mib']:,.0f}" if "peak_mib" in found else ""
        lines.append(
            f"| {name} | {found['seconds'] * 1e3:.1f} | {found['bound'] * 1e3:.1f} "
            f"| {found['ratio']:.2f} | {held} |"
        )
    return [*lines, SIZE_GPU.format(**size)] if size else lines


HEAD = """# Benchmarks

Each part beside a bound that is measured in the same process, so that a noisy machine moves both.
Two threads; LightGCN with 64 dimensions, 2 layers and batches of 2,048.

| part | seconds | bound | seconds | ratio | limit |
|---|---|---|---|---|---|"""

OTHER = """
The ratio of MAGNET's plain scores depends on how fast a machine's products are: it was 2.4 to 2.6
before a pass was saved for each expert, with products of .3 s. Those of `model.fused=true` are well
below it. An epoch of MAMEX on small data is above its own with two threads, at 1.7 to 2.2 as the
machine's day is, and about at it with one, at 1.40 to 1.54, as runs beside each other have: half of
it are products, which a second thread halves, the rest many small operations that it does nothing
for (the loss, the gate between modalities, dropout's draws, Lightning's loop). Commit `444a734`
took a tenth off it, measured in turn with the code before.

| | measured | limit |
|---|---|---|"""

SCALING = """
## Cost against size

Planted data of 1, 4 and 16 times Baby's users and items. "Growth" is the time per train
interaction, and per user and item, relative to the first line: at most 1 is linear. Evaluation
ranks the whole catalogue for 2,000 users. A step propagates the whole graph, so batches grow with
the data (2,048 at the first line), and an epoch has as many steps at every size. "Ratio" is the
time over that of the bare products, which grow faster than the data where tables leave the caches;
those of training are `torch.sparse.mm`.

| times | users | items | train | epoch s | growth | ratio | evaluation s | growth | ratio | MiB |
|---|---|---|---|---|---|---|---|---|---|---|"""

PROJECTION = """
## Projecting content

{items:,} items with random features of width {width:,}, to 64 dimensions and back, as in a step of
MAGNET. It gathers the items that a batch depends on where they are under half of all, which is
exact: a quarter at Electronics' size with batches of 2,048. On Baby a batch depends on 79 %, and
all are projected. `model.precision=bfloat16` is for hardware that has it; a low rank is as good as
the features' spectrum, and random ones have none.

| way | s | relative error |
|---|---|---|"""

DISPATCH = """
## Which experts compute

MAMEX gives a row to two of four experts of 128 dimensions, forward and backward. Each expert sees
the rows that keep it; all experts for all rows is what it is compared with.

| rows x width | kept rows, ms | all rows, ms | ratio |
|---|---|---|---|"""

HEAD_GPU = """
## On a GPU

`python -m experiments.benchmarks --gpu`. Small data leave a GPU waiting for its next kernel, which
Python launches: bare products are so few there that the ratio says how many kernels a step has, not
how fast they are. MiB is the most that tensors held, the bound's among them.

| part | ms | bare products, ms | ratio | MiB |
|---|--:|--:|--:|--:|"""

SIZE_GPU = """
MAGNET on planted data of Electronics' size, {users:,} users, {items:,} items, {train:,} train
interactions, features 4,096 and 384 wide: a step takes {step:.4f} s, an epoch of {steps:,} steps
{seconds:.0f} s, in {peak_mib:,.0f} MiB."""

MEMORY = """
## Memory on each device

A full-graph model replicates graph and tables on every device of `trainer=ddp`. This is what
training LightGCN with Adam and ranking blocks of 512 users take, beyond the data; measured on a
CPU, with the tensors that a GPU would hold. It is about five tables of users and items by d, 16
bytes an edge, and a block of scores.

| users | items | train | d | MiB |
|---|---|---|---|---|"""

if __name__ == "__main__":
    main()
