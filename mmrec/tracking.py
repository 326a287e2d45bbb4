"""Trackers: what shows runs elsewhere. Local files are complete without them, and stay so."""

from __future__ import annotations

import json
import logging
import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mmrec.config import ConfigError
from mmrec.paths import replace_file
from mmrec.results import BEST

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]
MODES: tuple[Mode, ...] = get_args(Mode)
FIGURES = ("learning_curve.png", "item_weights.png")
ID = "wandb_run.json"  # in a run's folder, so that a run that continues there is the same one


class WandB(Logger):
    """A run on Weights & Biases: settings as they nest, metrics by epoch, best values as summary.

    Args:
        save_dir: the run's folder.
        project: of the account.
        entity: user or team; None: the account's default, or `WANDB_ENTITY`.
        group: of runs; None: the folder of a multirun, or none.
        job_type: None: `trial`, `ablation` or `train`.
        tags: of the run.
        name: None: model, data and seed.
        mode: `online`, `offline` or `disabled`; None: `WANDB_MODE`, else online.
        offline_without_login: go offline where there are no credentials; else that is an error.
        artifact: upload the best checkpoint.

    Raises:
        ConfigError: the mode is online, and there are no credentials.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "mmrec",
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        name: str | None = None,
        mode: Mode | None = None,
        offline_without_login: bool = False,
        artifact: bool = False,
    ) -> None:
        super().__init__()
        self.folder, self.artifact = Path(save_dir), artifact
        self.mode = _mode(mode, offline_without_login)
        self._identity: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "group": group,
            "job_type": job_type,
            "tags": list(tags) or None,
            "name": name,
        }
        self._run: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return str(self._identity["project"])

    @property
    def version(self) -> str | None:
        """The run's id on the server; None before it begins."""
        return self._run.id if self._run else None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Begin the run, with its settings."""
        import wandb

        config = params if isinstance(params, dict) else vars(params)
        earlier = self._earlier_id()
        self._run = wandb.init(
            **self._identity,
            config=config,
            dir=str(self.folder),
            id=earlier,
            resume="allow" if earlier and self.mode == "online" else None,
            mode=self.mode,
            settings=wandb.Settings(silent=True),
        )
        with replace_file(self.folder / ID) as part:
            part.write_text(json.dumps({"id": self._run.id}))
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add to the row of the metrics' epoch; test values go to the summary alone."""
        epoch = metrics.get("epoch")
        if self._run is None or epoch is None or any(n.startswith("test/") for n in metrics):
            return
        self._run.log(metrics | {"epoch": int(epoch)}, step=int(epoch))

    @rank_zero_only
    def conclude(self, result: Mapping[str, Any]) -> None:
        """Best values, figures and the checkpoint; the run ends."""
        import wandb

        if self._run is None:
            return
        if result["epochs"]:
            shown = {p.stem: wandb.Image(str(p)) for p in self._figures()}
            if shown:
                self._run.log(shown, step=result["epochs"])
        kept = ("status", "best_epoch", "epochs", "best_value", "peak_rss_mib", "peak_gpu_mib")
        seconds = {f"seconds/{name}": value for name, value in result["seconds"].items()}
        self._run.summary.update({**{k: result[k] for k in kept}, **seconds, **result["metrics"]})
        if self.artifact and (self.folder / BEST).is_file():
            artifact = wandb.Artifact(f"{result['model']}-{result['data']}", type="model")
            artifact.add_file(str(self.folder / BEST))
            self._run.log_artifact(artifact, aliases=["best"])
        self.close(failed=result["status"] == "failed")

    @rank_zero_only
    def close(self, *, failed: bool) -> None:
        """End the run; else the next one of a multirun would write into it."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=int(failed))

    def _figures(self) -> list[Path]:
        return [self.folder / name for name in FIGURES if (self.folder / name).is_file()]

    def _earlier_id(self) -> str | None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads((self.folder / ID).read_text())["id"])
        return None


class Guarded(Logger):
    """A tracker whose failure costs a warning, not the run.

    After the first failure nothing more is sent to it.

    Args:
        logger: Lightning's, or ours.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger, self.broken = logger, False

    @property
    def name(self) -> str | None:
        """The tracker's."""
        return type(self.logger).__name__

    @property
    def version(self) -> str | int | None:
        """None: asking could begin a run."""
        return None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Settings."""
        self._try(lambda: self.logger.log_hyperparams(params))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Values."""
        self._try(lambda: self.logger.log_metrics(metrics, step))

    def save(self) -> None:
        """What waits."""
        self._try(self.logger.save)

    def finalize(self, status: str) -> None:
        """A stage has ended."""
        self._try(lambda: self.logger.finalize(status))

    def conclude(self, result: Mapping[str, Any]) -> None:
        """The run has ended."""
        if isinstance(self.logger, WandB):
            tracker = self.logger
            self._try(lambda: tracker.conclude(result))
            with suppress(Exception):
                tracker.close(failed=True)  # does nothing, unless that went wrong

    def _try(self, send: Callable[[], object]) -> None:
        if self.broken:
            return
        try:
            send()
        except Exception as error:
            self.broken = True
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning(
                "%s failed (%s) and gets nothing more; the run goes on, its files are complete",
                self.name,
                reason,
            )


def _mode(mode: Mode | None, offline_without_login: bool) -> Mode:
    """What is asked for, as far as there are credentials for it."""
    import wandb

    name = mode or os.environ.get("WANDB_MODE") or "online"
    asked = next((known for known in MODES if known == name), None)
    if asked is None:
        raise ConfigError(f"WANDB_MODE={name}: expected online, offline or disabled")
    if asked != "online" or wandb.login(prompt=False):
        return asked
    if offline_without_login:
        log.warning("no W&B credentials: offline; `wandb sync` uploads the run later")
        return "offline"
    raise ConfigError(
        "logger=wandb: no credentials; run `wandb login`, set WANDB_API_KEY, or give "
        "logger.wandb.mode=offline (or logger.wandb.offline_without_login=true)"
    )
