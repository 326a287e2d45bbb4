"""What `import mmrec` offers: train without Hydra's command line, and open what was trained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf

from mmrec.commands.run import run
from mmrec.config.errors import SettingError
from mmrec.config.hydra_errors import explain_error
from mmrec.config.paths import expand
from mmrec.config.schema import TARGET, conf_dir
from mmrec.config.text import file_name
from mmrec.config.words import quoted
from mmrec.data import Corpus
from mmrec.data.memory import at_hand, corpus_digest
from mmrec.training.build import check_ablation
from mmrec.training.open_run import OpenRun, open_run

__all__ = ["Corpus", "OpenRun", "fit", "open_run"]

# Few cold items decide a validation, so that early peaks are not waited out otherwise.
COLD = {"trainer.check_val_every_n_epoch": 10, "callbacks.early_stopping.patience": 20}
PLAIN = re.compile(r"[A-Za-z_][\w./@-]*")  # text that Hydra reads as it is, but for these words
NOT_TEXT = ("null", "true", "false", "nan", "inf")


def fit(
    model: str = "lightgcn",
    data: Corpus | str = "planted",
    *,
    run_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> OpenRun:
    """Train a model, select it on validation, test it once, and open the run.

    It writes the same folder as `mmrec run`. The folder of a run on a corpus in memory does not
    hold the data: it opens with `open_run(folder, data=corpus)` only.

    Args:
        model: a choice of `model=`, for example `magnet`.
        data: a corpus, or a choice of `data=`, for example `tiktok`. A corpus for a model of
            sequences is made with `ordered=True`.
        run_dir: folder of the run; None: `outputs/<model>/<data>/<time>`. With
            `settings={"ckpt": "last"}` the run in it is resumed.
        settings: by the names of the command line, for example
            `{"model.layers": 3, "trainer.max_epochs": 5}`.
        more: settings whose names have no dot, for example `seed=1` or `trainer="cpu"`.

    Returns:
        The run with its best weights; `result` has the metrics.

    Raises:
        SettingError: a setting is invalid.
        DataError: the data are invalid.
        KeyboardInterrupt: the training was interrupted.
    """
    given = {**more, **(settings or {})}
    if not isinstance(data, str | Corpus):
        raise SettingError(
            setting="data",
            problem=f"it is a {type(data).__name__}",
            expected="a Corpus, or the name of a data set",
            hint="make a corpus of tables with Corpus.from_frames",
        )
    corpus, name = (None, data) if isinstance(data, str) else (data, data.name)
    chosen: dict[str, Any] = {"model": model, "data": name}
    if corpus is not None:
        chosen |= {"data": "_memory", "data.name": name, "data.digest": corpus_digest(corpus)}
        if corpus.cold is not None and "callbacks" not in given:
            chosen |= COLD
    words = [f"{setting}={_typed(value)}" for setting, value in {**chosen, **given}.items()]
    if run_dir is None:
        time = f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
        run_dir = Path("outputs", file_name(model), file_name(name), time)
    folder = expand(run_dir).absolute()
    with _apart_from_hydra(), at_hand(corpus):
        config = _composed([*words, f"run_dir={quoted(str(folder))}"])
        # The words of a corpus in memory would not begin the run again.
        result = _run(config, words if corpus is None else None)
        if result["status"] == "interrupted":
            raise KeyboardInterrupt
        return open_run(folder)


def _run(config: DictConfig, words: list[str] | None) -> dict[str, Any]:
    """Run; raise errors of constructors as they are, and not as Hydra wraps them."""
    try:
        return run(config, words)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def _typed(value: Any) -> str:
    """A value as Hydra reads it.

    Raises:
        SettingError: no value of a setting.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        plain = PLAIN.fullmatch(str(value)) and str(value).lower() not in NOT_TEXT
        return str(value) if plain else quoted(str(value))
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_typed(each)}' for key, each in value.items())}}}"
    raise SettingError(
        setting="settings",
        problem=f"a value is a {type(value).__module__}.{type(value).__qualname__}",
        expected="text, numbers, booleans, None, or lists and mappings of these",
    )


def _composed(words: list[str]) -> DictConfig:
    """Compose the configuration of a run.

    Raises:
        SettingError: a setting or a choice does not exist.
    """
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("config", overrides=words, return_hydra_config=True)
    except HydraException as error:
        raise SettingError(explain_error(error, "config")) from None
    check_ablation(config.hydra.runtime.choices, OmegaConf.select(config, f"model.{TARGET}"))
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    OmegaConf.set_struct(config, True)
    return config


@contextmanager
def _apart_from_hydra() -> Iterator[None]:
    """Leave the state of Hydra, in whose application this may be called, as it is."""
    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config
