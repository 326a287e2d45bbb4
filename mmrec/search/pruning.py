"""Report the validation metric of a run to its search, and stop the run if it is pruned."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from lightning import Callback, LightningModule, Trainer
from optuna import load_study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial

from mmrec.config.errors import SettingError
from mmrec.search.samplers import build_pruner
from mmrec.search.storage import TROUBLE, open_storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportTarget:
    """Where and what a run reports; serializable, so that it can be passed to other processes.

    Attributes:
        storage: URL of the storage of the study.
        study: name of the study.
        trial: Optuna's id of the trial.
        metric: metric to report; None: nothing is reported.
        pruner: `_target_` and settings of the pruner; None: no pruning.
    """

    storage: str
    study: str
    trial: int
    metric: str | None
    pruner: dict[str, Any] | None

    def to_json(self) -> str:
        """Return the target as JSON."""
        return json.dumps(asdict(self))


class Pruning(Callback):
    """Report each validation to a study, and stop the run if the pruner decides so.

    The search itself finishes the trial. If the storage is unreachable, the report is skipped and
    the run continues.

    Args:
        watch: a `ReportTarget` as JSON.

    Attributes:
        pruned: whether the run was stopped.
    """

    def __init__(self, watch: str) -> None:
        self.watch = ReportTarget(**json.loads(watch))
        self.pruned = False
        self._trial: Trial | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the metric and ask the pruner, in the process of rank 0."""
        if self.watch.metric is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.watch.metric])
        stop = trainer.is_global_zero and self._report(value, trainer.current_epoch)
        if trainer.strategy.broadcast(stop):
            self.pruned = trainer.should_stop = True

    def _report(self, value: float, epoch: int) -> bool:
        try:
            if self._trial is None:
                self._trial = self._open()
            self._trial.report(value, epoch)
            return self._trial.should_prune()
        except (*TROUBLE, UpdateFinishedTrialError, SettingError) as error:
            log.warning("epoch %d was not reported to the search: %s", epoch, error)
            return False

    def _open(self) -> Trial:
        pruner = build_pruner(self.watch.pruner)
        storage = open_storage(self.watch.storage)
        study = load_study(study_name=self.watch.study, storage=storage, pruner=pruner)
        return Trial(study, self.watch.trial)
