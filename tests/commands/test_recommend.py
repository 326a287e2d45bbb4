"""The lists that are written are those that a naive loop finds, and those that were evaluated."""

from __future__ import annotations

import json
import logging
import math
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from polars.testing import assert_frame_equal

import mmrec.training.open_run
from mmrec.commands import recommend as module
from mmrec.commands import similar
from mmrec.commands.recommend import recommend
from mmrec.commands.run import run
from mmrec.config.errors import MISSING, SettingError
from mmrec.data import DataError, Interactions
from mmrec.evaluation import NonFiniteScores
from mmrec.nn import mean_item
from mmrec.training.names import Names, select
from mmrec.training.open_run import open_run
from mmrec.training.ranked_lists import masked_interactions

TINY = ("trainer=cpu", "trainer.max_epochs=2", "trainer.enable_progress_bar=false")
WORLD = ("data.world.users=60", "data.world.items=50", "data.world.widths=4")
CUTOFFS = ("data.split=random_per_user", "evaluation.cutoffs=[5]", "monitor=val/recall@5")
USERS, ITEMS = 60, 50


@pytest.fixture(scope="module")
def finished(composed, tmp_path_factory):
    """Matrix factorisation, so that a score is a dot product of what is in the checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "factors"
    words = ("model=lightgcn", "model.layers=0", "model.dim=8", *WORLD, *TINY)
    run(composed(*words, "optimizer.lr=0.05", f"run_dir={folder}"), [])
    return folder


@pytest.fixture(scope="module")
def corpus(finished):
    return open_run(finished).corpus


@pytest.fixture(scope="module")
def shop(composed, tmp_path_factory):
    """Most popular items of a shop whose users and items have names; zoe has bought nothing."""
    root = tmp_path_factory.mktemp("data")
    (root / "shop").mkdir()
    rows = [
        (f"u{user:02}", f"i{(user + step) % 12:02}", max(0, step - 5))
        for user in range(10)
        for step in range(8)
    ]
    table = pl.DataFrame(rows, schema=["userID", "itemID", "x_label"], orient="row")
    table.write_csv(root / "shop" / "shop.inter", separator="\t")
    names = ["zoe", *(f"u{user:02}" for user in range(10))]
    mapping = "".join(f"{index}\t{name}\n" for index, name in enumerate(names))
    (root / "shop" / "u_id_mapping.csv").write_text("userID\toriginal\n" + mapping)
    mapping = "".join(f"{item}\ti{item:02}\n" for item in range(12))
    (root / "shop" / "i_id_mapping.csv").write_text("itemID\toriginal\n" + mapping)
    folder = root / "run"
    words = ("model=most_pop", "data=folder", "data.name=shop", f"data.root={root}", *TINY)
    cutoffs = ("evaluation.cutoffs=[5,10]", "monitor=val/recall@5")
    run(composed(*words, *cutoffs, f"run_dir={folder}"), [])
    return folder


def naive(folder, corpus, k, *seen):
    """(user, item, rank, score) by sorting."""
    saved = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    users, items = saved["node.weight"].split([corpus.n_users, corpus.n_items])
    scores = (users @ items.T).tolist()
    masked = defaultdict(set)
    for part in seen:
        for user, item in zip(part.user.tolist(), part.item.tolist(), strict=True):
            masked[user].add(item)
    rows = []
    for user in range(corpus.n_users):
        items = [item for item in range(corpus.n_items) if item not in masked[user]]
        items.sort(key=lambda item: -scores[user][item])
        for rank, item in enumerate(items[:k], start=1):
            rows.append((user, item, rank, scores[user][item]))
    return pl.DataFrame(rows, schema=["user", "item", "rank", "score"], orient="row")


@pytest.mark.parametrize("seen", ["none", "train", "train+val"])
@pytest.mark.parametrize("k", [1, 20, ITEMS])
def test_the_lists_are_those_of_a_naive_loop(finished, corpus, tmp_path, seen, k):
    parts = {"none": (), "train": (corpus.train,), "train+val": (corpus.train, corpus.val)}[seen]
    path = recommend(run=finished, output=str(tmp_path / "r.parquet"), k=k, seen=seen)
    expected = naive(finished, corpus, k, *parts)
    assert_frame_equal(pl.read_parquet(path), expected, check_dtypes=False, abs_tol=1e-6)


def test_users_with_few_candidates_have_short_lists(finished, corpus, tmp_path):
    path = recommend(run=finished, output=str(tmp_path / "r.parquet"), k=ITEMS)
    lengths = pl.read_parquet(path)["user"].value_counts(sort=False).sort("user")["count"]
    seen = corpus.user_counts() + torch.bincount(corpus.val.user, minlength=USERS)
    assert lengths.to_list() == (ITEMS - seen).tolist()


def test_the_lists_hold_what_evaluation_has_found(finished, corpus, tmp_path):
    path = recommend(run=finished, output=str(tmp_path / "r.parquet"), k=20, seen="train")
    lists, held_out = defaultdict(set), defaultdict(set)
    for user, item in pl.read_parquet(path).select("user", "item").iter_rows():
        lists[user].add(item)
    for user, item in zip(corpus.test.user.tolist(), corpus.test.item.tolist(), strict=True):
        held_out[user].add(item)
    recalls = [len(held_out[u] & lists[u]) / len(held_out[u]) for u in held_out]
    noted = json.loads((finished / "result.json").read_text())["metrics"]["test/recall@20"]
    assert math.fsum(recalls) / len(recalls) == pytest.approx(noted, abs=1e-11)


@pytest.fixture(scope="module")
def content(composed, tmp_path_factory):
    """A model of content, and a folder of seven new items of which one has nothing to show."""
    root = tmp_path_factory.mktemp("content")
    words = ("model=mamex", "model.dim=8", *WORLD, *TINY, f"run_dir={root / 'run'}")
    run(
        composed(*words, "data.split=item_cold", "evaluation.cutoffs=[5]", "monitor=val/ndcg@5"), []
    )
    arrivals = root / "arrivals"
    arrivals.mkdir()
    generator = np.random.default_rng(0)
    for name in ("visual", "textual"):
        features = generator.normal(size=(7, 4)).astype(np.float32)
        features[6] = np.nan
        np.save(arrivals / f"{name}_feat.npy", features)
    return root / "run", arrivals


def test_items_that_came_after_training_are_ranked_by_their_content(content, tmp_path):
    folder, arrivals = content
    recommend(run=folder, items=str(arrivals), output=str(tmp_path / "new.parquet"), k=7)
    frame = pl.read_parquet(tmp_path / "new.parquet")
    model = open_run(folder).model
    features = {
        n: torch.from_numpy(np.load(arrivals / f"{n}_feat.npy")) for n in ("visual", "textual")
    }
    items = model.encode_items(features)
    torch.testing.assert_close(
        items[6], mean_item(model.encode().items, model.item_features.present)
    )
    scores = (model.user.weight @ items.T).detach()
    assert frame["user"].to_list() == np.repeat(np.arange(USERS), 7).tolist()
    best = scores.argsort(1, descending=True)
    assert frame["item"].to_list() == best.flatten().tolist()
    found = torch.from_numpy(frame["score"].to_numpy().copy())
    torch.testing.assert_close(found, scores.gather(1, best).flatten())


def test_few_new_items_are_ranked_and_those_without_content_told(content, tmp_path, caplog):
    folder, arrivals = content
    with caplog.at_level(logging.WARNING):
        recommend(run=folder, items=str(arrivals), output=str(tmp_path / "new.csv"))
    assert pl.read_csv(tmp_path / "new.csv")["rank"].max() == 7
    assert caplog.messages == [
        "1 of 7 new items have no content (the first is row 6); they are scored as the mean "
        "item of the model"
    ]


def test_what_new_items_lack_and_what_is_not_read_is_told(content, tmp_path, caplog):
    folder, arrivals = content
    new = tmp_path / "new"
    shutil.copytree(arrivals, new)
    (new / "textual_feat.npy").rename(new / "textual_feats.npy")
    with caplog.at_level(logging.WARNING):
        recommend(run=folder, items=str(new), output=str(tmp_path / "new.csv"))
    told = " ".join(caplog.messages)
    assert "textual_feats.npy is not read: content is in <modality>_feat.npy" in told
    assert "new: new items lack textual; missing files: textual_feat.npy" in told


def test_content_that_the_model_has_not_learned_from_is_left_aside(content, tmp_path, caplog):
    folder, arrivals = content
    new = tmp_path / "new"
    shutil.copytree(arrivals, new)
    np.save(new / "audio_feat.npy", np.ones((7, 3)))
    for name, items in (("more", new), ("same", arrivals)):
        recommend(run=folder, items=str(items), output=str(tmp_path / f"{name}.csv"), k=5)
    assert "skipping modalities that were not in the training data: audio" in caplog.text
    assert (tmp_path / "more.csv").read_text() == (tmp_path / "same.csv").read_text()


def test_a_misspelt_modality_is_not_said_to_be_lacking(content, tmp_path, caplog):
    folder, arrivals = content
    new = tmp_path / "new"
    shutil.copytree(arrivals, new)
    (new / "visual_feat.npy").rename(new / "visul_feat.npy")
    with pytest.raises(DataError) as error:
        recommend(run=folder, items=str(new), output=str(tmp_path / "new.csv"))
    assert error.value.problem == "unknown modality visul"
    assert "lack" not in caplog.text


def test_new_items_may_be_arrays(content):
    folder, arrivals = content
    model = open_run(folder).model
    features = {n: np.load(arrivals / f"{n}_feat.npy") for n in ("visual", "textual")}
    there = {"visual": np.arange(7) < 5}
    found = model.encode_items(features, there)
    tensors = {name: torch.from_numpy(rows) for name, rows in features.items()}
    expected = model.encode_items(tensors, {"visual": torch.arange(7) < 5})
    assert torch.equal(found, expected)


def test_new_items_have_the_names_of_their_folder(content, tmp_path):
    folder, arrivals = content
    named = tmp_path / "named"
    shutil.copytree(arrivals, named)
    lines = ["itemID\toriginal", *(f"{n}\tB00{n}" for n in range(7))]
    (named / "i_id_mapping.csv").write_text("\n".join(lines) + "\n")
    recommend(run=folder, items=str(named), output=str(tmp_path / "new.csv"), k=2)
    frame = pl.read_csv(tmp_path / "new.csv")
    assert frame["item_id"].to_list() == [f"B00{n}" for n in frame["item"]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("none", ["there is no such folder", "give one with <modality>_feat.npy"]),
        ("a file", ["it is a file", "give its folder, "]),
        ("empty", ["no features", "put a <modality>_feat.npy there"]),
        ("renamed", ["unknown modality smell", "visual, textual"]),
        ("wider", ["of shape [7, 5]", "4 numbers"]),
        ("longer", ["textual_feat.npy 7, visual_feat.npy 8", "as many rows"]),
        ("infinite", ["inf", "a finite float32"]),
    ],
)
def test_new_items_that_cannot_be_ranked_are_refused(content, tmp_path, change, said):
    folder, arrivals = content
    new = tmp_path / "new"
    if change != "none":
        shutil.copytree(arrivals, new)
    visual = np.load(arrivals / "visual_feat.npy")
    match change:
        case "a file":
            new /= "visual_feat.npy"
        case "empty":
            for path in new.iterdir():
                path.unlink()
        case "renamed":
            (new / "visual_feat.npy").rename(new / "smell_feat.npy")
        case "wider":
            np.save(new / "visual_feat.npy", np.ones((7, 5)))
        case "longer":
            np.save(new / "visual_feat.npy", np.ones((8, 4)))
        case "infinite":
            visual[3] = np.inf
            np.save(new / "visual_feat.npy", visual)
    with pytest.raises(DataError) as error:
        recommend(
            run=folder,
            items=str(new),
            output=str(tmp_path / "new.csv"),
            k=5,
        )
    what = error.value.problem or error.value.found
    todo = error.value.expected or error.value.hint
    assert what.startswith(said[0])
    assert said[1] in todo
    if change == "infinite":
        place = (error.value.file, error.value.row, error.value.column)
        assert place == ("new/visual_feat.npy", 3, 0)
    assert not (tmp_path / "new.csv").exists()


def test_a_model_of_ids_says_that_it_cannot_rank_new_items(finished, content, tmp_path):
    with pytest.raises(SettingError) as error:
        recommend(run=finished, items=str(content[1]), output=str(tmp_path / "new.csv"), k=5)
    assert error.value.setting == "items"
    assert error.value.problem.startswith(
        "LightGCN cannot score items that were not in the training data"
    )


def test_the_size_of_a_block_changes_nothing(shop, tmp_path):
    one = recommend(run=shop, output=str(tmp_path / "1.parquet"), k=5, block=1)
    all_at_once = recommend(run=shop, output=str(tmp_path / "2.parquet"), k=5, block=1000)
    assert one.read_bytes() == all_at_once.read_bytes()


@pytest.mark.parametrize(
    ("suffix", "read"),
    [(".csv", pl.read_csv), (".jsonl", pl.read_ndjson), (".parquet", pl.read_parquet)],
)
def test_every_format_holds_the_same_and_nothing_else_is_left(shop, tmp_path, suffix, read):
    path = recommend(run=shop, output=str(tmp_path / f"r{suffix}"), k=4, block=3)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    frame = read(path)
    assert frame.columns == ["user", "item", "rank", "score", "user_id", "item_id"]
    assert len(frame) == 11 * 4
    names = ["zoe", *(f"u{user:02}" for user in range(10))]
    assert frame["user_id"].to_list() == [names[user] for user in frame["user"]]
    assert frame["item_id"].to_list() == [f"i{item:02}" for item in frame["item"]]
    assert frame["rank"].to_list() == [1, 2, 3, 4] * 11


def test_a_user_without_history_is_ranked_and_counted(shop, tmp_path, caplog):
    path = recommend(run=shop, output=str(tmp_path / "r.parquet"), k=12)
    assert "1 of 11 users have no training interactions" in caplog.text
    zoe = pl.read_parquet(path).filter(pl.col("user_id") == "zoe")
    counts = open_run(shop).corpus.item_counts()
    assert sorted(zoe["item"]) == list(range(12))
    assert zoe["score"].to_list() == counts.sort(descending=True).values.tolist()


# Chosen users


@pytest.mark.parametrize("name", ["users.csv", "users.txt", "users.parquet"])
def test_chosen_users_come_in_the_order_of_the_file_each_once(shop, tmp_path, name):
    wanted = pl.DataFrame({"user_id": ["u07", "zoe", "u07", "u01"]})
    path = tmp_path / name
    wanted.write_parquet(path) if path.suffix == ".parquet" else wanted.write_csv(path)
    lists = recommend(run=shop, output=str(tmp_path / "r.csv"), k=2, users=str(path))
    assert pl.read_csv(lists)["user_id"].to_list() == ["u07", "u07", "zoe", "zoe", "u01", "u01"]


def test_users_may_be_named_on_the_command_line(shop, finished, tmp_path):
    lists = recommend(run=shop, output=str(tmp_path / "r.csv"), k=1, users=["u07", "zoe", "u07"])
    assert pl.read_csv(lists)["user_id"].to_list() == ["u07", "zoe"]
    for named, expected in (([59, "0"], [59, 0]), (59, [59])):
        lists = recommend(run=finished, output=str(tmp_path / "r.csv"), k=1, users=named)
        assert pl.read_csv(lists)["user"].to_list() == expected
    lists = recommend(run=shop, output=str(tmp_path / "r.csv"), k=1, users="u07")
    assert pl.read_csv(lists)["user_id"].to_list() == ["u07"]
    for unknown in ("u77", ["u77"]):
        with pytest.raises(SettingError) as error:
            recommend(run=shop, output=str(tmp_path / "r.csv"), users=unknown)
        assert (error.value.setting, error.value.value) == ("users", "u77")
        assert "did you mean u" in error.value.problem


@pytest.mark.parametrize("column", ["user", "user_id"])
def test_without_ids_of_their_own_users_are_numbers(finished, tmp_path, column):
    wanted = tmp_path / "users.csv"
    wanted.write_text(f"{column}\n59\n0\n")
    lists = recommend(run=finished, output=str(tmp_path / "r.csv"), k=1, users=str(wanted))
    assert pl.read_csv(lists)["user"].to_list() == [59, 0]


def test_the_column_user_is_a_number_even_where_there_are_ids(shop, tmp_path):
    wanted = tmp_path / "users.csv"
    wanted.write_text("user\n0\n")
    lists = recommend(run=shop, output=str(tmp_path / "r.csv"), k=1, users=str(wanted))
    assert pl.read_csv(lists)["user_id"].to_list() == ["zoe"]


def test_a_table_may_have_the_column_of_the_data(shop, tmp_path):
    """The shop's files call users `userID`, and hold original ids."""
    wanted, sold_out = tmp_path / "users.csv", tmp_path / "sold_out.csv"
    wanted.write_text("userID,itemID\nu07,i01\nzoe,i02\n")
    sold_out.write_text("itemID\ni01\ni99\n")
    settings = {"users": str(wanted), "only": str(wanted), "exclude": str(sold_out)}
    lists = recommend(run=shop, output=str(tmp_path / "r.csv"), seen="none", **settings)
    assert pl.read_csv(lists)["user_id"].to_list() == ["u07", "zoe"]
    assert {*pl.read_csv(lists)["item_id"]} == {"i02"}
    wanted.write_text("userID\n0\n7\n")  # row numbers, as the files of other data sets have them
    lists = recommend(run=shop, output=str(tmp_path / "r.csv"), k=1, users=str(wanted))
    assert pl.read_csv(lists)["user_id"].to_list() == ["zoe", "u06"]


@pytest.mark.parametrize("other", ["user", "user_id"])
def test_two_columns_of_users_are_refused_with_both_names(shop, tmp_path, other):
    (tmp_path / "users.csv").write_text(f"userID,{other}\nu07,0\n")
    with pytest.raises(DataError) as error:
        recommend(run=shop, output=str(tmp_path / "r.csv"), users=str(tmp_path / "users.csv"))
    assert error.value.file == str(tmp_path / "users.csv")
    assert f"userID and {other} " in error.value.problem


def test_lists_may_be_a_table_of_users_again(shop, tmp_path):
    first = recommend(run=shop, output=str(tmp_path / "first.csv"), k=1, users=["u07", "zoe"])
    again = recommend(run=shop, output=str(tmp_path / "again.csv"), k=1, users=str(first))
    assert again.read_text() == first.read_text()


@pytest.mark.parametrize("column", ["userID", "user"])
def test_ids_that_are_also_row_numbers_are_refused_in_the_column_of_the_data(column, tmp_path):
    names = Names("user", "shop", 4, pl.Series(["3", "2", "1", "ann"]), column=column)
    path = tmp_path / "users.csv"
    path.write_text(f"{column}\n3\n")
    with pytest.raises(DataError) as error:
        select("users", str(path), names)
    assert error.value.file == str(path)
    assert error.value.problem.startswith(f"the column {column} is ambiguous")
    assert error.value.hint.startswith("rename it to user_id (original ids) or user (")
    for text, expected in (("3\nann", [0, 3]), ("0\n3", [0, 3]), ("2\n1", None)):
        path.write_text(f"{column}\n{text}\n")
        if expected is None:
            with pytest.raises(DataError) as error:
                select("users", str(path), names)
            assert "row numbers" in error.value.problem
        else:
            assert select("users", str(path), names).tolist() == expected


@pytest.mark.parametrize(
    ("text", "line", "column", "found"),
    [
        ("user_id\nu01\nu0x\n", 3, "user_id", "u0x"),
        ("user\n0\n11\n", 3, "user", "11"),
        ("user_id\n\nu01\n\n\nu0x\n", 6, "user_id", "u0x"),
        ('user_id,x\nu01,"a\n', 2, None, "a stray quote"),
        ("user_id#x\nu01#a\n", None, None, "user_id#x"),
        ("name\nu01\n", None, None, "name"),
        ("user_id\n", None, None, ""),
    ],
)
def test_a_user_file_that_is_wrong_is_named_with_its_line(
    shop, tmp_path, text, line, column, found
):
    (tmp_path / "users.csv").write_text(text)
    with pytest.raises(DataError) as error:
        recommend(run=shop, output=str(tmp_path / "r.csv"), k=1, users=str(tmp_path / "users.csv"))
    assert error.value.file.endswith("users.csv")
    assert (error.value.line, error.value.column) == (line, column)
    assert (error.value.found or "").startswith(found)
    assert error.value.hint
    assert [file.name for file in tmp_path.iterdir()] == ["users.csv"]


def test_a_user_file_that_is_not_there_is_named(shop, tmp_path):
    path = str(tmp_path / "users.csv")
    with pytest.raises(SettingError) as error:
        recommend(run=shop, output=str(tmp_path / "r.csv"), users=path, k=1)
    assert (error.value.setting, error.value.value) == ("users", path)


def test_a_text_that_is_both_a_file_and_a_user_is_refused(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "u07").write_text("user_id\nzoe\n")
    with pytest.raises(SettingError) as error:
        recommend(run=shop, output="r.csv", users="u07")
    assert (error.value.setting, error.value.value) == ("users", "u07")
    assert error.value.hint == "use users=[u07] for the id, or users=./u07 for the file"
    for users, expected in ((["u07"], "u07"), ("./u07", "zoe")):
        lists = recommend(run=shop, output="r.csv", k=1, users=users)
        assert pl.read_csv(lists)["user_id"].to_list() == [expected]


# Chosen items


def test_nothing_is_recommended_that_a_user_has_anywhere(shop, finished, tmp_path):
    for folder in (shop, finished):
        path = recommend(run=folder, output=str(tmp_path / "r.parquet"), seen="all", k=100)
        corpus = open_run(folder).corpus
        have = {
            pair
            for part in (corpus.train, corpus.val, corpus.test)
            for pair in zip(part.user.tolist(), part.item.tolist(), strict=True)
        }
        listed = {*pl.read_parquet(path).select("user", "item").iter_rows()}
        assert not listed & have
        assert len(listed) + len(have) == corpus.n_users * corpus.n_items


def test_warm_items_that_are_held_out_are_seen_too(content):
    corpus = open_run(content[0]).corpus
    masked = masked_interactions(corpus, "all")
    parts = (corpus.train, corpus.val, corpus.test, corpus.warm)
    assert len(corpus.warm) > 0
    assert len(masked) == sum(map(len, parts))


def test_what_filters_removed_is_seen_too(content):
    corpus = open_run(content[0]).corpus
    removed = Interactions(torch.tensor([0, 1]), torch.tensor([2, 3]))
    masked = masked_interactions(replace(corpus, removed=removed), "all")
    assert {(0, 2), (1, 3)} <= {*zip(masked.user.tolist(), masked.item.tolist(), strict=True)}
    assert len(masked_interactions(replace(corpus, removed=removed), "train+val")) == len(
        corpus.train
    ) + len(corpus.val)


def test_unknown_items_of_a_table_are_excluded_with_a_warning(shop, tmp_path, caplog):
    (tmp_path / "sold.csv").write_text("item_id\ni03\ngone\n")
    output = str(tmp_path / "r.csv")
    path = recommend(run=shop, output=output, seen="none", exclude=str(tmp_path / "sold.csv"))
    assert "i03" not in {*pl.read_csv(path)["item_id"]}
    assert (
        "1 of 2 rows have an unknown item of shop and are skipped, for example gone" in caplog.text
    )
    with pytest.raises(DataError) as error:
        recommend(run=shop, output=output, only=str(tmp_path / "sold.csv"))
    assert (error.value.line, error.value.column, error.value.found) == (3, "item_id", "gone")
    assert error.value.expected == "an item_id of shop"
    (tmp_path / "other.csv").write_text("item_id\ngone\n")  # no row is known: another table
    with pytest.raises(DataError) as error:
        recommend(run=shop, output=output, exclude=str(tmp_path / "other.csv"))
    assert (error.value.line, error.value.found) == (2, "gone")


def test_items_are_excluded_and_chosen_by_their_ids(shop, tmp_path):
    (tmp_path / "stock.csv").write_text("item_id\ni03\ni05\ni07\n")
    (tmp_path / "sold.csv").write_text("item\n5\n")
    for only, exclude, expected in (
        (["i03", "i05"], None, {"i03", "i05"}),
        (str(tmp_path / "stock.csv"), "i03", {"i05", "i07"}),
        (tmp_path / "stock.csv", str(tmp_path / "sold.csv"), {"i03", "i07"}),
        (None, [f"i{n:02}" for n in range(10)], {"i10", "i11"}),
    ):
        path = recommend(
            run=shop, output=str(tmp_path / "r.csv"), seen="none", only=only, exclude=exclude
        )
        frame = pl.read_csv(path)
        assert {*frame["item_id"]} == expected
        assert {*frame["user"].value_counts()["count"]} == {len(expected)}


def test_excluded_items_leave_the_order_of_the_others(finished, tmp_path):
    whole = recommend(run=finished, output=str(tmp_path / "1.parquet"), k=ITEMS)
    rest = recommend(run=finished, output=str(tmp_path / "2.parquet"), k=ITEMS, exclude=[3, "7"])
    expected = pl.read_parquet(whole).filter(~pl.col("item").is_in([3, 7]))
    found = pl.read_parquet(rest)
    assert_frame_equal(found.drop("rank"), expected.drop("rank"))


@pytest.mark.parametrize(
    ("settings", "setting", "value", "said"),
    [
        ({"exclude": ["i0x"]}, "exclude", "i0x", "no such item in shop; did you mean i"),
        ({"only": "i99"}, "only", "i99", "no such file or item in shop"),
        ({"only": []}, "only", [], "at least one item"),
        ({"only": ["i01"], "exclude": ["i01"]}, "exclude", MISSING, "no item remains"),
        ({"exclude": "gone.csv"}, "exclude", "gone.csv", "there is no such file"),
        ({"exclude": "."}, "exclude", ".", "it is a folder"),
        ({"exclude": "[i01,i02"}, "exclude", "[i01,i02", "a bracket is not closed"),
    ],
)
def test_items_that_are_unknown_are_refused(shop, tmp_path, settings, setting, value, said):
    with pytest.raises(SettingError) as error:
        recommend(run=shop, output=str(tmp_path / "r.csv"), **settings)
    assert (error.value.setting, error.value.value) == (setting, value)
    assert (error.value.problem or error.value.expected).startswith(said)
    assert not any(tmp_path.iterdir())


def test_fewer_candidates_than_k_give_shorter_lists(shop, content, tmp_path):
    path = recommend(run=shop, output=str(tmp_path / "r.csv"), k=1000, seen="none")
    assert pl.read_csv(path)["rank"].max() == 12
    folder, arrivals = content
    path = recommend(run=folder, items=str(arrivals), output=str(tmp_path / "n.csv"), k=8)
    assert pl.read_csv(path)["rank"].max() == 7


# Titles, and lists without a file


@pytest.fixture(scope="module")
def titled(composed, tmp_path_factory):
    """A shop whose items have titles, of which one would be a formula, and one colours."""
    root = tmp_path_factory.mktemp("titled")
    (root / "books").mkdir()
    rows = [(f"u{user}", f"b{(user + step) % 8}") for user in range(6) for step in range(5)]
    table = pl.DataFrame(rows, schema=["userID", "itemID"], orient="row")
    table.write_csv(root / "books" / "books.csv")
    titles = ["=1+1", "\x1b[31mRed", *(f"Book {n}" for n in range(2, 8))]
    pl.DataFrame({"itemID": [f"b{n}" for n in range(8)], "title": titles}).write_csv(
        root / "books" / "items.csv"
    )
    folder = root / "run"
    words = ("model=most_pop", "data=folder", "data.name=books", f"data.root={root}", *TINY)
    run(composed(*words, *CUTOFFS, f"run_dir={folder}"), [])
    return folder


def test_titles_are_a_column(titled, tmp_path):
    path = recommend(run=titled, output=str(tmp_path / "r.parquet"), seen="none")
    frame = pl.read_parquet(path)
    assert frame.columns[-3:] == ["user_id", "item_id", "title"]
    known = {"b0": "=1+1", "b1": "[31mRed"}
    expected = [known.get(item, f"Book {item[1:]}") for item in frame["item_id"]]
    assert frame["title"].to_list() == expected


def test_the_column_of_titles_may_be_named_after_training(composed, tmp_path, in_process):
    (tmp_path / "books").mkdir()
    rows = [(f"u{user}", f"b{(user + step) % 8}") for user in range(6) for step in range(5)]
    table = pl.DataFrame(rows, schema=["userID", "itemID"], orient="row")
    table.write_csv(tmp_path / "books" / "books.csv")
    titles = pl.DataFrame({"itemID": [f"b{n}" for n in range(8)]})
    titles = titles.with_columns(("Buch " + pl.col("itemID")).alias("Titel"))
    titles.write_csv(tmp_path / "books" / "items.csv")
    words = ("model=ease", "data=folder", "data.name=books", f"data.root={tmp_path}", *TINY)
    run(composed(*words, *CUTOFFS, f"run_dir={tmp_path / 'run'}"), [])
    path = recommend(run=tmp_path / "run", output=str(tmp_path / "r.csv"))
    assert "title" not in pl.read_csv(path).columns
    named = (f"run={tmp_path / 'run'}", f"output={tmp_path / 'r.csv'}", "data.columns.title=Titel")
    assert in_process(module.main, *named) is None
    frame = pl.read_csv(path)
    assert frame["title"].equals("Buch " + frame["item_id"])
    assert in_process(similar.main, *named) is None
    frame = pl.read_csv(path)
    assert frame["similar_title"].equals("Buch " + frame["similar_id"])
    error = in_process(module.main, *named[:2], "data.columns.title=Title")
    assert error.startswith("error: books/items.csv: found Titel, itemID, expected a column Title;")
    assert "data.columns.title=Titel" in error


@pytest.mark.parametrize("columns", ["{title: 7}", "{title: [a]}", "7"])
def test_a_column_of_titles_is_text(finished, in_process, columns):
    error = in_process(module.main, f"run={finished}", f"data={{columns: {columns}}}")
    assert error.startswith("error: data.columns")


def test_planted_data_have_no_titles(finished, in_process):
    error = in_process(module.main, f"run={finished}", "data.columns.title=name")
    assert error.startswith("error: data.columns.title=name: PlantedData reads no folder")


def test_no_title_is_a_formula_in_a_spreadsheet(titled, tmp_path):
    path = recommend(run=titled, output=str(tmp_path / "r.csv"), seen="none", only=["b0"])
    assert {*pl.read_csv(path)["title"]} == {"'=1+1"}


def test_without_output_a_few_lists_are_printed(titled, caplog):
    with caplog.at_level(logging.INFO):
        assert recommend(run=titled, k=2, seen="none") is None
    said = caplog.text
    lines = [line.split() for line in said.splitlines()]
    assert [line[0] for line in lines if line and line[0] in {f"u{n}" for n in range(6)}] == [
        *("u0", "u0", "u1", "u1", "u2", "u2")
    ]
    assert "3 of 6 users" in said
    assert "output=" in said


def test_the_lists_of_chosen_users_are_printed_with_titles_and_nothing_for_the_terminal(
    titled, caplog
):
    with caplog.at_level(logging.INFO):
        recommend(run=titled, users=["u5", "u4"], only=["b1", "b2"], seen="none")
    assert "\x1b" not in caplog.text
    rows = [line.split() for line in caplog.text.splitlines() if " b" in line]
    assert {row[0] for row in rows} == {"u5", "u4"}
    assert len(rows) == 4
    assert "Book 2" in caplog.text
    assert "[31mRed" in caplog.text


# Mistakes and misfortunes


@pytest.mark.parametrize(
    ("name", "value"), [("output", "r.txt"), ("output", "no/r.csv"), ("k", 0), ("block", 0)]
)
def test_a_setting_that_cannot_be_is_named(finished, tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError) as error:
        recommend(**{"run": finished, "output": "r.csv", name: value})
    assert (error.value.setting, error.value.value) == (name, value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [RuntimeError, MisconfigurationException])
def test_an_accelerator_that_is_not_there_is_named(finished, tmp_path, monkeypatch, kind):
    def fabric(**settings):
        raise kind(f"no {settings['accelerator']} here")

    monkeypatch.setattr(mmrec.training.open_run, "Fabric", fabric)
    with pytest.raises(SettingError) as error:
        recommend(run=finished, output=str(tmp_path / "r.csv"), accelerator="gpu")
    assert (error.value.setting, error.value.value) == ("accelerator", "gpu")
    assert error.value.problem == "no gpu here"
    assert not any(tmp_path.iterdir())


def test_a_score_that_is_not_a_number_is_an_error_and_no_file(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    path = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["node.weight"][40] = np.nan
    torch.save(checkpoint, path)
    said = "the score of user 40 for item 0 is nan; the model has diverged"
    with pytest.raises(NonFiniteScores, match=said):
        recommend(run=folder, output=str(tmp_path / "r.csv"), block=16)
    assert [file.name for file in tmp_path.iterdir()] == ["copy"]


def test_an_interruption_leaves_the_former_file_and_nothing_else(shop, tmp_path, monkeypatch):
    path = tmp_path / "r.csv"
    path.write_text("former")
    whole = module.ranked_lists

    def broken(*args):
        yield next(whole(*args))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "ranked_lists", broken)
    with pytest.raises(KeyboardInterrupt):
        recommend(run=shop, output=str(path), k=1, block=2)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("r.csv", "former")]


def test_the_command_writes_the_file(shop, tmp_path):
    words = [f"run={shop}", "output=r.jsonl", "k=3", "accelerator=cpu"]
    line = [sys.executable, "-m", "mmrec.recommend", *words]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "users: 11, list length: up to 3, file: r.jsonl" in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["r.jsonl"]
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 33


def test_an_id_is_not_a_formula_in_a_spreadsheet(shop, tmp_path, monkeypatch):
    opened = open_run(shop)
    names = pl.Series(["=1+1", "@x", "-5", *opened.corpus.item_ids[3:]])
    opened.data.corpus = replace(opened.corpus, item_ids=names)
    monkeypatch.setattr(mmrec.training.open_run, "open_run", lambda *_, **__: opened)
    asked = {"run": shop, "seen": "none", "k": 12, "accelerator": "cpu"}
    recommend(output=str(tmp_path / "r.csv"), **asked)
    recommend(output=str(tmp_path / "r.parquet"), **asked)
    assert {"'=1+1", "'@x", "-5"} < {*pl.read_csv(tmp_path / "r.csv")["item_id"]}
    assert {"=1+1", "@x", "-5"} < {*pl.read_parquet(tmp_path / "r.parquet")["item_id"]}


@pytest.mark.parametrize("filtered", [True, False])
def test_an_unknown_name_may_have_been_filtered(filtered):
    names = Names("user", "shop", 2, pl.Series(["K-001", "K-002"]), filtered=filtered)
    for name in ("K-003", "nobody"):
        with pytest.raises(SettingError) as error:
            select("users", [name], names)
        assert ("data.min_rating" in error.value.problem) == filtered
        assert ("did you mean K-00" in error.value.problem) == (name == "K-003")
