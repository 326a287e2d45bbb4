"""Watch a run for the search that began it: tell each validation, stop when told to."""

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
    """What a run must know to report, in a form that travels to any process.

    Attributes:
        storage: URL of the study's storage.
        study: name.
        trial: Optuna's id of the trial.
        metric: what to report; None: nothing.
        pruner: `_target_` and settings; None: never stop.
    """

    storage: str
    study: str
    trial: int
    metric: str | None
    pruner: dict[str, Any] | None

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))


class Pruning(Callback):
    """Report each validation to a study, and stop the run when its pruner says so.

    The search looks after the trial's end. A storage that is out of reach costs a report, not the
    run.

    Args:
        watch: as text.

    Attributes:
        pruned: whether the run was stopped.
    """

    def __init__(self, watch: str) -> None:
        self.watch = ReportTarget(**json.loads(watch))
        self.pruned = False
        self._trial: Trial | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and ask; one process does so for all."""
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
            log.warning("epoch %d is not reported to the search: %s", epoch, error)
            return False

    def _open(self) -> Trial:
        pruner = build_pruner(self.watch.pruner)
        storage = open_storage(self.watch.storage)
        study = load_study(study_name=self.watch.study, storage=storage, pruner=pruner)
        return Trial(study, self.watch.trial)
