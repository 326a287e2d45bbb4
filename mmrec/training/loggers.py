"""Experiment trackers: loggers for W&B and MLflow. Local files are complete without them."""

from __future__ import annotations

import json
import logging
import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, Literal, get_args

from hydra.types import RunMode
from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from mmrec.config.errors import SettingError
from mmrec.config.paths import replace_file
from mmrec.config.text import first_line
from mmrec.training.results import BEST, epoch_of

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]
MODES: tuple[Mode, ...] = get_args(Mode)
MLFLOW_STORE = "sqlite:///mlflow.db"
MLFLOW_STATUS = {"failed": "FAILED", "interrupted": "KILLED", "pruned": "KILLED"}
FIGURES = ("learning_curve.png", "item_weights.png")
# Stored in the run folder, so that a resumed run continues the same run of the tracker.
ID, MLFLOW_ID = "wandb_run.json", "mlflow_run.json"
SENDING = ("conclude", "finalize", "save", "watch")  # methods that send data, besides log_*
# Entries of a result that are sent, besides metrics and seconds.
KEPT = ("status", "best_epoch", "epochs", "best_value", "peak_rss_mib", "peak_gpu_mib")


def name_for_trackers(tracker: DictConfig, hydra_config: Any, seed: object) -> None:
    """Set the group, the job type and the name of a run, unless they are set already.

    Args:
        tracker: settings of a logger, which are modified.
        hydra_config: Hydra's configuration of the job.
        seed: seed of the run.
    """
    choices, many = hydra_config.runtime.choices, hydra_config.mode is RunMode.MULTIRUN
    ablation, trial = choices.get("ablation"), hydra_config.sweeper.get("trial")
    given = {
        "group": Path(hydra_config.sweep.dir).name if many else None,
        "job_type": "trial" if trial else "ablation" if ablation else "train",
        "name": "-".join([choices.model, choices.data, *filter(None, [ablation]), f"seed{seed}"]),
    }
    for key, value in given.items():
        if tracker.get(key) is None:
            tracker[key] = value


class WandB(WandbLogger):
    """Lightning's `WandbLogger` with nested settings, metrics by epoch, and the result as summary.

    `watch`, `log_image` and other methods of `WandbLogger` work as documented by Lightning.

    Args:
        save_dir: folder of the run.
        project: project of the account.
        entity: user or team; None uses `WANDB_ENTITY`, or else the default of the account.
        group: group of runs; None uses the folder of a multirun, or no group.
        job_type: type of the run; None uses `trial`, `ablation` or `train`.
        tags: tags of the run.
        name: name of the run; None uses model, data and seed.
        mode: `online`, `offline` or `disabled`; None uses `WANDB_MODE`, or else `online`.
        offline_without_login: use `offline` if there are no credentials, instead of an error.
        artifact: upload the best checkpoint.

    Raises:
        SettingError: the mode is `online`, but there are no credentials.
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
        super().__init__(save_dir=save_dir, mode=self.mode, **self._identity)
        self._started = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started at first use; a dummy if it failed or has ended."""
        if not self._started:
            self._start({})
        return self._experiment or _DummyExperiment()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Start the run with its settings."""
        self._start(params if isinstance(params, dict) else vars(params))

    def _start(self, config: dict[str, Any]) -> None:
        import wandb

        self._started = True  # even if it fails, because a second attempt would fail as well
        earlier = _earlier_id(self.folder / ID)
        run = wandb.init(
            **self._identity,
            config=config,
            dir=str(self.folder),
            id=earlier,
            resume="allow" if earlier and self.mode == "online" else None,
            mode=self.mode,
            settings=wandb.Settings(silent=True),
        )
        self._experiment = run
        _keep_id(self.folder / ID, run.id)
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add metrics to the row of their epoch, or media to the current row.

        Test metrics are not added; they are part of the summary.
        """
        epoch = epoch_of(metrics)
        if epoch is not None:
            self.experiment.log({**metrics, "epoch": epoch}, step=epoch)
        elif "epoch" not in metrics:  # from a method such as log_image
            self.experiment.log(dict(metrics), commit=False)

    @rank_zero_only
    def conclude(self, result: Mapping[str, Any]) -> None:
        """Send the best values, figures and the best checkpoint, and end the run."""
        import wandb

        run = self._experiment
        if run is None:
            return
        if result["epochs"]:
            shown = {p.stem: wandb.Image(str(p)) for p in _figures(self.folder)}
            if shown:
                run.log(shown, step=result["epochs"])
        run.summary.update(_summary(result))
        if self.artifact and (self.folder / BEST).is_file():
            artifact = wandb.Artifact(f"{result['model']}-{result['data']}", type="model")
            artifact.add_file(str(self.folder / BEST))
            run.log_artifact(artifact, aliases=["best"])
        self.close(failed=result["status"] == "failed")

    @rank_zero_only
    def close(self, *, failed: bool) -> None:
        """End the run, so that the next run of a multirun starts a new one."""
        run, self._experiment = self._experiment, None
        if run is not None:
            run.finish(exit_code=int(failed))
            if self.mode == "offline":
                log.info("W&B is offline; upload the run with: wandb sync %s", Path(run.dir).parent)


class MLflow(MLFlowLogger):
    """MLflow logger: settings as parameters, metrics by epoch, best values under `summary/`.

    MLflow does not allow `@` in names, so `val/recall@20` becomes `val/recall_at_20`.

    Args:
        save_dir: folder of the run.
        project: MLflow experiment.
        group: group of runs, stored as a tag; None uses the folder of a multirun, or no group.
        job_type: type of the run, stored as a tag; None uses `trial`, `ablation` or `train`.
        tags: tags of the run, without values.
        name: name of the run; None uses model, data and seed.
        tracking_uri: tracking server; None uses `MLFLOW_TRACKING_URI`, or else `mlflow.db` in the
            working directory.
        artifact: upload the best checkpoint.

    Raises:
        SettingError: mlflow is not installed.
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
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # hides messages about its tables
        try:
            super().__init__(
                experiment_name=project,
                run_name=name,
                tracking_uri=tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or MLFLOW_STORE,
                tags={key: value for key, value in given.items() if value is not None},
                run_id=_earlier_id(self.folder / MLFLOW_ID),
            )
        except ModuleNotFoundError:
            raise SettingError(
                setting="logger",
                value="mlflow",
                problem="the package mlflow is not installed",
                hint="pip install 'mmrec[mlflow]'",
            ) from None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Start the run with its settings; a resumed run keeps its original settings."""
        continues = self._run_id is not None
        _keep_id(self.folder / MLFLOW_ID, str(self.run_id))
        if not continues:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at their epoch, except test metrics, which are part of the summary."""
        epoch = epoch_of(metrics)
        if epoch is not None:
            super().log_metrics(_without_at(metrics), epoch)

    @rank_zero_only
    def conclude(self, result: Mapping[str, Any]) -> None:
        """Send the best values, figures and the best checkpoint, and end the run."""
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
    """Return the summary of a finished run by name."""
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


def guard(logger: Logger) -> Logger:
    """Turn failures of a tracker into a warning.

    Methods that send data are wrapped on the object itself, so that callbacks still find the
    class of Lightning. After the first failure, nothing is sent.

    Args:
        logger: logger of Lightning, or a subclass.

    Returns:
        The same logger.
    """
    name, broken = type(logger).__name__, False

    def guarded(send: Callable[..., object]) -> Callable[..., None]:
        @wraps(send)
        def call(*args: Any, **kwargs: Any) -> None:
            nonlocal broken
            if broken:
                return
            try:
                send(*args, **kwargs)
            except Exception as error:
                broken = True
                reason = " ".join(str(error).split()) or type(error).__name__
                log.warning(
                    "%s failed (%s) and is disabled; the run continues, and its files are complete",
                    name,
                    reason,
                )

        return call

    for method in dir(type(logger)):
        sends = method.startswith("log_") or method in SENDING
        if sends and callable(getattr(type(logger), method)):  # `log_dir` is a property
            setattr(logger, method, guarded(getattr(logger, method)))
    return logger


def conclude(logger: Logger, result: Mapping[str, Any]) -> None:
    """Send the result of a run to a tracker, and end its run there.

    Args:
        logger: result of `guard`.
        result: content of `result.json`.
    """
    if isinstance(logger, WandB | MLflow):
        logger.conclude(result)
    if isinstance(logger, WandB):
        with suppress(Exception):
            logger.close(failed=True)  # has no effect unless `conclude` failed


def _mode(mode: Mode | None, offline_without_login: bool) -> Mode:
    """Return the requested mode, or `offline` without credentials or connection."""
    import wandb

    name = mode or os.environ.get("WANDB_MODE") or "online"
    asked = next((known for known in MODES if known == name), None)
    if asked is None:
        raise SettingError(setting="WANDB_MODE", value=name, expected="online, offline or disabled")
    if asked != "online":
        return asked
    try:
        known = wandb.login(prompt=False)
    except Exception as error:  # login contacts the server
        log.warning("W&B is offline (%s); upload the run later: wandb sync", first_line(error))
        return "offline"
    if known:
        return asked
    if offline_without_login:
        log.warning("W&B is offline (no credentials); upload the run later: wandb sync")
        return "offline"
    raise SettingError(
        setting="logger",
        value="wandb",
        problem="no credentials were found",
        hint="run `wandb login`, set WANDB_API_KEY, or set logger.wandb.mode=offline (or "
        "logger.wandb.offline_without_login=true)",
    )
