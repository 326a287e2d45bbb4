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

from lightning.pytorch.loggers import Logger, MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from mmrec.config import ConfigError
from mmrec.paths import replace_file
from mmrec.results import BEST, epoch_of, first_line

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]
MODES: tuple[Mode, ...] = get_args(Mode)
MLFLOW_STORE = "sqlite:///mlflow.db"
MLFLOW_STATUS = {"failed": "FAILED", "interrupted": "KILLED", "pruned": "KILLED"}
FIGURES = ("learning_curve.png", "item_weights.png")
# In a run's folder, so that a run that continues there is the same one on the tracker.
ID, MLFLOW_ID = "wandb_run.json", "mlflow_run.json"
# Of a result, beside metrics and seconds.
KEPT = ("status", "best_epoch", "epochs", "best_value", "peak_rss_mib", "peak_gpu_mib")


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
        earlier = _earlier_id(self.folder / ID)
        self._run = wandb.init(
            **self._identity,
            config=config,
            dir=str(self.folder),
            id=earlier,
            resume="allow" if earlier and self.mode == "online" else None,
            mode=self.mode,
            settings=wandb.Settings(silent=True),
        )
        _keep_id(self.folder / ID, self._run.id)
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add to the row of the metrics' epoch; test values go to the summary alone."""
        epoch = epoch_of(metrics)
        if self._run is not None and epoch is not None:
            self._run.log(metrics | {"epoch": epoch}, step=epoch)

    @rank_zero_only
    def conclude(self, result: Mapping[str, Any]) -> None:
        """Best values, figures and the checkpoint; the run ends."""
        import wandb

        if self._run is None:
            return
        if result["epochs"]:
            shown = {p.stem: wandb.Image(str(p)) for p in _figures(self.folder)}
            if shown:
                self._run.log(shown, step=result["epochs"])
        self._run.summary.update(_summary(result))
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
            if self.mode == "offline":
                log.info("W&B, offline: wandb sync %s", Path(run.dir).parent)


class MLflow(MLFlowLogger):
    """A run on MLflow: settings as parameters, metrics by epoch, best values under `summary/`.

    MLflow allows no `@` in a name: `val/recall@20` is `val/recall_at_20` there.

    Args:
        save_dir: the run's folder.
        project: MLflow's experiment.
        group: of runs, a tag; None: the folder of a multirun, or none.
        job_type: a tag; None: `trial`, `ablation` or `train`.
        tags: of the run; names without values.
        name: None: model, data and seed.
        tracking_uri: None: `MLFLOW_TRACKING_URI`, else `mlflow.db` where the command is given.
        artifact: upload the best checkpoint.

    Raises:
        ConfigError: mlflow is not installed.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "mmrec",
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        name: str | None = None,
        tracking_uri: str | None = None,
        artifact: bool = False,
    ) -> None:
        self.folder, self.artifact = Path(save_dir), artifact
        given = {"group": group, "job_type": job_type, **dict.fromkeys(tags, "")}
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of tables that it makes
        try:
            super().__init__(
                experiment_name=project,
                run_name=name,
                tracking_uri=tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or MLFLOW_STORE,
                tags={key: value for key, value in given.items() if value is not None},
                run_id=_earlier_id(self.folder / MLFLOW_ID),
            )
        except ModuleNotFoundError:
            raise ConfigError("logger=mlflow needs pip install 'mmrec[mlflow]'") from None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Begin the run, with its settings; those of one that continues stay as they were."""
        continues = self._run_id is not None
        _keep_id(self.folder / MLFLOW_ID, str(self.run_id))
        if not continues:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values at the metrics' epoch; test values go to the summary alone."""
        epoch = epoch_of(metrics)
        if epoch is not None:
            super().log_metrics(_without_at(metrics), epoch)

    @rank_zero_only
    def conclude(self, result: Mapping[str, Any]) -> None:
        """Best values, figures and the checkpoint; the run ends."""
        values = _summary(result)
        numbers = {f"summary/{k}": v for k, v in values.items() if isinstance(v, int | float)}
        super().log_metrics(_without_at(numbers))
        client, run = self.experiment, self.run_id
        client.set_tag(run, "status", values["status"])
        for path in _figures(self.folder):
            client.log_artifact(run, str(path))
        if self.artifact and (self.folder / BEST).is_file():
            client.log_artifact(run, str(self.folder / BEST), BEST.parent.name)
        client.set_terminated(run, MLFLOW_STATUS.get(values["status"], "FINISHED"))


def _without_at(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name.replace("@", "_at_"): value for name, value in metrics.items()}


def _summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be known of a run that has ended, by name."""
    seconds = {f"seconds/{name}": value for name, value in result["seconds"].items()}
    return {**{name: result[name] for name in KEPT}, **seconds, **result["metrics"]}


def _figures(folder: Path) -> list[Path]:
    return [folder / name for name in FIGURES if (folder / name).is_file()]


def _earlier_id(path: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text())["id"])
    return None


def _keep_id(path: Path, name: str) -> None:
    with replace_file(path) as part:
        part.write_text(json.dumps({"id": name}))


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
        tracker = self.logger
        if isinstance(tracker, WandB | MLflow):
            self._try(lambda: tracker.conclude(result))
        if isinstance(tracker, WandB):
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
    if asked != "online":
        return asked
    try:
        known = wandb.login(prompt=False)
    except Exception as error:  # it asks the server
        log.warning("W&B: %s; offline, `wandb sync` uploads the run later", first_line(error))
        return "offline"
    if known:
        return asked
    if offline_without_login:
        log.warning("no W&B credentials: offline; `wandb sync` uploads the run later")
        return "offline"
    raise ConfigError(
        "logger=wandb: no credentials; run `wandb login`, set WANDB_API_KEY, or give "
        "logger.wandb.mode=offline (or logger.wandb.offline_without_login=true)"
    )
