"""Settings of `upstream`: a teacher model that is trained before the model.

The teacher uses the data, evaluation and trainer of the student run, so that it is trained on the
same interactions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object

from mmrec.config.errors import SettingError
from mmrec.config.schema import TARGET, check_value, nearest
from mmrec.training.provenance import config_hash, flat, is_free
from mmrec.training.results import EPOCHS

if TYPE_CHECKING:
    from mmrec.models import Embeddings

GROUP, TEACHER = "upstream", "teacher"
OWN = ("model", "optimizer", "lr_schedule", "router_schedule", "seed")  # settings of the teacher
KEYS = (*OWN, "root", "run")
SHARED = ("evaluation", "monitor", "optimizer", "seed")
PROCESSES = ("num_nodes", "strategy")  # settings of several processes; a teacher uses one
# Settings that do not affect closed-form models.
OF_TRAINING = (
    *("callbacks", "evaluation", "lr_schedule", "monitor", "optimizer", "trainer"),
    *("data.batch_size", "data.eval_batch_size", "data.negatives"),
)


def takes_teacher(kind: type) -> bool:
    """Return whether the constructor of a model has the argument `teacher`."""
    return TEACHER in inspect.signature(kind).parameters


def teacher_config(plain: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the resolved configuration of the teacher's run.

    Args:
        plain: resolved configuration of the student run.
        folder: folder of the teacher's run.
    """
    trainer = {key: value for key, value in plain["trainer"].items() if key not in PROCESSES}
    devices, trial = trainer.get("devices"), trainer.get("fast_dev_run")
    trainer["devices"] = devices[:1] if isinstance(devices, list) else 1
    if trial:  # fast_dev_run keeps no checkpoint
        trainer |= {"fast_dev_run": False, "max_epochs": 1, "limit_train_batches": int(trial)}
    stopping = plain["callbacks"].get("early_stopping")
    node, data = plain[GROUP], dict(plain["data"])
    if data.get("seed") == plain["seed"]:  # seed of batches and negatives
        data["seed"] = node.get("seed", plain["seed"])
    return {
        **{name: plain[name] for name in SHARED},
        "data": data,
        "router_schedule": {},
        **{name: node[name] for name in OWN if name in node},
        "trainer": trainer,
        "callbacks": {"early_stopping": stopping} if stopping else {},
        "logger": {
            "csv": {TARGET: "mmrec.training.callbacks.EpochTable", "path": str(folder / EPOCHS)}
        },
        "run_dir": str(folder),
        "ckpt": None,
    }


def teacher_hash(config: Mapping[str, Any]) -> str:
    """Hash the settings of a teacher's run that affect its embeddings.

    Args:
        config: result of `teacher_config`.
    """
    closed_form = get_object(config["model"][TARGET]).closed_form
    unused = OF_TRAINING if closed_form else ()
    settings = flat(config).items()
    kept = {k: v for k, v in settings if not (is_free(k, ("data.root", *unused)) or is_free(k))}
    return config_hash(kept)


def targets(plain: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the dotted names of a run's model and of its teacher."""
    node = plain.get(GROUP) or {}
    return tuple(each[TARGET] for each in (plain["model"], node.get("model")) if each)


def check_upstream(plain: Mapping[str, Any]) -> None:
    """Check the settings of `upstream`.

    Args:
        plain: resolved configuration with `upstream`.

    Raises:
        SettingError: a setting is invalid, or the model does not use a teacher.
    """
    from mmrec.models import Recommender

    node, kind = plain[GROUP], get_object(plain["model"][TARGET])
    if not isinstance(node, Mapping):
        raise SettingError(
            setting=GROUP, value=node, expected="an option of the group, or a mapping"
        )
    if not takes_teacher(kind):
        raise SettingError(
            setting=GROUP,
            problem=f"{kind.__name__} does not use a teacher",
            hint=f"remove the setting, or set {GROUP}=none",
        )
    if node and (idle := kind.without_teacher(plain["model"])):
        raise SettingError(
            setting=f"model.{idle}",
            value=plain["model"][idle],
            problem="with this value, the teacher is not used",
            hint=f"add {GROUP}=none",
        )
    if unknown := next((key for key in node if key not in KEYS), None):
        raise SettingError(
            setting=f"{GROUP}.{unknown}",
            problem=f"no such setting{nearest(str(unknown), KEYS)}",
            hint="a teacher uses the data and the trainer of the run",
        )
    if "run" in node:
        if other := next((key for key in KEYS[:-1] if key in node), None):
            raise SettingError(
                setting=f"{GROUP}.{other}",
                problem=f"it has no effect with {GROUP}.run, a finished run",
                hint="remove one of the two settings",
            )
        check_value(str, node["run"], f"{GROUP}.run")
        return
    check_value(str | None, node.get("root"), f"{GROUP}.root")
    model = node.get("model")
    if not isinstance(model, Mapping) or TARGET not in model:
        raise SettingError(
            setting=f"{GROUP}.model", problem=f"it has no {TARGET}, the class of the teacher"
        )
    with below_upstream():
        check_value(str, model[TARGET], f"model.{TARGET}")
        try:
            teacher = get_object(model[TARGET])
        except (AttributeError, ImportError, ValueError):
            return  # reported by the check of the teacher's configuration
    if not (isinstance(teacher, type) and issubclass(teacher, Recommender)):
        raise SettingError(
            setting=f"{GROUP}.model.{TARGET}", value=model[TARGET], expected="a Recommender class"
        )


@contextmanager
def below_upstream() -> Iterator[None]:
    """Prefix the settings of a teacher in errors, for example `upstream.model.dim`.

    Raises:
        SettingError: replaces any ValueError.
    """
    try:
        yield
    except ValueError as error:
        name = (error.setting or "") if isinstance(error, SettingError) else ""
        if isinstance(error, SettingError) and name.partition(".")[0] in OWN:
            raise error.below(GROUP) from error
        raise SettingError(setting=GROUP, problem=str(error)) from error


def saved_teacher(kind: Any, checkpoint: Path) -> Embeddings | None:
    """Return the teacher's embeddings stored in a checkpoint.

    Args:
        kind: class of the model.
        checkpoint: checkpoint of this model.

    Returns:
        Embeddings; None if the model does not use a teacher, or if the checkpoint is invalid, which
        is reported when it is loaded.
    """
    import torch

    if not takes_teacher(kind):
        return None
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        found: Embeddings | None = kind.teacher_in(content["state_dict"])
    except Exception:  # invalid files raise many types of errors
        return None
    return found
