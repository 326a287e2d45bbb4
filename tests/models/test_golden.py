"""The first losses of every model that is trained, as they were when they were last looked at.

A refactor reproduces them. A change of maths renews them, and its commit says why:
`python tests/models/test_golden.py`.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import pytest
from hydra.utils import get_object, instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf

from mmrec.config.schema import conf_dir
from mmrec.data import PlantedData, planted
from mmrec.training.callbacks import EpochSeed

GOLDEN = Path(__file__).with_name("golden.json")
EPOCHS = 5
WORLD = partial(
    planted,
    users=120,
    items=80,
    interactions_per_user=10,
    widths=12,
    factors=8,
    noise=1.0,
    missing=0.05,
    popularity_skew=1.0,
    preference_strength=0.5,
    drift=0.3,
    categories=6,
    strength=3.0,
)
CONFIGURED = {
    path.stem: OmegaConf.masked_copy(node := OmegaConf.load(path), set(node) - {"defaults"})
    for path in sorted((conf_dir() / "model").glob("[!_]*.yaml"))
}
TRAINED = [
    name for name, config in CONFIGURED.items() if not get_object(config["_target_"]).closed_form
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
    seed_everything(0, verbose=False)
    data = PlantedData(world=WORLD, batch_size=256)
    model = instantiate(CONFIGURED[name], _convert_="all")(data.corpus)
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
        assert found[term] == pytest.approx(values, rel=1e-4, abs=1e-7), term


def test_the_record_holds_no_model_that_is_gone():
    assert json.loads(GOLDEN.read_text()).keys() <= set(TRAINED)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    record = {name: trajectory(name) for name in TRAINED}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
