"""Any value in the place of any setting trains, or ends with a line that names the setting."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from functools import partial
from itertools import count

import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from mmrec.commands.run import run
from mmrec.config.schema import conf_dir
from mmrec.evaluation.recovery import role_recovery
from mmrec.models.base import NonFiniteLoss
from mmrec.training.provenance import flat

SMALL = (
    "data.world.users=40",
    "data.world.items=40",
    "data.world.factors=4",
    "data.world.interactions_per_user=6",
    "data.batch_size=128",
    "evaluation.cutoffs=[5]",
    "monitor=val/recall@5",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
)
MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("[!_]*.yaml"))
SHARED = "bpr"  # the model that the settings of the other groups are walked with
OF_A_MODEL = ("model", "router_schedule")
TEACHER_OF = "dropoutnet"  # the model that the settings of `upstream` are walked with
LR_SCHEDULES = sorted(path.stem for path in (conf_dir() / "lr_schedule").glob("[!_n]*.yaml"))
GONE = object()
VALUES = (0, -1, float("nan"), 1e30, "text", None, [], {}, GONE)
SECONDS = 20  # for one run, which takes a fraction of one
# One leaf of each kind, for every time that the tests run.
REPRESENTATIVE = (
    *("ckpt", "evaluation", "evaluation.cutoffs", "seed", "monitor", "logger.csv.path"),
    *("callbacks.early_stopping.patience", "data._target_", "data.seed", "data.world.users"),
    *("data.world.roles.dominant", "lr_schedule", "model.dim", "optimizer.lr"),
    "trainer.devices",
    *("trainer.gradient_clip_val", "trainer.max_epochs"),
)
FINDS_IN_TRAINING = (NonFiniteLoss,)  # that a number is too large, as a run must


def leaves(config):
    """Dotted names of all settings, and of the groups that hold them."""
    names = [name for name in flat(OmegaConf.to_container(config)) if name != "run_dir"]
    groups = {
        ".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, 9)
    }
    return sorted({*names, *groups})


def mutated(config, name, value):
    """A copy of a configuration with another value of a setting, or without it."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    if value is GONE:
        parent, _, key = name.rpartition(".")
        del (OmegaConf.select(config, parent) if parent else config)[key]
    else:
        OmegaConf.update(config, name, value, merge=False)
    return config


@contextmanager
def limited(seconds):
    """Raise TimeoutError if a block takes longer."""

    def late(*_):
        raise TimeoutError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def complaint(error, name, value):
    """What is wrong with how a run ended; None: it says what a user can mend."""
    reason = error
    while isinstance(reason, InstantiationException) and reason.__cause__:
        reason = reason.__cause__
    if isinstance(reason, TimeoutError) or not isinstance(
        reason, ValueError | ArithmeticError | OSError
    ):
        return f"{type(reason).__name__}: {reason}"
    text, (parent, _, key) = str(reason), name.rpartition(".")
    below = bool(parent) and parent in text and (key in text or value is GONE)
    return None if name in text or below or isinstance(reason, FINDS_IN_TRAINING) else text


@pytest.fixture
def walk(tmp_path, monkeypatch):
    """`walk(config, names)`: what is wrong, by setting and value."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmrec.commands.run.draw_learning_curve", lambda *_: None)
    monkeypatch.setattr("mmrec.report.figures.write_item_weights", lambda *_, **__: None)
    once = partial(role_recovery, deals=1)  # chance in the mean of a hundred takes longer to find
    monkeypatch.setattr("mmrec.evaluation.recovery.role_recovery", once)

    folders = (str(tmp_path / str(number)) for number in count())

    def call(config, names, values=VALUES):
        assert names
        assert values
        wrong = {}
        for name in names:
            for value in values:
                changed = mutated(config, name, value)
                changed.run_dir = next(folders)
                try:
                    with limited(SECONDS):
                        run(changed, [])
                except Exception as error:
                    if said := complaint(error, name, value):
                        wrong[name, "~" if value is GONE else str(value)] = said
        return wrong

    return call


def test_a_value_of_a_setting_trains_or_names_the_setting(composed, walk):
    assert walk(composed(f"model={SHARED}", *SMALL), REPRESENTATIVE) == {}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("model", MODELS)
def test_every_value_of_every_setting_trains_or_names_the_setting(model, composed, walk):
    config = composed(f"model={model}", *SMALL)
    groups = {*OF_A_MODEL, *(["upstream"] if model == TEACHER_OF else [])}
    names = [n for n in leaves(config) if model == SHARED or n.split(".")[0] in groups]
    assert len(names) > 1
    if model == SHARED:
        assert walk(config, names) == {}
        return
    assert walk(config, names, [value for value in VALUES if value is not GONE]) == {}
    for group in filter(config.get, OF_A_MODEL):  # all are missing at once: each takes a training
        bare = {key: value for key, value in config[group].items() if key.startswith("_")}
        assert walk(config, [group], [bare]) == {}


@pytest.mark.parametrize("name", LR_SCHEDULES)
@pytest.mark.filterwarnings("default")
def test_every_value_of_a_learning_rate_schedule_trains_or_names_the_setting(name, composed, walk):
    config = composed(f"model={SHARED}", f"lr_schedule={name}", *SMALL)
    names = [leaf for leaf in leaves(config) if leaf.startswith("lr_schedule")]
    assert len(names) > 3
    assert walk(config, names) == {}
