"""The public data sets, as their SOURCE.md describes them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache

import polars as pl
import pytest
import torch
from hydra.utils import instantiate
from lightning import seed_everything
from omegaconf import OmegaConf
from polars.testing import assert_frame_equal

from mmrec.config.errors import SettingError
from mmrec.data import Interactions, files, read_folder
from mmrec.data.prepare import Fetcher, ProcessedFolder, Tables, check_folder, prepare_folder
from mmrec.data.splits import random_per_user
from mmrec.training.build import build

pytestmark = [pytest.mark.data, pytest.mark.slow]


@dataclass(frozen=True)
class Card:
    """Counts after the drops: repeated pairs, and held-out pairs of users without a train pair."""

    users: int
    items: int
    train: int
    val: int
    test: int
    dropped: int
    modalities: dict[str, int]
    time: bool = False
    categories: int = 0
    cold: bool = False


CARDS = {
    # 10 users have no train interaction
    "tiktok": Card(9308, 6710, 59541, 3046, 6125, 10, {"audio": 128, "image": 128}),
    "baby": Card(19445, 7050, 118551, 20559, 21682, 0, {}),
    "beauty": Card(22363, 12101, 153776, 22363, 22363, 0, {"text": 384}, time=True, categories=202),
    # 144 repeated pairs
    "scientific": Card(
        2928, 1585, 13763, 2902, 2903, 144, {"image": 512, "text": 512}, True, 23, cold=True
    ),
}
every_set = pytest.mark.parametrize("name", CARDS)


@pytest.fixture(scope="module")
def read(real_data, composed):
    """`read(name, split)`: a data module; each is read once."""

    @cache
    def build_data(name, split="official"):
        config = composed(f"data={name}", f"data.root={real_data}", f"data.split={split}")
        data = instantiate(OmegaConf.to_container(config, resolve=True)["data"], _convert_="all")
        assert data.corpus.n_users > 0
        return data

    return build_data


@every_set
def test_counts_are_those_that_are_documented(name, read):
    card, data = CARDS[name], read(name)
    corpus, source = data.corpus, data.source()
    assert (corpus.n_users, corpus.n_items) == (card.users, card.items)
    assert tuple(map(len, (corpus.train, corpus.val, corpus.test))) == (
        card.train,
        card.val,
        card.test,
    )
    kept = card.train + card.val + card.test
    assert len(source.interactions) - kept == card.dropped
    assert {kind: m.width for kind, m in corpus.modalities.items()} == card.modalities
    assert all(m.present.all() for m in corpus.modalities.values())
    assert (corpus.train.time is not None) == card.time
    assert (source.cold is not None) == card.cold
    assert len(source.categories.names if source.categories else ()) == card.categories


@every_set
def test_reading_again_scans_nothing_and_finds_the_same(name, read, monkeypatch):
    data = read(name)

    def refuse(_, path):
        pytest.fail(f"{path} is scanned again")

    monkeypatch.setattr(files, "_scan", refuse)
    again = data.source()
    assert again.fingerprint == data.corpus.fingerprint
    assert {k: m.digest for k, m in again.modalities.items()} == {
        k: m.digest for k, m in data.corpus.modalities.items()
    }


@every_set
def test_fingerprints_do_not_depend_on_the_cache(name, read, monkeypatch, tmp_path):
    expected = read(name).corpus.fingerprint
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path))
    assert read(name).source().fingerprint == expected


def test_fingerprints_tell_the_sets_apart(read):
    assert len({read(name).corpus.fingerprint for name in CARDS}) == len(CARDS)


def pairs(part, corpus):
    return part.user * corpus.n_items + part.item


@every_set
@pytest.mark.parametrize("split", ["random_per_user", "item_cold", "leave_one_out", "temporal"])
def test_each_split_shares_out_what_there_is_or_says_what_it_lacks(name, split, read):
    if split in ("leave_one_out", "temporal") and not CARDS[name].time:
        with pytest.raises(SettingError) as error:
            read(name, split)
        assert (error.value.setting, error.value.value) == ("data.split", split)
        assert error.value.problem == "it needs time, found none"
        return
    if split == "temporal" and name == "scientific":
        with pytest.raises(SettingError) as error:
            read(name, split)
        assert (error.value.setting, error.value.value) == ("data.split", "temporal")
        assert "scientific has positions" in error.value.problem
        return
    corpus = read(name, split).corpus
    parts = [pairs(part, corpus) for part in (corpus.train, corpus.val, corpus.test)]
    together = torch.cat(parts)
    assert together.unique().numel() == len(together)
    source = read(name).source().interactions
    assert torch.isin(together, pairs(source, corpus)).all()
    warm = torch.zeros(corpus.n_users, dtype=torch.bool)
    warm[corpus.train.user] = True
    assert warm[corpus.val.user].all()
    assert warm[corpus.test.user].all()
    if split == "random_per_user":
        assert 0.6 < len(parts[0]) / len(together) < 0.85
    if split == "item_cold":
        assert not torch.isin(corpus.train.item, corpus.val.item).any()
        assert not torch.isin(corpus.train.item, corpus.test.item).any()


@pytest.mark.parametrize(
    ("model", "name", "split"),
    [
        *(("lightgcn", name, "official") for name in CARDS),
        ("gated_lightgcn", "tiktok", "official"),
        ("gated_lightgcn", "beauty", "random_per_user"),
        ("gated_lightgcn", "scientific", "random_per_user"),
    ],
)
def test_two_short_epochs_lower_the_loss_and_beat_chance(
    model, name, split, real_data, composed, quiet_trainer
):
    words = [f"model={model}", f"data={name}", f"data.root={real_data}", f"data.split={split}"]
    data, recommender = build(OmegaConf.to_container(composed(*words), resolve=True))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    seed_everything(0, verbose=False)
    found = []
    for _ in range(2):
        trainer = quiet_trainer(max_epochs=1, limit_train_batches=30)
        trainer.fit(recommender, datamodule=data)
        found.append({k: float(v) for k, v in trainer.callback_metrics.items()})
    assert found[1]["train/bpr"] < found[0]["train/bpr"]
    assert found[1]["val/recall@20"] > 2 * 20 / data.corpus.n_items


@pytest.mark.parametrize("name", ["scientific", "tiktok"])
def test_a_processed_folder_is_copied(real_data, tmp_path, name):
    data = ProcessedFolder(
        name=name,
        root=str(tmp_path),
        source_folder=str(real_data / name),
        duplicates="keep",
        split="given",
    )
    folder = prepare_folder(data, Fetcher(tmp_path), {})
    theirs, ours = (read_folder(root, name) for root in (real_data, folder.parent))
    for part in ("user", "item", "time"):
        first, second = (getattr(each.interactions, part) for each in (theirs, ours))
        assert first is second is None or torch.equal(first, second)
    assert torch.equal(theirs.label, ours.label)
    assert theirs.cold is ours.cold is None or torch.equal(theirs.cold, ours.cold)
    assert [*theirs.modalities] == [*ours.modalities]
    for kind, content in theirs.modalities.items():
        assert torch.equal(content.features, ours.modalities[kind].features)
    titles = [None if each.item_titles is None else [*each.item_titles] for each in (theirs, ours)]
    assert titles[0] == titles[1]


def test_the_published_split_of_baby_is_reached_by_labels_and_by_counts(real_data, tmp_path):
    published = real_data / "baby" / "baby.inter"
    data = Tables(
        name="baby",
        root=str(tmp_path / "labelled"),
        interactions=str(published),
        k_core=5,
        expected={"users": 19445, "items": 7050, "interactions": 160792},
        labels=str(published),
    )
    folder = prepare_folder(data, Fetcher(tmp_path), {})
    table, known = (
        pl.read_csv(path, separator="\t") for path in (folder / "baby.inter", published)
    )
    assert_frame_equal(table, known.select(table.columns), check_row_order=False)
    assert check_folder(folder)["unexpected"] == {}
    # The labels of public files were drawn without a seed; ours have their counts per user.
    pairs = Interactions(known["userID"].to_torch(), known["itemID"].to_torch())
    drawn = random_per_user(pairs, seed=0, floor=True)
    for part in (1, 2):
        ours = torch.bincount(pairs.user[drawn == part], minlength=19445)
        theirs = torch.bincount(pairs.user[known["x_label"].to_torch() == part], minlength=19445)
        assert torch.equal(ours, theirs)
