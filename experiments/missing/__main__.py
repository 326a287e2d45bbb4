"""What ranking cold items loses as they lack more of a modality: `make study-missing`."""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from hydra.utils import instantiate
from torch import Tensor

from experiments.study import (
    Cell,
    Result,
    provenance,
    run_cells,
    setup_logging,
    spread,
)
from mmrec.data import Corpus
from mmrec.data.corpus import content_hash
from mmrec.evaluation import Rankings
from mmrec.models import Recommender, RoutedRecommender
from mmrec.training.open_run import OpenRun, open_run, scored

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
STUDY = "missing"
RATES = (0.0, 0.1, 0.3, 0.5, 1.0)
DATA: dict[str, tuple[Cell, tuple[str, ...]]] = {
    "planted": (("data=planted_cold",), ("visual", "textual")),
    "scientific": (("data=scientific_cold",), ("image", "text")),
    "tiktok": (("data=tiktok_cold",), ("image", "audio")),
}
DROPOUT = "MAMEX, modality dropout .3"
MODELS: dict[str, Cell] = {
    "MAMEX": ("model=mamex", "model.l2=1e-2"),
    DROPOUT: ("model=mamex", "model.l2=1e-2", "model.modality_dropout=0.3"),
    "Content BPR": ("model=content_bpr", "model.l2=1e-2"),
    "DropoutNet": ("model=dropoutnet",),
    "CLCRec": ("model=clcrec",),
    "Item kNN": ("model=item_knn",),
    "random": ("model=random",),
}
METRIC = "test/recall@20"
BESIDE = 115  # where a panel has the models that were trained without
Curve = dict[float, list[float]]  # of each draw, by the share of items that lack the modality


def main() -> None:
    """Train what is missing, hide modalities, write a page and a figure for each data set."""
    setup_logging()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", nargs="+", choices=DATA, default=list(DATA), help="of two modalities"
    )
    parser.add_argument("--draws", type=int, default=3, help="of cold items")
    options = parser.parse_args()
    if options.draws < 1:
        parser.error(f"--draws {options.draws}: give 1 or more")
    for data in options.data:
        study(data, options.draws)


def study(data: str, draws: int) -> None:
    """One data set."""
    words, modalities = DATA[data]
    shared = (*words, "data.cold_items=random", "optimizer.lr=2e-3", "trainer=cpu")
    cells = {
        (model, without): [
            (*words_of(model, modalities, without), *shared, f"data.split_seed={draw}")
            for draw in range(draws)
        ]
        for model in MODELS
        for without in (None, *modalities)
    }
    results = run_cells(STUDY, [cell for of_model in cells.values() for cell in of_model])
    curves: dict[str, dict[str, Curve]] = {name: {} for name in modalities}
    alone: dict[str, dict[str, list[float]]] = {name: {} for name in modalities}
    for model in MODELS:
        runs = [open_run(Path(results[cell]["run_dir"])) for cell in cells[model, None]]
        for name in modalities:
            curves[name][model] = curve(runs, name)
            alone[name][model] = [results[cell]["metrics"][METRIC] for cell in cells[model, name]]
            log.info("%s, %s without %s", data, model, name)
    write(data, curves, alone, list(results.values()), draws)


def words_of(model: str, modalities: Sequence[str], without: str | None) -> Cell:
    """A model, trained with all of two modalities or without one."""
    if without is None:
        return MODELS[model]
    (left,) = (name for name in modalities if name != without)
    words = MODELS["MAMEX" if model == DROPOUT else model]  # one alone cannot be hidden
    return (*words, f"data.modalities=[{left}]")


def curve(runs: Sequence[OpenRun], name: str) -> Curve:
    """The test metric of runs as more of the cold items lack a modality."""
    return {rate: [ranked_without(run, name, rate) for run in runs] for rate in RATES}


def ranked_without(run: OpenRun, name: str, rate: float) -> float:
    """The test metric where a share of the cold items, drawn once, lacks a modality."""
    assert run.corpus.cold is not None
    cold = run.corpus.cold.nonzero().squeeze(1)
    order = torch.randperm(len(cold), generator=torch.Generator().manual_seed(0))
    rankings = Rankings(run.corpus, "test", run.model.evaluation)
    queries = run.queries(rankings.main.users, run.data.eval_batch_size)
    corpus = lacking(run.corpus, name, cold[order[: round(rate * len(cold))]])
    for users, scores in scored(
        replace(run, model=rebuilt(run, corpus)), queries, accelerator="cpu"
    ):
        rankings.main.update(users, scores)
    return float(rankings.main.compute()[METRIC.removeprefix("test/")])


def lacking(corpus: Corpus, name: str, items: Tensor) -> Corpus:
    """A corpus of which some items have no longer a modality."""
    known = corpus.modalities[name]
    features = known.features.index_fill(0, items, 0.0)
    present = known.present.index_fill(0, items, value=False)
    left = replace(
        known, features=features, present=present, digest=content_hash([features, present])
    )
    return replace(corpus, modalities={**corpus.modalities, name: left})


def rebuilt(run: OpenRun, corpus: Corpus) -> Recommender:
    """What a run has learned, over other content."""
    model: Recommender = instantiate(run.config["model"], _convert_="all")(corpus)
    model.load_state_dict(run.model.state_dict())
    if isinstance(model, RoutedRecommender) and isinstance(run.model, RoutedRecommender):
        model.route_by(run.model.schedule)
    return model.eval()


def write(
    data: str,
    curves: dict[str, dict[str, Curve]],
    alone: dict[str, dict[str, list[float]]],
    results: list[Result],
    draws: int,
) -> None:
    """The page, the figure and the numbers."""
    over = "one draw" if draws == 1 else f"{draws} draws"
    parts = [
        f"# Cold items of {data} that lack a modality",
        "",
        f"Test recall@20, mean and deviation over {over} of cold items. Training has all "
        "content; the last column is the model trained without the modality.",
        "",
    ]
    for name, of_models in curves.items():
        shown = [f"{rate:.0%}" for rate in RATES]
        parts += [
            f"## Without {name}",
            "",
            f"| model | {' | '.join(shown)} | trained without |",
            "|---" + "|--:" * (len(RATES) + 1) + "|",
        ]
        for model, values in of_models.items():
            cells = [spread(values[rate]) for rate in RATES]
            parts.append(f"| {model} | {' | '.join(cells)} | {spread(alone[name][model])} |")
        parts.append("")
    parts += [
        f"![curves]({data}.png)",
        "",
        "## Where the figures come from",
        "",
        provenance(results, f"python -m experiments.missing --data {data} --draws {draws}"),
        "",
    ]
    (HERE / f"{data}.md").write_text("\n".join(parts))
    (HERE / f"{data}.json").write_text(json.dumps({"curves": curves, "alone": alone}, indent=1))
    draw(data, curves, alone)


def draw(
    data: str,
    curves: dict[str, dict[str, Curve]],
    alone: dict[str, dict[str, list[float]]],
) -> None:
    """A panel for each modality."""
    size = (5 * len(curves), 4.5)
    lacking = [round(100 * rate) for rate in RATES]
    figure, panels = plt.subplots(1, len(curves), figsize=size, sharey=True, layout="constrained")
    for axes, (name, of_models) in zip(panels, curves.items(), strict=True):
        for model, values in of_models.items():
            means = [statistics.fmean(values[rate]) for rate in RATES]
            (line,) = axes.plot(lacking, means, marker="o", label=model)
            without = statistics.fmean(alone[name][model])
            axes.plot(BESIDE, without, marker="x", color=line.get_color())
        axes.set(title=f"without {name}", xlabel="cold items that lack it, %")
        axes.set_xticks([*lacking, BESIDE], [*lacking, "trained\nwithout"])
    panels[0].set_ylabel("test recall@20")
    panels[0].set_ylim(bottom=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(HERE / f"{data}.png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
