"""Trackers: loggers that send runs to W&B or MLflow. Local files are complete without them."""

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
# In a run's folder, so that a run that continues there is the same one on the tracker.
ID, MLFLOW_ID = "wandb_run.json", "mlflow_run.json"
SENDING = ("conclude", "finalize", "save", "watch")  # methods, beside those that log
# Of a result, beside metrics and seconds.
KEPT = ("status", "best_epoch", "epochs", "best_value", "peak_rss_mib", "peak_gpu_mib")


def name_for_trackers(tracker: DictConfig, hydra_config: Any, seed: object) -> None:
    """Fill in what only a multirun knows: the group, the type and the name of a run.

    Args:
        tracker: settings of a logger; what is set there stays.
        hydra_config: Hydra's configuration of the job.
        seed: of the run.
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

    `watch`, `log_image` and the other methods of `WandbLogger` work as documented there.

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
        SettingError: the mode is online, and there are no credentials.
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
        """The run on W&B, started at the first use; one that does nothing if it failed or ended."""
        if not self._started:
            self._start({})
        return self._experiment or _DummyExperiment()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Start the run with its settings."""
        self._start(params if isinstance(params, dict) else vars(params))

    def _start(self, config: dict[str, Any]) -> None:
        import wandb

        self._started = True  # also if it fails: a second attempt would fail likewise
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

        Metrics of the test are left out: they belong to the summary.
        """
        epoch = epoch_of(metrics)
        if epoch is not None:
            self.experiment.log({**metrics, "epoch": epoch}, step=epoch)
        elif "epoch" not in metrics:  # from a method such as log_image
            self.experiment.log(dict(metrics), commit=False)

    @rank_zero_only
    def conclude(self, result: Mapping[str, Any]) -> None:
        """Send the best values, figures and the checkpoint, and end the run."""
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
        """End the run, so that the next run of a multirun starts one of its own."""
        run, self._experiment = self._experiment, None
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
            raise SettingError(
                setting="logger",
                value="mlflow",
                problem="it needs a package",
                hint="pip install 'mmrec[mlflow]'",
            ) from None

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


def guard(logger: Logger) -> Logger:
    """Let a failure of a tracker cost a warning instead of the run.

    The methods that send something are wrapped on the object itself, so that a callback still finds
    Lightning's class. After the first failure nothing more is sent.

    Args:
        logger: of Lightning, or a subclass.

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
                    "%s failed (%s) and gets nothing more; the run goes on, its files are complete",
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
    """Tell a tracker that the run has ended.

    Args:
        logger: as returned by `guard`.
        result: the content of `result.json`.
    """
    if isinstance(logger, WandB | MLflow):
        logger.conclude(result)
    if isinstance(logger, WandB):
        with suppress(Exception):
            logger.close(failed=True)  # does nothing, unless `conclude` failed


def _mode(mode: Mode | None, offline_without_login: bool) -> Mode:
    """What is asked for, as far as there are credentials for it."""
    import wandb

    name = mode or os.environ.get("WANDB_MODE") or "online"
    asked = next((known for known in MODES if known == name), None)
    if asked is None:
        raise SettingError(setting="WANDB_MODE", value=name, expected="online, offline or disabled")
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
    raise SettingError(
        setting="logger",
        value="wandb",
        problem="no credentials",
        hint="run `wandb login`, set WANDB_API_KEY, or give logger.wandb.mode=offline (or "
        "logger.wandb.offline_without_login=true)",
    )
