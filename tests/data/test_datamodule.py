"""Data modules: batches, queries, and what is done to modalities."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from lightning import Trainer

from mmrec.config.errors import SettingError
from mmrec.config.schema import check_call
from mmrec.data import Categories, DataError, FolderData, Modality, PlantedData, planted
from mmrec.data.corruption import corrupt_modalities, shuffled_categories
from mmrec.data.datamodule import select_modalities
from mmrec.data.folder import Columns
from mmrec.models import GatedLightGCN

small = partial(planted, users=60, items=40, interactions_per_user=8, widths=5, missing=0.2)


def test_an_epoch_pairs_every_train_interaction_once_with_items_its_user_has_not():
    data = PlantedData(world=small, batch_size=50, negatives=3)
    batches = list(data.train_dataloader())
    train = data.corpus.train
    assert len(batches) == len(data.train_dataloader()) == -(-len(train) // 50)
    found = torch.cat([b.user * 40 + b.positive for b in batches]).sort().values
    torch.testing.assert_close(found, (train.user * 40 + train.item).sort().values)
    owned = set(found.tolist())
    for batch in batches:
        assert batch.negative.shape == (len(batch.user), 3)
        assert not owned & set((batch.user[:, None] * 40 + batch.negative).flatten().tolist())


@pytest.mark.parametrize(
    ("distribution", "drawn"), [(None, False), ("uniform", True), ("popularity", False)]
)
def test_cold_items_are_negatives_only_on_request(distribution, drawn):
    data = PlantedData(
        world=small, split="item_cold", cold_share=0.4, negatives=9, distribution=distribution
    )
    negatives = torch.cat([b.negative.flatten() for b in data.train_dataloader()])
    assert bool(data.corpus.cold[negatives].any()) == drawn


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_user_with_a_held_out_item_is_asked_once(split):
    data = PlantedData(world=small, eval_batch_size=7)
    loader = getattr(data, f"{split}_dataloader")()
    asked = torch.cat([queries.user for queries in loader]).tolist()
    held_out = getattr(data.corpus, split)
    assert asked == sorted(set(held_out.user.tolist()))
    assert max(len(queries.user) for queries in loader) <= 7


def test_a_seed_gives_its_batches_and_another_seed_others():
    first, same, other = (
        next(iter(PlantedData(world=small, seed=seed).train_dataloader())) for seed in (3, 3, 4)
    )
    assert first.user.equal(same.user)
    assert first.negative.equal(same.negative)
    assert not first.user.equal(other.user)


@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size", "negatives"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(SettingError) as error:
        PlantedData(world=small, **{name: 0})
    assert (error.value.setting, error.value.value) == (f"data.{name}", 0)


def test_a_setting_of_a_planted_world_is_named_as_it_is_typed():
    with pytest.raises(SettingError) as error:
        PlantedData(world=partial(planted, factors=1)).corpus  # noqa: B018
    assert (error.value.setting, error.value.value) == ("data.world.factors", 1)


def test_a_modality_can_be_left_out():
    whole, part = PlantedData(world=small), PlantedData(world=small, modalities=["textual"])
    assert list(part.corpus.modalities) == ["textual"]
    textual = whole.corpus.modalities["textual"].features
    assert part.corpus.modalities["textual"].features.equal(textual)
    assert part.corpus.train.item.equal(whole.corpus.train.item)


def test_an_unknown_modality_names_those_there_are():
    corpus = PlantedData(world=small).corpus
    with pytest.raises(SettingError) as error:
        select_modalities(corpus, ["sound"])
    assert (error.value.setting, error.value.value) == ("data.modalities", ["sound"])
    assert error.value.hint == "there are textual, visual"
    for shares in ({"sound": 0.5}, {"visual": 2}):
        with pytest.raises(SettingError) as error:
            corrupt_modalities(corpus, shares, seed=0)
        found = {error.value.setting: error.value.value}
        assert found == {f"data.corrupt.{name}": share for name, share in shares.items()}


def test_categories_move_among_a_share_of_the_labelled_items():
    corpus = PlantedData(world=small).corpus
    item, category, names = corpus.categories
    corpus = replace(corpus, categories=Categories(item[5:], category[5:], names))
    moved = corrupt_modalities(corpus, {"categories": 0.4}, seed=0)

    def of(data):
        pairs = torch.stack(data.categories[:2], 1).tolist()
        return {i: {c for j, c in pairs if i == j} for i in range(corpus.n_items)}

    before, after = of(corpus), of(moved)
    unlike = [i for i in before if before[i] != after[i]]
    assert 0 < len(unlike) <= round(0.4 * (corpus.n_items - 5))
    assert all(before[i] and after[i] for i in unlike)  # items without a category stay so
    assert sorted(map(sorted, before.values())) == sorted(map(sorted, after.values()))
    assert moved.modalities == corpus.modalities
    assert moved.fingerprint != corpus.fingerprint
    again = corrupt_modalities(corpus, {"categories": 0.4}, how="shuffle", seed=0)
    assert of(again) == after


def test_of_items_with_unlike_categories_every_chosen_one_gets_another():
    own = Categories(torch.arange(10), torch.arange(10), tuple("abcdefghij"))
    for share, count in ((0.0, 0), (0.3, 3), (1.0, 10)):
        moved = shuffled_categories(own, 10, share, seed=3)
        assert sorted(moved.item.tolist()) == [*range(10)]
        assert int((moved.item != own.item).sum()) == count


def test_data_without_categories_cannot_have_wrong_ones():
    corpus = replace(PlantedData(world=small).corpus, categories=None)
    with pytest.raises(SettingError) as error:
        corrupt_modalities(corpus, {"categories": 0.4}, seed=0)
    assert error.value.setting == "data.corrupt.categories"
    assert error.value.hint == "there are textual, visual"


def test_noise_replaces_a_share_of_the_rows_that_are_there_and_nothing_else():
    corpus = PlantedData(world=small).corpus
    noisy = corrupt_modalities(corpus, {"visual": 0.5}, seed=0)
    before, after = corpus.modalities["visual"], noisy.modalities["visual"]
    changed = (before.features != after.features).any(1)
    assert changed.sum() == round(0.5 * int(before.present.sum()))
    assert not changed[~before.present].any()
    assert noisy.modalities["textual"] is corpus.modalities["textual"]
    assert after.digest != before.digest
    assert noisy.fingerprint != corpus.fingerprint
    assert corrupt_modalities(corpus, {"visual": 0.0}, seed=0) is corpus


def test_noise_in_the_place_of_the_only_row_is_that_row():
    corpus = PlantedData(world=small).corpus
    known = corpus.modalities["visual"]
    one = known.present & (known.present.cumsum(0) == 1)
    alone = Modality(known.features * one.unsqueeze(1), one, "one")
    noisy = corrupt_modalities(replace(corpus, modalities={"visual": alone}), {"visual": 1}, seed=0)
    torch.testing.assert_close(noisy.modalities["visual"].features, alone.features)


def test_noise_has_the_mean_and_the_spread_of_what_it_replaces():
    corpus = PlantedData(world=partial(planted, users=60, items=1000, missing=0)).corpus
    after = corrupt_modalities(corpus, {"visual": 1.0}, seed=0).modalities["visual"].features
    before = corpus.modalities["visual"].features
    torch.testing.assert_close(after.mean(0), before.mean(0), atol=0.25, rtol=0)
    torch.testing.assert_close(after.std(0), before.std(0), rtol=0.15, atol=0)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_shuffling_moves_rows_among_a_share_of_the_items_and_none_keeps_its_own(share):
    corpus = PlantedData(world=small).corpus
    shares = {"visual": share, "textual": share}
    found = corrupt_modalities(corpus, shares, how="shuffle", seed=0)
    for name, before in corpus.modalities.items():
        after = found.modalities[name]
        changed = (before.features != after.features).any(1)
        assert changed.sum() == round(share * int(before.present.sum()))
        assert not changed[~before.present].any()
        rows = [
            sorted(map(tuple, each.features[changed].tolist())) for each in (before, after)
        ]  # planted features have no two equal rows
        assert rows[0] == rows[1]
        noisy = corrupt_modalities(corpus, shares, seed=0).modalities[name]
        assert changed.equal((before.features != noisy.features).any(1))
        assert len({each.digest for each in (before, after, noisy)}) == 3


def test_shuffling_has_a_seed_and_modalities_do_not_move_together():
    corpus = PlantedData(world=partial(small, missing=0)).corpus
    corpus = replace(corpus, modalities=dict.fromkeys(("a", "b"), corpus.modalities["visual"]))
    first, same, other = (
        corrupt_modalities(corpus, {"a": 1.0, "b": 1.0}, how="shuffle", seed=seed)
        for seed in (0, 0, 1)
    )
    a, b = (first.modalities[name].features for name in "ab")
    assert a.equal(same.modalities["a"].features)
    assert not a.equal(other.modalities["a"].features)
    assert not a.equal(b)
    assert first.modalities["a"].digest != first.modalities["b"].digest
    assert first.fingerprint == same.fingerprint != other.fingerprint
    noisy = corrupt_modalities(corpus, {"a": 1.0, "b": 1.0}, seed=0)
    assert first.fingerprint != noisy.fingerprint


def test_shuffling_a_single_item_leaves_its_row():
    corpus = PlantedData(world=small).corpus
    before = corpus.modalities["visual"]
    share = 1 / int(before.present.sum())
    after = corrupt_modalities(corpus, {"visual": share}, how="shuffle", seed=0)
    assert after.modalities["visual"].features.equal(before.features)


def test_a_data_set_can_shuffle_and_refuses_an_unknown_kind():
    whole = PlantedData(world=small).corpus
    data = PlantedData(world=small, corrupt={"visual": 0.5}, corrupt_how="shuffle", split_seed=3)
    expected = corrupt_modalities(
        PlantedData(world=small, split_seed=3).corpus, {"visual": 0.5}, how="shuffle", seed=3
    )
    assert data.corpus.fingerprint == expected.fingerprint
    found = data.corpus.modalities["visual"].features
    assert found.equal(expected.modalities["visual"].features)
    with pytest.raises(SettingError) as error:
        corrupt_modalities(whole, {"visual": 0.5}, how="swap", seed=0)
    assert (error.value.setting, error.value.value) == ("data.corrupt_how", "swap")
    assert error.value.expected == "one of noise, shuffle"


def test_a_kind_of_corruption_without_corrupted_items_is_refused():
    with pytest.raises(SettingError) as error:
        PlantedData(corrupt_how="shuffle")
    assert error.value.setting == "data.corrupt_how"


@pytest.mark.slow
def test_the_gate_turns_away_from_a_modality_that_became_noise():
    def visual_weight(share: float) -> float:
        torch.manual_seed(0)
        data = PlantedData(corrupt={"visual": share})
        model = GatedLightGCN(data.corpus)
        model.optimizer = partial(torch.optim.Adam, lr=1e-2)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=15,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, datamodule=data)
        present = data.corpus.modalities["visual"].present
        return model.item_weights()["visual"][present].mean().item()

    clean, noisy = visual_weight(0.0), visual_weight(0.6)
    assert noisy < clean - 0.01


def test_printing_a_data_set_shows_its_settings_and_loads_nothing():
    data = PlantedData(world=small, negatives=3)
    assert str(data).startswith("PlantedData(split='")
    assert "negatives=3" in str(data)
    assert "corpus" not in vars(data)


@pytest.fixture
def mine(tmp_path):
    """`mine(header, *lines)`: the root of a data set `mine` with this table."""
    (tmp_path / "mine").mkdir()

    def write(header, *lines):
        (tmp_path / "mine" / "mine.csv").write_text("\n".join([header, *lines]) + "\n")
        return tmp_path

    return write


PLAIN = [
    f"u{user},i{item},{user * 9 + item}" for user in range(4) for item in range(user, user + 5)
]


def test_name_and_root_of_a_folder_may_be_positional(mine, monkeypatch):
    root = mine("userID,itemID,timestamp", *PLAIN)
    given = FolderData("mine", root)
    assert given.corpus.n_users == FolderData(name="mine", root=str(root)).corpus.n_users == 4
    monkeypatch.setenv("HOME", str(root.parent))
    assert FolderData("mine", f"~/{root.name}").corpus.n_users == 4


def test_a_split_that_is_not_chosen_fits_the_file(mine, caplog):
    caplog.set_level("INFO")
    root = mine("userID,itemID,timestamp", *PLAIN)
    assert FolderData("mine", root).corpus.split == "random_per_user(seed=0)"
    assert "mine is read without a split column: data.split=random_per_user" in caplog.text
    labelled = [f"{line},{place % 5 % 3}" for place, line in enumerate(PLAIN)]
    corpus = FolderData("mine", mine("userID,itemID,timestamp,x_label", *labelled)).corpus
    assert (corpus.split, corpus.card()["split"]) == ("official", "official")
    assert "mine is read with a split column: data.split=official" in caplog.text


@pytest.mark.parametrize(("split", "warns"), [(None, True), ("leave_one_out", False)])
@pytest.mark.parametrize("ordered", [True, False])
def test_histories_that_keep_later_items_are_pointed_out(ordered, split, warns, mine, caplog):
    data = FolderData("mine", mine("userID,itemID,timestamp", *PLAIN), split=split)
    data.ordered = ordered
    assert len(data.corpus.test)
    warnings = [each for each in caplog.records if each.levelname == "WARNING"]
    assert any("later items" in each.message for each in warnings) is (warns and ordered)


@pytest.mark.parametrize("words", [("train", "valid", "test"), ("Train", "VAL", "Test"), "012"])
def test_a_column_of_split_names_is_read_if_it_is_named_and_pointed_out_if_not(mine, caplog, words):
    places = [place % 5 % 3 for place in range(len(PLAIN))]
    labelled = [f"{line},{words[part]}" for line, part in zip(PLAIN, places, strict=True)]
    root = mine("userID,itemID,timestamp,split", *labelled)
    assert FolderData("mine", root).corpus.split == "random_per_user(seed=0)"
    assert "data.columns.label=split" in caplog.text
    caplog.clear()
    assert FolderData("mine", root, split="random_per_user").corpus
    named = FolderData("mine", root, columns=Columns(label="split")).corpus
    assert not caplog.text
    assert named.split == "official"
    parts = [len(part) for part in (named.train, named.val, named.test)]
    assert parts == [places.count(part) for part in range(3)]


@pytest.mark.parametrize("values", ["012345", "01", ["train", "test", "other"]])
def test_a_column_of_other_values_is_no_split(mine, caplog, values):
    lines = [f"{line},{values[place % len(values)]}" for place, line in enumerate(PLAIN)]
    assert FolderData("mine", mine("userID,itemID,timestamp,fold", *lines)).corpus
    assert not caplog.text


@pytest.mark.parametrize(
    "setting",
    [
        *("split_seed", "batch_size", "eval_batch_size", "negatives", "seed"),
        *("world.seed", "world.users", "world.items", "world.factors", "world.categories"),
        "world.widths",
    ],
)
@pytest.mark.parametrize("value", [2**63, 10**30])
def test_a_number_that_torch_cannot_hold_is_refused_by_its_setting(setting, value):
    group, _, name = setting.rpartition(".")
    node = {"_target_": f"mmrec.data.{'planted' if group else 'PlantedData'}", "_partial_": True}
    path = f"data.{group}".strip(".")
    check_call(node | {name: 7}, path)
    with pytest.raises(SettingError) as error:
        check_call(node | {name: value}, path)
    assert (error.value.setting, error.value.value) == (f"data.{setting}", value)
    if name != "widths":
        return
    with pytest.raises(SettingError) as error:
        check_call(node | {name: {"visual": value}}, path)
    assert (error.value.setting, error.value.value) == ("data.world.widths.visual", value)


@pytest.mark.parametrize("bad", ["1e300", "noon", "", "-1", "nan"])
@pytest.mark.parametrize(
    ("split", "needs", "cold_items"),
    [
        *((None, False, None), ("random_per_user", False, None), ("item_cold", False, None)),
        *(("leave_one_out", True, None), ("temporal", True, None), ("item_cold", True, "newest")),
    ],
)
def test_a_time_is_only_needed_by_splits_in_order_of_time(
    bad, split, needs, cold_items, mine, caplog
):
    root = mine("userID,itemID,timestamp", *PLAIN, f"u0,i5,{bad}")
    data = FolderData("mine", root, split=split, cold_items=cold_items)
    if needs:
        with pytest.raises(DataError) as error:
            data.corpus  # noqa: B018
        assert (error.value.file, error.value.line) == ("mine/mine.csv", len(PLAIN) + 2)
        assert error.value.column == "timestamp"
    else:
        corpus = data.corpus
        assert corpus.train.time is None
        assert f"line {len(PLAIN) + 2}: timestamp is" in caplog.text
        assert "timestamp" in caplog.text
        assert len(corpus.train) + len(corpus.val) + len(corpus.test) > len(PLAIN) / 2


def test_a_split_column_is_only_needed_by_the_official_split(mine, caplog):
    root = mine("userID,itemID,x_label", *[f"{line.rpartition(',')[0]},first" for line in PLAIN])
    for split in (None, "official"):
        with pytest.raises(DataError) as error:
            FolderData("mine", root, split=split).corpus  # noqa: B018
        assert (error.value.line, error.value.column) == (2, "x_label")
        assert error.value.found == "first"
    assert FolderData("mine", root, split="random_per_user").corpus.n_users == 4
    assert "line 2: x_label is first" in caplog.text
