"""The first losses of every model that is trained, as they were when they were last looked at.

A refactor reproduces them. A change of maths renews them, and its commit says why:
`python tests/models/test_golden.py`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from lightning import Trainer
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf

from mmrec.callbacks import EpochSeed
from mmrec.config import conf_dir
from mmrec.run import build

GOLDEN = Path(__file__).with_name("golden.json")
EPOCHS = 5
WORLD = ("users=120", "items=80", "interactions_per_user=10", "widths=12", "categories=6")
TRAINED = [
    path.stem
    for path in sorted((conf_dir() / "model").glob("[!_]*.yaml"))
    if not get_object(OmegaConf.load(path)["_target_"]).closed_form
]


class Trajectory(Checkpoint):
    """Each loss term's mean over each epoch; of all callbacks, only checkpoints see it logged."""

    def __init__(self):
        self.terms = {}

    def on_train_epoch_end(self, trainer, pl_module):
        for name, value in trainer.callback_metrics.items():
            if name.startswith("train/"):
                self.terms.setdefault(name.removeprefix("train/"), []).append(float(value))


def trajectory(name):
    words = [f"model={name}", "data=planted", "data.batch_size=256", "run_dir=unused", "seed=0"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=[*words, *(f"data.world.{word}" for word in WORLD)])
    data, model = build(OmegaConf.to_container(config, resolve=True))
    seen = Trajectory()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        limit_val_batches=0,
        callbacks=[EpochSeed(0), seen],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, datamodule=data)
    return seen.terms


@pytest.mark.parametrize("name", TRAINED)
def test_the_first_losses_are_those_on_record(name):
    golden = json.loads(GOLDEN.read_text())
    assert name in golden, "record it: python tests/models/test_golden.py"
    found = trajectory(name)
    assert found.keys() == golden[name].keys()
    for term, values in golden[name].items():
        assert len(values) == EPOCHS
        assert found[term] == pytest.approx(values, rel=1e-4), term


def test_the_record_holds_no_model_that_is_gone():
    assert json.loads(GOLDEN.read_text()).keys() <= set(TRAINED)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    record = {name: trajectory(name) for name in TRAINED}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
