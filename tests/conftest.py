"""What all tests share: one thread, a cache of their own, and small corpora.

Tests marked `data` read the sets in `MMREC_DATA`. Without it they are left out, and the summary
says so; under CI they fail instead. Tests marked `gpu` are left out where there is none, and the
summary says that too.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import HealthCheck, settings
from lightning import Trainer
from matplotlib.figure import Figure
from omegaconf import DictConfig

from mmrec.commands.run import run
from mmrec.config.paths import replace_file
from mmrec.config.schema import conf_dir
from mmrec.data import Categories, Corpus, Interactions, Modality, content_hash

# A busy machine is slow; that is no failure.
settings.register_profile("mmrec", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mmrec")

REAL_DATA = os.environ.get("MMREC_DATA")
LEFT_OUT = {
    "data": "MMREC_DATA is not set: tests marked `data` are left out",
    "gpu": "there is no GPU: tests marked `gpu` are left out; make test-gpu runs them where one is",
}

# Modules whose tests train models or start commands, so that together they take minutes.
SLOW = {
    *("test_any_value", "test_app", "test_cache", "test_cli", "test_command", "test_conf_files"),
    *("test_contract", "test_demo", "test_evaluate", "test_explain", "test_grid", "test_launchers"),
    *("test_api", "test_docs_python", "test_export", "test_lr_schedule", "test_stages"),
    *("test_packaging", "test_processes", "test_docs", "test_recommend", "test_resume"),
    *(
        "test_run",
        "test_open_run",
        "test_settings",
        "test_shards",
        "test_similar",
        "test_studies",
        "test_sweep",
    ),
    *("test_sweep_jobs", "test_sweep_samplers", "test_sweep_workers", "test_switches"),
    *("test_sequence_run", "test_tracking"),
}

# Modules whose tests share runs, so that one process should have them all (--dist loadgroup).
SHARED = {
    *("test_command", "test_evaluate", "test_explain", "test_given_histories", "test_open_run"),
    *("test_recommend", "test_sequence_run", "test_similar", "test_tracking"),
    *("test_api", "test_docs_python", "test_export"),
}

COLOURS = (38, 16, 10, 10, 8, 8, 6, 6)  # users who like each; unequal, so that popularity tells
ITEMS_OF_COLOUR = 12


def pytest_configure() -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of notebooks and of other processes


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what is imported stays: a collection, as each run starts with, takes a tenth


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
        if group := _group(item):
            item.add_marker(pytest.mark.xdist_group(group))
    missing = _missing()
    left_out = [item for item in items if any(map(item.get_closest_marker, missing))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _group(item: pytest.Item) -> str | None:
    """The tests that one process should run, as they share what takes long to make."""
    if item.path.stem == "test_contract" and isinstance(item, pytest.Function):
        model = getattr(item, "callspec", None) and item.callspec.params.get("name")
        return f"contract of {str(model).partition('/')[0]}" if model else None
    return item.path.stem if item.path.stem in SHARED else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Leave loggers as they were: commands set them up for a process of their own."""
    loggers = [logging.getLogger(name) for name in (None, "mmrec", "lightning.pytorch")]
    before = [(each.handlers[:], each.level) for each in loggers]
    try:
        return (yield)
    finally:
        for logger, (handlers, level) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.setLevel(level)  # which also forgets what other loggers have kept of it


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for marker in _missing():
        terminalreporter.write_line(LEFT_OUT[marker])


def _missing() -> list[str]:
    """Markers of tests that cannot run here."""
    no_data = not (REAL_DATA or os.environ.get("CI"))
    return [*["data"] * no_data, *["gpu"] * (not torch.cuda.is_available())]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets."""
    if not REAL_DATA:
        pytest.fail("MMREC_DATA is not set, and under CI no test may be left out")
    return Path(REAL_DATA)


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """The configuration, as the command line would compose it from the given words."""

    known: dict[tuple[str, ...], DictConfig] = {}

    def build(*words: str) -> DictConfig:
        key = (str(conf_dir()), *words)
        if key not in known:  # to compose takes .17 s, to copy .004 s
            GlobalHydra.instance().clear()
            with initialize_config_dir(str(conf_dir()), version_base="1.3"):
                known[key] = compose("config", overrides=["run_dir=unused", *words])
        return deepcopy(known[key])

    return build


@pytest.fixture(scope="session")
def run_words(composed: Callable[..., DictConfig]) -> Callable[..., dict[str, Any]]:
    """A run in this process: its folder, and the words of the command line.

    Its figures have one pixel, as drawing takes as long as the rest of a tiny run. The tests of
    figures, of the demo and of the console draw real ones.
    """

    def call(folder: Path, *words: str) -> dict[str, Any]:
        with patch("mmrec.report.figures._save", _save_one_pixel):
            return run(composed(*words, f"run_dir={folder}"), list(words))

    return call


def _save_one_pixel(figure: Figure, path: Path) -> None:  # noqa: ARG001
    with replace_file(path) as part:
        Figure((0.01, 0.01), dpi=100).savefig(part, format=path.suffix.removeprefix("."))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str | int | None]:
    """`in_process(main, *words)`: a command in this process, and in an empty folder.

    It gives what the command exits with: its one line, or None. Hydra and the loggers, which the
    command sets up for its process, are afterwards as they were.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(main: Callable[[], None], *words: str) -> str | int | None:
        monkeypatch.setattr(sys, "argv", ["mmrec", *words])
        try:
            main()
        except SystemExit as stopped:
            return stopped.code
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
        return None

    return call


@pytest.fixture(scope="session")
def surroundings() -> dict[str, str]:
    """The environment of a process that is started as a user would, with one thread."""
    env = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    return env | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def shell(surroundings: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`shell(*words, cwd=folder)`: `python -m mmrec.run` as a user types it; `status` expected."""

    def call(
        *words: str, cwd: Path, status: int = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mmrec.run", *words],
            cwd=cwd,
            env=surroundings | env,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return call


@pytest.fixture(scope="session")
def checkerboard() -> Callable[..., Corpus]:
    """Users like the items of one colour, 8 of 12 in train; content and category show the colour.

    `checkerboard(modalities=("visual", "textual"), missing=0)`: `missing` items of each modality
    have no content, the first of them in all modalities.
    """

    def build(modalities: Sequence[str] = ("visual", "textual"), missing: int = 0) -> Corpus:
        rng = torch.Generator().manual_seed(0)
        n_users, n_items = sum(COLOURS), len(COLOURS) * ITEMS_OF_COLOUR
        colour = torch.arange(len(COLOURS)).repeat_interleave(torch.tensor(COLOURS))  # [U]
        order = torch.rand(n_users, ITEMS_OF_COLOUR, generator=rng).argsort(1)
        item = order * len(COLOURS) + colour[:, None]  # [U, 12]; colours alternate
        content = {}
        for place, name in enumerate(modalities):
            painted = torch.eye(len(COLOURS)).repeat(ITEMS_OF_COLOUR, 1)  # [I, C]
            noise = 0.2 * torch.randn(n_items, len(COLOURS) + place, generator=rng)
            features = torch.nn.functional.pad(painted, (0, place)) + noise
            present = torch.ones(n_items, dtype=torch.bool)
            if missing:
                present[0] = False
                present[torch.randperm(n_items, generator=rng)[: missing - 1]] = False
            content[name] = modality(features, present)
        return Corpus(
            name="checkerboard",
            n_users=n_users,
            n_items=n_items,
            train=_pairs(item[:, :8]),
            val=_pairs(item[:, 8:10]),
            test=_pairs(item[:, 10:]),
            split="official",
            fingerprint=content_hash([item, *(m.digest for m in content.values())]),
            modalities=content,
            categories=Categories(
                torch.arange(n_items),
                torch.arange(n_items) % len(COLOURS),
                tuple(f"colour {n}" for n in range(len(COLOURS))),
            ),
        )

    return build


@pytest.fixture(scope="session")
def small_corpus() -> Callable[..., Corpus]:
    """Few users with random items, each in one split: `small_corpus(seed, modalities=2)`."""

    def build(seed: int = 0, modalities: int = 2, n_users: int = 7, n_items: int = 9) -> Corpus:
        rng = torch.Generator().manual_seed(seed)
        item = torch.rand(n_users, n_items, generator=rng).argsort(1)  # [U, I]
        content = {
            f"m{width}": modality(torch.randn(n_items, width, generator=rng))
            for width in range(3, 3 + modalities)
        }
        return Corpus(
            name="small",
            n_users=n_users,
            n_items=n_items,
            train=_pairs(item[:, :4]),
            val=_pairs(item[:, 4:5]),
            test=_pairs(item[:, 5:6]),
            split="official",
            fingerprint=content_hash([item]),
            modalities=content,
        )

    return build


@pytest.fixture
def gappy_corpus(small_corpus: Callable[..., Corpus]) -> Callable[..., Corpus]:
    """`gappy_corpus(modalities=2, complete=True)`: the `small_corpus`, complete or with gaps.

    Items 1 and 3 then lack the last modality, and so do all items of user 0.
    """

    def build(modalities: int = 2, *, complete: bool = True) -> Corpus:
        corpus = small_corpus(modalities=modalities)
        if complete:
            return corpus
        name = [*corpus.modalities][-1]
        last = corpus.modalities[name]
        present = last.present.clone()
        present[[1, 3]] = False
        present[corpus.train.item[corpus.train.user == 0]] = False
        features = last.features * present[:, None]
        last = replace(
            last, features=features, present=present, digest=content_hash([features, present])
        )
        return replace(corpus, modalities={**corpus.modalities, name: last})

    return build


def modality(features: torch.Tensor, present: torch.Tensor | None = None) -> Modality:
    """Content that keeps what a reader promises: absent rows are zero."""
    if present is None:
        present = torch.ones(len(features), dtype=torch.bool)
    features = features * present[:, None]
    return Modality(features, present, content_hash([features, present]))


def _pairs(item: torch.Tensor) -> Interactions:
    """[U, n] items of each user, in order of time."""
    user = torch.arange(len(item)).repeat_interleave(item.shape[1])
    time = torch.arange(item.shape[1]).repeat(len(item))
    return Interactions(user, item.flatten(), time)


@pytest.fixture
def centred():
    """Features as projections see them: centred, and of unit norm in the mean square."""

    def standard(features):
        deviation = features - features.mean(0)
        return deviation / deviation.square().sum(1).mean().sqrt()

    return standard


@pytest.fixture(scope="session")
def quiet_trainer() -> Callable[..., Trainer]:
    """`quiet_trainer(max_epochs=2)`: Lightning's trainer as the command has it, without files."""

    def make(accelerator: str = "cpu", **options: Any) -> Trainer:
        return Trainer(
            accelerator=accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **options,
        )

    return make
