"""The contest of models of sequences: who is in it, and what its page says of ablations."""

from types import SimpleNamespace

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from experiments.cammsr import ablations
from experiments.cammsr.__main__ import CONTEST
from experiments.contest import SEQUENTIAL, models
from mmrec.config.schema import conf_dir


def run(value, validation=0.0, ablation=None):
    metrics = {"test/ndcg@5": value, "test/ndcg@10": 2 * value, "val/ndcg@10": validation}
    result = {"git_commit": "c", "seed": 0, "data_card": {}}
    return SimpleNamespace(metrics=metrics, ablation=ablation, result=result)


def test_models_of_sequences_are_those_that_read_histories():
    read = [
        name
        for name in models()
        if get_object(OmegaConf.load(conf_dir() / f"model/{name}.yaml")["_target_"]).needs_history
    ]
    assert list(SEQUENTIAL) == read


def test_rows_compare_with_the_whole_model_and_validation_orders_them():
    runs = {None: run(0.04, 0.5), "no_swap": run(0.03, 0.7), "mask": run(0.05, 0.6)}
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in ablations.rows(runs)]
    assert [(name, difference) for name, _, _, difference, _ in cells] == [
        ("no_swap", "-25.0%"),
        ("mask", "+25.0%"),
        ("**none**", "+0.0%"),
    ]
    assert cells[0][1:3] == ["0.7000", "0.0300"]


@pytest.mark.parametrize("shares", [[], ["05", "30"]])
def test_wrong_categories_are_drawn_where_they_were_run(shares, tmp_path):
    runs = {None: run(0.04), "no_guidance": run(0.02)}
    runs |= {f"noisy_labels_{share}": run(0.03) for share in shares}
    assert ablations.draw_wrong_categories(runs, tmp_path / "a.png") is bool(shares)
    assert (tmp_path / "a.png").exists() is bool(shares)


def test_a_page_without_ablations_has_no_section(tmp_path):
    assert ablations.section(CONTEST, "scientific", tmp_path) == []
