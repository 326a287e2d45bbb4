"""Headers: a misspelt column is answered with the command that is right, before torch is there."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pytest

from mmrec.commands.run import main
from mmrec.config.errors import DataError, SettingError
from mmrec.tables.headers import BEGINNING, check_columns, check_data

DEFAULT = {"user": "userID", "item": "itemID", "time": "timestamp", "position": "position"}
DEFAULT |= {"label": "x_label", "rating": None, "categories": "categories"}


def refusal(header, kind=DataError, **options):
    with pytest.raises(kind) as error:
        check_columns("mine/mine.csv", header, DEFAULT | options.pop("columns", {}), **options)
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.parametrize(
    ("header", "settings"),
    [
        ("user_id item_id rating timestamp", "user=user_id data.columns.item=item_id"),
        ("userId movieId rating timestamp", "user=userId data.columns.item=movieId"),
        (
            "reviewerID asin overall unixReviewTime",
            "user=reviewerID data.columns.item=asin data.columns.time=unixReviewTime",
        ),
        ("uid:token sku:token date", "user=uid data.columns.item=sku data.columns.time=date"),
        ("userID product_id created_at", "item=product_id data.columns.time=created_at"),
        ("UserID ItemID Time", "user=UserID data.columns.item=ItemID data.columns.time=Time"),
        ("who bookId", "user=NAME data.columns.item=bookId"),
    ],
)
def test_all_missing_columns_are_named_at_once_with_likely_ones(header, settings):
    error = refusal(header.split())
    assert error.file == "mine/mine.csv"
    assert error.hint == f"set data.columns.{settings}"
    for name in {"userID", "itemID"} - {*header.split()}:
        assert name in error.expected


def test_names_that_a_shell_or_hydra_would_split_are_quoted():
    hint = refusal(["user id", "item id"]).hint
    assert hint == """set "data.columns.user='user id'" "data.columns.item='item id'\""""


def test_the_command_is_repeated_with_the_correction():
    words = ["data=folder", "data.name=my set", "data.columns.user=person"]
    assert refusal(["uid", "asin"], columns={"user": "person"}, words=words).hint == (
        "run: python -m mmrec.run data=folder 'data.name=my set' data.columns.user=uid "
        "data.columns.item=asin"
    )


def test_columns_that_were_asked_for_must_be_there_and_others_need_not():
    header = ["userID", "itemID", "date", "stars"]
    check_columns("mine", header, DEFAULT)
    columns = DEFAULT | {"time": "date:token", "rating": "stars"}
    check_columns("mine", header, columns, min_rating=4)
    wrong = refusal(header, columns={"rating": "rating", "label": "part"}, min_rating=4)
    assert wrong.expected == "columns part, rating"
    assert wrong.hint.endswith(" data.columns.label=NAME data.columns.rating=stars")


def test_a_threshold_and_its_column_need_each_other():
    header = ["userID", "itemID", "stars"]
    assert refusal(header, min_rating=4).hint == "set data.columns.rating=stars"
    error = refusal(header, SettingError, columns={"rating": "stars"})
    assert (error.setting, error.value) == ("data.columns.rating", "stars")
    both = refusal(["user", "item", "stars"], min_rating=4)
    assert both.hint.endswith("data.columns.item=item data.columns.rating=stars")


def test_users_and_items_are_two_columns():
    error = refusal(["id", "name"], SettingError, columns={"user": "id", "item": "id"})
    assert (error.setting, error.value) == ("data.columns.item", "id")
    assert "data.columns.user" in error.problem


@pytest.mark.parametrize(
    ("split", "header", "refused"),
    [
        ("leave_one_out", "userID itemID date", True),
        ("temporal", "userID itemID date", True),
        ("temporal", "userID itemID date position", True),
        ("leave_one_out", "userID itemID date position", False),
        ("temporal", "userID itemID timestamp date", False),
        ("random_per_user", "userID itemID date", False),
        (None, "userID itemID date", False),
    ],
)
def test_a_split_in_order_of_time_finds_the_time(split, header, refused):
    if refused:
        error = refusal(header.split(), split=split)
        assert error.expected == "a column timestamp"
        assert error.hint == "set data.columns.time=date"
    else:
        check_columns("mine", header.split(), DEFAULT, split=split)


def data(root, **options):
    config = {"_target_": "mmrec.data.FolderData", "name": "mine", "root": str(root)}
    return config | {"columns": DEFAULT, "interactions_file": None, "split": None} | options


@pytest.mark.parametrize("kind", ["csv", "tsv", "inter", "parquet"])
def test_the_header_of_each_kind_of_table_is_checked(tmp_path, kind):
    (tmp_path / "mine").mkdir()
    table = pl.DataFrame({"user_id": ["a"], "asin": ["b"]})
    path = tmp_path / "mine" / f"mine.{kind}"
    if kind == "parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="," if kind == "csv" else "\t")
    with pytest.raises(DataError) as error:
        check_data(data(tmp_path))
    assert (error.value.file, error.value.found) == (f"mine/mine.{kind}", "user_id, asin")
    assert error.value.expected == "columns userID, itemID"
    check_data(data(tmp_path, columns=DEFAULT | {"user": "user_id", "item": "asin"}))


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        (['{"userID": "a"}', "", '{"itemID": "b"}'], False),
        (['{"itemID": "b"}', '{"asin": "b"}'], True),
        (['{"asin": "b"}', "[1]"], False),  # the reader names the line
        (['{"asin": "b"}', "[" * 100_000], False),
        (['{"asin": "b"}'] * BEGINNING, False),  # keys of later lines are unknown
    ],
)
def test_any_line_of_json_can_have_a_column(tmp_path, lines, refused):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.jsonl").write_text("\n".join(lines))
    if refused:
        with pytest.raises(DataError) as error:
            check_data(data(tmp_path))
        assert (error.value.file, error.value.found) == ("mine/mine.jsonl", "itemID, asin")
        assert error.value.expected == "a column userID"
    else:
        check_data(data(tmp_path))


def test_a_missing_folder_or_file_is_named(tmp_path):
    def missing(name="mine"):
        with pytest.raises(DataError) as error:
            check_data(data(tmp_path) | {"name": name})
        return error.value

    folder = tmp_path / "mine"
    assert missing().file == str(tmp_path)
    assert "data.root" in missing().hint
    folder.mkdir()
    assert missing().file == str(folder)
    assert missing().expected.startswith("mine.csv, or ")
    assert "data.interactions_file" in missing().hint
    (folder / "items.csv").write_text("itemID")
    (folder / "ratings.csv").write_text("userID,itemID")
    assert missing().hint.startswith("set data.interactions_file=ratings.csv")
    (folder / "mine.csv").mkdir()
    assert missing().file == str(folder / "mine.csv")
    assert "data.name=mine" in missing("mines").hint


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe\x00", b'"a'])
def test_what_is_no_plain_table_is_left_to_the_reader(tmp_path, raw):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.csv").write_bytes(raw)
    check_data(data(tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        None,
        "text",
        {},
        {"_target_": "mmrec.data.PlantedData"},
        data(0, name=None),
        data(0, columns=None),
        data(0, columns={}),
        data(0, columns=DEFAULT | {"user": 3}),
        data(0) | {"root": 5},
        data(0, interactions_file=[]),
    ],
)
def test_a_configuration_that_is_invalid_is_left_to_its_own_check(config):
    check_data(config)


def test_the_command_says_it_and_leaves_no_folder(tmp_path, in_process):
    (tmp_path / "s" / "mine").mkdir(parents=True)
    (tmp_path / "s" / "mine" / "mine.csv").write_text("userId,movieId,rating\n1,2,3\n")
    words = ("data=folder", "data.name=mine", "data.root=s", "run_dir=run")
    message = in_process(main, *words)
    corrected = " ".join([*words, "data.columns.user=userId", "data.columns.item=movieId"])
    assert f"run: python -m mmrec.run {corrected}" in message
    assert not (tmp_path / "run").exists()


def test_the_check_imports_nothing_heavy():
    code = (
        "import sys, mmrec.tables.headers, mmrec.run\n"
        "print({'torch', 'lightning'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
