"""Filters: which lines count, what is logged, and which columns should have been used."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from mmrec.config.errors import MISSING, DataError, SettingError
from mmrec.data.folder import Columns, read_folder

LINES = """user,item,stars,event,when
ann,a,5,buy,1
ann,b,1,view,2
bob,a,4,view,3
bob,c,3,buy,4
cat,b,4.5,cart,5
cat,,,search,6
"""
COLUMNS = Columns(user="user", item="item", time="when")
RATED = Columns(user="user", item="item", time="when", rating="stars")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "toys"
    folder.mkdir()
    (folder / "toys.csv").write_text(LINES)
    return tmp_path


def pairs(source):
    users, items = source.user_ids.to_list(), source.item_ids.to_list()
    data = source.interactions
    return {(users[u], items[i]) for u, i in zip(data.user, data.item, strict=True)}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"event": "buy"}, {("ann", "a"), ("bob", "c")}),
        ({"event": ["buy", "cart"]}, {("ann", "a"), ("bob", "c"), ("cat", "b")}),
        ({"event": "view", "user": "bob"}, {("bob", "a")}),
        ({"stars": [5, 1]}, {("ann", "a"), ("ann", "b")}),
        ({"stars": 4.5}, {("cat", "b")}),
    ],
)
def test_lines_with_an_accepted_value_count(root, where, expected):
    source = read_folder(root, "toys", columns=COLUMNS, where=where)
    assert pairs(source) == expected
    assert (source.n_users, source.n_items) == (
        len({user for user, _ in expected}),
        len({item for _, item in expected}),
    )


def test_an_empty_cell_and_words_of_yaml_can_be_accepted(root):
    path = root / "toys" / "toys.csv"
    path.write_text("user,item,gift\nann,a,True\nbob,b,\nbob,c,false\n")
    columns = Columns(user="user", item="item")
    for accepted, item in ((None, "b"), (True, "a"), (False, "c")):
        source = read_folder(root, "toys", columns=columns, where={"gift": accepted})
        assert source.item_ids.to_list() == [item]


def test_a_filtered_line_may_be_incomplete_and_the_others_keep_their_numbers(root):
    with pytest.raises(DataError) as error:
        read_folder(root, "toys", columns=COLUMNS)
    assert (error.value.line, error.value.column, error.value.found) == (7, "item", "empty")
    path = root / "toys" / "toys.csv"
    path.write_text(LINES.replace("c,3,buy,4", "c,3,buy,noon"))
    with pytest.raises(DataError) as error:
        read_folder(root, "toys", columns=COLUMNS, where={"event": "buy"})
    assert (error.value.line, error.value.column, error.value.found) == (5, "when", "noon")


@pytest.mark.parametrize(
    ("where", "column", "value", "hint"),
    [
        ({"evnt": "buy"}, "evnt", MISSING, "the nearest are event"),
        ({"event": "by"}, "event", "by", "the nearest are buy"),
        ({"event": ["buy", "gift"]}, "event", "gift", "the nearest are"),
        ({"event": "buy", "user": "cat"}, "user", "cat", "correct the filter"),
        ({"event": []}, "event", [], "give a value"),
    ],
)
def test_a_filter_that_fits_nothing_names_the_setting_and_what_is_there(
    root, where, column, value, hint
):
    with pytest.raises(SettingError) as error:
        read_folder(root, "toys", columns=COLUMNS, where=where)
    assert (error.value.setting, error.value.value) == (f"data.where.{column}", value)
    assert error.value.hint.startswith(hint)


BOUGHT = {"event": ["buy", "view", "cart"]}


def test_low_ratings_are_removed(root):
    source = read_folder(root, "toys", columns=RATED, where=BOUGHT, min_rating=4)
    assert pairs(source) == {("ann", "a"), ("bob", "a"), ("cat", "b")}


def test_removed_interactions_of_known_users_and_items_are_kept_apart(root):
    source = read_folder(root, "toys", columns=RATED, where=BOUGHT, min_rating=4)
    removed = zip(source.removed.user.tolist(), source.removed.item.tolist(), strict=True)
    # c has no interaction left, and the search of cat names no item.
    assert {(source.user_ids[u], source.item_ids[i]) for u, i in removed} == {("ann", "b")}
    core = read_folder(root, "toys", columns=RATED, where=BOUGHT, min_rating=4, k_core=1)
    assert len(core.removed) == 1
    everything = {"event": ["buy", "view", "cart", "search"]}
    (root / "toys/toys.csv").write_text(LINES.replace("cat,,,", "cat,a,,"))
    assert read_folder(root, "toys", columns=COLUMNS, where=everything).removed is None


@pytest.mark.parametrize(
    ("columns", "min_rating", "setting"),
    [
        (RATED, None, "data.columns.rating"),
        (RATED, float("nan"), "data.min_rating"),
        (RATED, float("inf"), "data.min_rating"),
    ],
)
def test_a_threshold_that_cannot_work_names_its_setting(root, columns, min_rating, setting):
    with pytest.raises(SettingError) as error:
        read_folder(root, "toys", columns=columns, where=BOUGHT, min_rating=min_rating)
    assert error.value.setting == setting


@pytest.mark.parametrize(
    ("columns", "min_rating", "hint"),
    [(COLUMNS, 4, "set data.columns.rating=stars"), (RATED, 6, "lower data.min_rating=6")],
)
def test_a_threshold_that_the_data_do_not_fit_says_what_to_set(root, columns, min_rating, hint):
    with pytest.raises(DataError) as error:
        read_folder(root, "toys", columns=columns, where=BOUGHT, min_rating=min_rating)
    assert (error.value.file, error.value.hint) == ("toys/toys.csv", hint)


@pytest.mark.parametrize("bad", ["five", "", "nan", "inf"])
def test_a_rating_that_is_no_number_is_named_by_line(root, bad):
    path = root / "toys" / "toys.csv"
    path.write_text(LINES.replace("c,3,buy,4", f"c,{bad},buy,4"))
    with pytest.raises(DataError) as error:
        read_folder(root, "toys", columns=RATED, where=BOUGHT, min_rating=4)
    place = (error.value.file, error.value.line, error.value.column)
    assert place == ("toys/toys.csv", 5, "stars")
    assert error.value.expected == "a number"


def test_each_filter_says_what_it_removed(root, caplog):
    caplog.set_level("INFO")
    read_folder(root, "toys", columns=RATED, where=BOUGHT, min_rating=4)
    assert caplog.messages == [
        "toys: data.where.event=[buy,view,cart] removed 1 of 6 interactions, 0 of 3 users and 0 of "
        "3 items",
        "toys: data.min_rating=4 removed 2 of 5 interactions, 0 of 3 users and 1 of 3 items",
    ]


def test_a_core_says_what_it_removed(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "toys"
    folder.mkdir()
    rows = [(user, item) for user in range(2) for item in range(2)] + [(2, 0), (0, 2)]
    lines = [f"{user},{item}" for user, item in rows]
    (folder / "toys.csv").write_text("\n".join(["userID,itemID", *lines]) + "\n")
    assert len(read_folder(tmp_path, "toys", k_core=2).interactions) == 4
    assert caplog.messages == [
        "toys: data.k_core=2 removed 2 of 6 interactions, 1 of 3 users and 1 of 3 items"
    ]


def test_a_core_counts_a_repeated_pair_once(tmp_path):
    folder = tmp_path / "toys"
    folder.mkdir()
    rows = [("ann", "a"), ("ann", "b"), ("bob", "a"), ("bob", "b"), *[("cat", "a")] * 5]
    lines = ["userID,itemID", *(",".join(row) for row in rows)]
    (folder / "toys.csv").write_text("\n".join(lines) + "\n")
    core = read_folder(tmp_path, "toys", k_core=2)
    assert core.user_ids.to_list() == ["ann", "bob"]
    assert pairs(core) == {*rows[:4]}


@pytest.mark.parametrize(
    ("column", "values", "setting"),
    [
        ("rating", "54321", "data.columns.rating=rating data.min_rating=3"),
        ("Stars:float", "54321", "data.columns.rating=Stars data.min_rating=3"),
        ("playCount", "19181", "data.columns.rating=playCount data.min_rating=1"),
        ("event_type", ["buy", "view", "view", "cart", "view"], "+data.where.event_type=view"),
        ("behavior", "abbbc", "+data.where.behavior=b"),
        ("title", "abcde", None),
        ("event_time", "54321", None),
        ("product_type", "abcde", None),
        ("rating", "11111", None),  # all alike
    ],
)
def test_a_column_that_tells_likes_apart_and_is_not_used_is_named(
    tmp_path, caplog, column, values, setting
):
    folder = tmp_path / "toys"
    folder.mkdir()
    lines = [f"{place % 2},{place},{value}" for place, value in enumerate(values)]
    (folder / "toys.csv").write_text("\n".join([f"userID,itemID,{column}", *lines]) + "\n")
    read_folder(tmp_path, "toys")
    assert len(caplog.messages) == (setting is not None)
    if setting:
        assert setting in caplog.text
        assert f"column {column.split(':')[0]} is not used" in caplog.text
        caplog.clear()
        name = column.split(":")[0]
        if setting.startswith("+"):
            read_folder(tmp_path, "toys", where={name: values[1]})
        else:
            read_folder(tmp_path, "toys", columns=Columns(rating=name), min_rating=2)
        assert not caplog.text


@pytest.mark.parametrize(
    "values", [[b"a", b"\xff"], [timedelta(1), timedelta(2)], [[1], [2]], [{"a": 1}, {"a": 2}]]
)
def test_a_column_without_plain_values_only_matters_where_a_filter_needs_it(
    tmp_path, caplog, values
):
    folder = tmp_path / "toys"
    folder.mkdir()
    table = pl.DataFrame({"userID": [0, 1], "itemID": [0, 1], "rating": values})
    table.write_parquet(folder / "toys.parquet")
    assert len(read_folder(tmp_path, "toys").interactions) == 2
    assert not caplog.text
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys", where={"rating": "1"})
    assert (error.value.file, error.value.column) == ("toys/toys.parquet", "rating")


def test_filters_change_the_fingerprint(root):
    read = [
        read_folder(root, "toys", columns=RATED, where=BOUGHT, min_rating=4),
        read_folder(root, "toys", columns=RATED, where=BOUGHT, min_rating=3),
        read_folder(root, "toys", columns=RATED, where={"event": ["buy", "cart"]}, min_rating=3),
        read_folder(root, "toys", columns=COLUMNS, where=BOUGHT),
    ]
    assert len({source.fingerprint for source in read}) == 4
