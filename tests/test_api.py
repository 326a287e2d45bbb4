"""From Python: train on tables or a data set, without Hydra, and ask the run."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import mmrec
from mmrec import Corpus, fit, open_run
from mmrec.commands.recommend import recommend
from mmrec.config.errors import DataError, SettingError
from mmrec.data import PlantedData
from mmrec.models import DropoutNet, LightGCN
from mmrec.training.results import read_config

QUICK = {"trainer.max_epochs": 2, "trainer.enable_progress_bar": False, "model.dim": 8}
WORLD = {"data.world.users": 60, "data.world.items": 60, "data.world.widths": 4}
RNG = np.random.default_rng(0)
TABLE = pl.DataFrame(
    {
        "userID": [f"u{n}" for n in RNG.integers(0, 30, 500)],
        "itemID": [f"i{n}" for n in RNG.integers(0, 60, 500)],
        "timestamp": RNG.integers(0, 9999, 500),
    }
)
ITEMS = pl.DataFrame(
    {"itemID": [f"i{n}" for n in range(60)], "title": [f"T{n}" for n in range(60)]}
)
IMAGE = RNG.normal(size=(60, 4))


def corpus(**settings) -> Corpus:
    return Corpus.from_frames(TABLE, ITEMS, {"image": IMAGE}, name="toys", **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vbpr"
    return fit("vbpr", corpus(), run_dir=folder, seed=3, settings=QUICK)


def test_a_corpus_is_trained_on_and_the_run_opened(run):
    assert run.result["status"] == "completed"
    assert run.result["data_card"]["fingerprint"] == corpus().fingerprint
    assert run.config["seed"] == 3
    assert run.corpus.user_ids.to_list() == sorted(set(TABLE["userID"]))


def test_the_folder_opens_again_with_the_same_corpus_only(run):
    again = open_run(run.folder, data=corpus())
    assert again.recommend(k=3).equals(run.recommend(k=3))
    with pytest.raises(DataError, match=r"in memory.*open_run\(folder, data=corpus\)"):
        open_run(run.folder)
    with pytest.raises(DataError, match="digest"):
        open_run(run.folder, data=corpus(split="leave_one_out"))
    with pytest.raises(DataError, match=r"in memory"):
        recommend(run=run.folder)


def test_a_model_with_a_teacher_trains_on_a_corpus(tmp_path):
    settings = {"trainer.max_epochs": 1, "trainer.enable_progress_bar": False}
    run = fit("dropoutnet", corpus(), run_dir=tmp_path / "run", settings=settings)
    assert isinstance(run.model, DropoutNet)
    assert run.result["upstream"]["model"] == "wmf"


def test_cold_items_are_waited_for_as_in_the_data_sets_with_them(tmp_path):
    cold = corpus(split="item_cold")
    settings = {"evaluation.cutoffs": [2], "monitor": "val/recall@2"}
    run = fit("item_knn", cold, run_dir=tmp_path / "run", settings=settings)
    assert run.config["trainer"]["check_val_every_n_epoch"] == 10
    assert run.config["callbacks"]["early_stopping"]["patience"] == 20
    assert "test_cold/recall@2" in run.result["metrics"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run on a data set by name, in a working directory of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("working"))
        patch.setattr(HydraConfig.instance(), "cfg", before := object())
        settings = {**QUICK, **WORLD, "evaluation.cutoffs": [5, 10], "model.layers": np.int64(1)}
        run = fit("lightgcn", "planted", monitor="val/recall@10", settings=settings)
        assert HydraConfig.instance().cfg is before
        assert not GlobalHydra.instance().is_initialized()
    return run


def test_a_data_set_is_named_as_on_the_command_line(planted):
    assert isinstance(planted.model, LightGCN)
    assert isinstance(planted.data, PlantedData)
    assert planted.folder.parts[-4:-1] == ("outputs", "lightgcn", "planted")
    assert {"model=lightgcn", "monitor=val/recall@10", "evaluation.cutoffs=[5,10]"} <= {
        *planted.result["overrides"]
    }
    assert read_config(planted.folder)["model"]["layers"] == 1
    with pytest.raises(SettingError, match="reads its own data"):
        open_run(planted.folder, data=corpus())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "lightgnc"}, "did you mean lightgcn"),
        ({"settings": {"model.layer": 3}}, "did you mean model.layers"),
        ({"settings": {"model.layers": "3x"}}, "expected an integer"),
        ({"settings": {"data.cold_share": 0.3}}, "split already"),
        ({"settings": {"model.layers": [torch.ones(1)]}}, "a value is a torch.Tensor"),
        ({"sed": 1}, "sed: no such setting"),
        ({"data": TABLE}, r"it is a DataFrame.*Corpus.from_frames"),
        ({"ablation": "magnet/dominant_only"}, "it is an ablation of model=magnet"),
    ],
)
def test_wrong_settings_are_named_before_a_folder_is_made(tmp_path, arguments, message):
    with pytest.raises(SettingError, match=message):
        fit(**{"data": corpus(), "run_dir": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


def test_models_of_sequences_need_an_order(tmp_path):
    timeless = Corpus.from_frames(TABLE.drop("timestamp"))
    with pytest.raises(DataError, match="have no order"):
        fit("sasrec", timeless, run_dir=tmp_path / "run")


def test_lists_name_users_and_items_as_the_data_do(run):
    lists = run.recommend(["u7", "u2"], 5)
    assert lists.columns == ["user", "item", "rank", "score", "user_id", "item_id", "title"]
    assert lists["user_id"].unique(maintain_order=True).to_list() == ["u7", "u2"]
    assert lists["title"].to_list() == [f"T{name[1:]}" for name in lists["item_id"]]
    seen = run.corpus.train.item[run.corpus.train.user == lists["user"][0]]
    assert not {*lists["item"][:5]} & {*seen.tolist()}
    few = run.recommend(["u7"], 5, only=["i1", "i2", "i3"], exclude=["i2"], seen="none")
    assert {*few["item_id"]} == {"i1", "i3"}


def test_lists_have_the_columns_of_names_without_names(planted):
    lists = planted.recommend([3, 1], 2)
    assert lists["user_id"].to_list() == [3, 3, 1, 1]
    assert lists["item_id"].equals(lists["item"].alias("item_id"))
    assert {*planted.similar_items([4], 3)["item_id"]} == {4}


def test_similar_items_are_the_nearest_vectors(run):
    lists = run.similar_items(["i5"], 4)
    assert lists["similar_title"].to_list() == [f"T{name[1:]}" for name in lists["similar_id"]]
    items = torch.nn.functional.normalize(run.model.encode().items, dim=1)
    cosine = items @ items[5]
    cosine[5] = -2
    assert lists["similar"].to_list() == cosine.topk(4).indices.tolist()


def test_embeddings_score_as_the_model_ranks(run):
    found = run.embeddings()
    assert found.score == "dot product"
    assert found.user_ids.equals(run.corpus.user_ids)
    lists = run.recommend(k=3)
    row = torch.from_numpy(lists.select("user", "item").to_numpy())
    scores = (found.users[row[:, 0]] * found.items[row[:, 1]]).sum(1)
    torch.testing.assert_close(scores, torch.tensor(lists["score"].to_list()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.recommend(["u99"]), "users=u99: no such user"),
        (lambda run: run.recommend("u7"), "expected a list"),
        (lambda run: run.recommend(k=0), "k=0: expected 1 or more"),
        (lambda run: run.recommend(seen="some"), "seen=some"),
        (lambda run: run.similar_items(["x"]), "items=x: no such item"),
        (lambda run: run.recommend(["u7"], only=["x"]), "only=x"),
    ],
)
def test_unknown_names_are_told(run, call, message):
    with pytest.raises(SettingError, match=message):
        call(run)


def test_only_what_is_offered_can_be_imported():
    assert {*mmrec.__all__} == {"Corpus", "OpenRun", "__version__", "fit", "open_run"}
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        mmrec.train  # noqa: B018
