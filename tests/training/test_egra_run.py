from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf

from mmrec.commands.explain import explain
from mmrec.config.errors import SettingError
from mmrec.config.schema import conf_dir
from mmrec.training.open_run import open_run
from mmrec.training.results import read_result

USERS, ITEMS = 40, 24
TINY = (
    *("model=egra", "model.dim=8", "model.neighbours=4", "data=folder", "data.name=set"),
    *("data.batch_size=64", "evaluation.cutoffs=[5]", "monitor=val/recall@5"),
    *("trainer=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"),
)


def write_set(root, seed):
    """A data set whose train interactions are always the same; the held-out items follow a seed."""
    rng = np.random.default_rng(0)
    order = rng.random((USERS, ITEMS)).argsort(1)
    train, rest = order[:, :6], order[:, 6:]
    held_out = np.random.default_rng(seed).permuted(rest, axis=1)[:, :2]
    items = np.concatenate([train, held_out], 1)
    (root / "set").mkdir(parents=True)
    pl.DataFrame(
        {
            "userID": np.arange(USERS).repeat(8),
            "itemID": items.flatten(),
            "x_label": np.tile([0] * 6 + [1, 2], USERS),
        }
    ).write_csv(root / "set" / "set.inter", separator="\t")
    for name, width in (("image", 5), ("text", 6)):
        rows = rng.standard_normal((ITEMS, width)).astype(np.float32)
        np.save(root / "set" / f"{name}_feat.npy", rows)


@pytest.fixture(scope="module")
def runs(run_words, tmp_path_factory):
    """Runs on two data sets that differ in held-out interactions alone, and their teachers."""
    found = []
    for seed in (1, 2):
        root = tmp_path_factory.mktemp(f"held_out_{seed}")
        write_set(root, seed)
        folder = root / "runs" / "egra"
        run_words(folder, *TINY, f"data.root={root}")
        found.append(folder)
    return found


def teacher(folder):
    (found,) = folder.parent.glob("upstream/mgcn-*")
    return found


def test_the_teacher_never_sees_held_out_interactions(runs):
    one, two = (open_run(teacher(folder)) for folder in runs)
    assert one.corpus.fingerprint != two.corpus.fingerprint
    assert not torch.equal(one.corpus.test.item, two.corpus.test.item)
    weights, others = (run.model.state_dict() for run in (one, two))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    items, other_items = (open_run(folder).model.teacher_items for folder in runs)
    assert items.shape == (ITEMS, 64)
    assert torch.equal(items, other_items)


def test_the_result_tells_the_teachers_cost(runs):
    record = read_result(runs[0])["upstream"]
    assert (record["folder"], record["model"]) == (str(teacher(runs[0])), "mgcn")
    assert record["seconds"] > 0


def test_the_page_has_degrees_and_weights_by_popularity(runs):
    explain(run=runs[0])
    table = pl.read_csv(runs[0] / "explain" / "tables" / "measures.csv")
    assert table["group"].to_list() == ["head", "mid", "tail"]
    assert {"alignment degree", "alignment weight"} <= {*table.columns}
    items = pl.read_csv(runs[0] / "explain" / "weights.csv")
    assert items["alignment degree"].is_between(0, 1).all()
    assert items["alignment weight"].mean() == pytest.approx(1, abs=0.2)


def test_a_teacher_that_nothing_reads_is_refused_before_it_is_trained(run_words, runs, tmp_path):
    with pytest.raises(SettingError) as error:
        run_words(
            tmp_path / "run", *TINY, f"data.root={runs[0].parents[1]}", "model.item_graph=none"
        )
    assert error.value.setting == "model.item_graph"
    assert not (tmp_path / "upstream").exists()


def test_the_teacher_has_the_settings_of_its_model():
    alone = OmegaConf.load(conf_dir() / "model" / "mgcn.yaml")
    assert OmegaConf.load(conf_dir() / "upstream" / "mgcn.yaml").model == {
        key: value for key, value in alone.items() if key != "defaults"
    }
