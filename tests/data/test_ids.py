"""Ids: a file means the same whichever of its lines are there, or it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmrec.config.errors import DataError, SettingError
from mmrec.data.corpus import Source
from mmrec.data.folder import Columns, read_folder

N = 6  # items


def write(root: Path, items: list[object], *, features: int = N, users: list[object] | None = None):
    """A data set `toys`: one line an item, with users 0, 1, 2 in turn."""
    folder = root / "toys"
    folder.mkdir(exist_ok=True)
    users = users or [place % 3 for place in range(len(items))]
    lines = [f"{user}\t{item}" for user, item in zip(users, items, strict=True)]
    (folder / "toys.inter").write_text("\n".join(["userID\titemID", *lines]) + "\n")
    if features:
        np.save(folder / "image_feat.npy", np.ones((features, 2), dtype="float32"))
    return folder


def mapping(folder: Path, names: list[object], key: str = "itemID") -> None:
    lines = [f"{row},{name}" for row, name in enumerate(names)]
    name = f"{key[0]}_id_mapping.csv"
    (folder / name).write_text("\n".join([f"{key},original_id", *lines]) + "\n")


def items_of(source: Source) -> list[int]:
    return source.interactions.item.tolist()


FROM_ONE = [row + 1 for row in range(N)]  # the original id of row 0 is 1


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, N), min_size=1, max_size=8, unique=True))
def test_numbers_that_a_mapping_lists_never_change_their_meaning(tmp_path, ids):
    mapping(write(tmp_path, ids), FROM_ONE)
    as_rows, as_names = N not in ids, 0 not in ids
    if as_rows == as_names:  # both readings, or neither
        with pytest.raises(DataError) as error:
            read_folder(tmp_path, "toys")
        assert error.value.file == "toys/toys.inter"
    else:
        expected = ids if as_rows else [number - 1 for number in ids]
        assert items_of(read_folder(tmp_path, "toys")) == expected


def test_an_id_with_two_readings_names_both_and_the_setting(tmp_path):
    mapping(write(tmp_path, [5, 2, 3, 1]), FROM_ONE)
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys")
    assert error.value.file == "toys/toys.inter"
    assert "an original id in i_id_mapping.csv, for example 5" in error.value.problem
    assert "row 4" in error.value.problem
    assert "data.ids=rows or data.ids=names" in error.value.hint
    rows = read_folder(tmp_path, "toys", ids="rows")
    names = read_folder(tmp_path, "toys", ids="names")
    assert items_of(rows) == [5, 2, 3, 1]
    assert items_of(names) == [4, 1, 2, 0]
    assert rows.item_ids.to_list() == names.item_ids.to_list() == [str(n) for n in FROM_ONE]
    assert rows.fingerprint != names.fingerprint


def test_users_are_read_with_the_same_care(tmp_path):
    folder = write(tmp_path, [0, 1, 2, 3, 4, 5], users=[2, 2, 1, 1, 3, 3])
    mapping(folder, [1, 2, 3, 4], key="userID")
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys")
    assert error.value.problem.startswith("every userID is both ")
    assert "u_id_mapping.csv" in error.value.problem
    assert read_folder(tmp_path, "toys", ids="names").interactions.user.tolist() == [
        *(1, 1, 0, 0, 2, 2)
    ]
    mapping(folder, [0, 1, 2, 3], key="userID")  # both readings agree
    assert read_folder(tmp_path, "toys").interactions.user.tolist() == [2, 2, 1, 1, 3, 3]


@pytest.mark.parametrize("file", ["items.csv", "cold_items.csv"])
def test_further_files_are_read_with_the_same_care(tmp_path, file):
    folder = write(tmp_path, ["x", 1, 2])
    mapping(folder, [1, 2, 3, 4, 5, "x"])
    (folder / file).write_text("itemID,title,cold_label\n3,third,1\n4,fourth,2\n")
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys")
    assert error.value.file == f"toys/{file}"
    assert error.value.problem.startswith("every itemID is both")
    for choice, expected in (("rows", [3, 4]), ("names", [2, 3])):
        if choice == "rows":
            write(tmp_path, [5, 0, 1])
        source = read_folder(tmp_path, "toys", ids=choice)
        assert items_of(source) == [5, 0, 1]
        write(tmp_path, ["x", 1, 2])
        if file == "items.csv":
            found = [row for row, title in enumerate(source.item_titles) if title]
        else:
            found = source.cold.nonzero().squeeze(1).tolist()
        assert found == expected


@pytest.mark.parametrize(
    ("items", "listed", "features", "choice", "line", "said"),
    [
        ([1, 0, 5], None, N, "names", 3, ["1 to 6, ", "data.ids=names"]),
        ([1, "b"], None, 0, "rows", 3, ["data.ids=rows", "data.ids=names"]),
        (["a", "b"], ["b", "a"], 2, "rows", 2, ["row number", "data.ids=rows"]),
        ([0, 10], list("abcd"), 0, "rows", 3, ["a row number of 0..3"]),
        ([0, 10], list("abcd"), 4, "rows", 3, ["a row number of 0..3"]),
        ([3, 0], list("abcd"), 4, "names", 2, ["i_id_mapping.csv", "data.ids=rows"]),
    ],
)
def test_a_meaning_that_ids_do_not_have_is_refused(
    tmp_path, items, listed, features, choice, line, said
):
    folder = write(tmp_path, items, features=features)
    if listed:
        mapping(folder, listed)
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys", ids=choice)
    assert (error.value.line, error.value.column) == (line, "itemID")
    assert error.value.found == str(items[line - 2])
    for part in said:
        assert part in f"{error.value.expected}; {error.value.hint}"


def test_users_that_have_one_meaning_leave_the_choice_to_items(tmp_path):
    write(tmp_path, [1, 2, 6], users=["ann", "bob", "cat"])
    assert items_of(read_folder(tmp_path, "toys", ids="names")) == [0, 1, 5]
    folder = write(tmp_path, [1, 2, 3], users=["ann", "bob", "cat"])
    assert items_of(read_folder(tmp_path, "toys", ids="rows")) == [1, 2, 3]
    write(tmp_path, [1, 2, 3], users=[0, 1, 2])
    mapping(folder, ["ann", "bob", "cat"], key="userID")
    assert items_of(read_folder(tmp_path, "toys", ids="names")) == [0, 1, 2]


def test_a_name_among_row_numbers_and_a_typing_mistake_among_names_are_refused(tmp_path):
    folder = write(tmp_path, [0, 2, "x"])
    mapping(folder, ["x", "y", "z", "a", "b", "c"])
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys")
    assert (error.value.line, error.value.found) == (2, "0")
    assert error.value.expected == "an id that is known"
    write(tmp_path, ["x", "y", "zz"])
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys", ids="names")
    assert (error.value.line, error.value.found) == (4, "zz")
    assert "i_id_mapping.csv" in error.value.expected


@pytest.mark.parametrize("last", [N - 1, N])
def test_ids_from_one_beside_features_are_refused_until_they_are_explained(tmp_path, last):
    """Whether or not the last item has an interaction."""
    ids = [1, *range(3, last + 1)]
    write(tmp_path, ids)
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys")
    problem = f"itemID is 1 to {last} and image_feat.npy has 6 rows"
    assert error.value.problem.startswith(problem)
    assert "data.ids=rows or data.ids=names" in error.value.hint
    names = read_folder(tmp_path, "toys", ids="names")
    assert items_of(names) == [number - 1 for number in ids]
    assert names.item_ids.to_list() == FROM_ONE
    if last < N:
        rows = read_folder(tmp_path, "toys", ids="rows")
        assert items_of(rows) == ids
        assert rows.item_ids is None
    else:
        with pytest.raises(DataError) as error:
            read_folder(tmp_path, "toys", ids="rows")
        assert (error.value.column, error.value.found) == ("itemID", "6")
        assert error.value.expected.startswith("below 6")


def test_items_without_interactions_tell_that_ids_count_from_1(tmp_path, caplog):
    folder = write(tmp_path, [2, 3, 5])
    (folder / "items.csv").write_text("itemID\n" + "".join(f"{number}\n" for number in FROM_ONE))
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys")
    assert error.value.file.endswith("items.csv")
    assert error.value.problem.startswith("itemID is 1 to 6 and image_feat.npy has 6 rows")
    assert "data.ids=names" in error.value.hint
    (folder / "items.csv").write_text("itemID\n4\n6\n")  # some items only
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys")
    assert error.value.problem.startswith("itemID is 2 to 6 and ")
    assert items_of(read_folder(tmp_path, "toys", ids="names")) == [1, 2, 4]
    (folder / "items.csv").write_text("itemID\n0\n5\n")
    assert items_of(read_folder(tmp_path, "toys")) == [2, 3, 5]
    assert not caplog.text


def test_features_without_an_item_0_are_said_to_be_numbered_from_0(tmp_path, caplog):
    write(tmp_path, [2, 3, 4])
    assert items_of(read_folder(tmp_path, "toys")) == [2, 3, 4]
    assert "no itemID is 0" in caplog.text
    assert "data.ids=rows" in caplog.text
    caplog.clear()
    assert items_of(read_folder(tmp_path, "toys", ids="rows")) == [2, 3, 4]
    write(tmp_path, [0, 3, 4])
    assert items_of(read_folder(tmp_path, "toys")) == [0, 3, 4]
    assert not caplog.text


@pytest.mark.parametrize("ids", [[105, 9, 30], ["a", "b"]])
def test_ids_that_features_are_not_numbered_by_need_a_mapping(tmp_path, ids):
    folder = write(tmp_path, ids)
    for choice in (None, "rows", "names"):
        with pytest.raises(DataError) as error:
            read_folder(tmp_path, "toys", ids=choice)
        assert (error.value.line, error.value.found) == (2, str(ids[0]))
        assert "image_feat.npy" in error.value.expected
        hint = "list the ids in i_id_mapping.csv, with the columns itemID (row number, 0 to 5) and "
        assert error.value.hint.startswith(f"{hint}original_id")
        assert ("items.csv" in error.value.hint) == (ids[0] == "a")
    mapping(folder, [*ids, *range(1000, 1000 + N - len(ids))])
    assert items_of(read_folder(tmp_path, "toys")) == list(range(len(ids)))


def test_items_csv_lists_numeric_names_in_the_order_of_features(tmp_path):
    folder = write(tmp_path, [30, 10, 60])
    (folder / "items.csv").write_text("itemID\n10\n20\n30\n40\n50\n60\n")
    assert items_of(read_folder(tmp_path, "toys", ids="names")) == [2, 0, 5]


def test_without_features_ids_that_items_csv_lacks_are_added(tmp_path):
    folder = write(tmp_path, ["c", "a", "b"], features=0)
    (folder / "items.csv").write_text("itemID,title\nb,second\n")
    source = read_folder(tmp_path, "toys")
    assert source.item_ids.to_list() == ["b", "a", "c"]
    assert items_of(source) == [2, 1, 0]
    assert source.item_titles.to_list() == ["second", "", ""]


def test_numbers_without_features_keep_their_meaning_as_lines_go(tmp_path):
    for ids in ([0, 1, 2], [1, 2], [0, 2], [7, 3]):
        write(tmp_path, ids, features=0)
        for choice in (None, "names"):
            source = read_folder(tmp_path, "toys", ids=choice)
            names = range(source.n_items) if source.item_ids is None else source.item_ids
            assert [names[row] for row in items_of(source)] == ids
    assert read_folder(tmp_path, "toys", ids="rows").n_items == 8


def test_a_row_without_a_name_is_not_called_as_another(tmp_path):
    folder = write(tmp_path, [0, 1, 2])
    (folder / "i_id_mapping.csv").write_text("itemID,original_id\n0,1\n2,b\n3,c\n4,d\n5,e\n")
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys")
    assert error.value.file == "toys/i_id_mapping.csv"
    assert error.value.problem.startswith("row 1 has no original id, and 1 is")


@pytest.mark.parametrize("ids", [None, "rows"])
def test_a_row_number_that_leaves_almost_all_rows_empty_is_refused(tmp_path, ids):
    huge = 99_999_999_999
    folder = write(tmp_path, [0, 1, 2], features=0)
    mapping(folder, ["a", "b", "c"])
    path = folder / "i_id_mapping.csv"
    path.write_text(path.read_text().replace("2,c", f"{huge},c"))
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys", ids=ids)
    assert (error.value.file, error.value.line) == ("toys/i_id_mapping.csv", 4)
    assert error.value.found == str(huge)
    mapping(folder, ["a", "b", "c"])
    write(tmp_path, [0, 1, huge], features=0)
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys", ids=ids)
    assert error.value.file == "toys/toys.inter"
    assert str(huge) in (error.value.found or error.value.problem)


def test_sparse_numbers_without_a_list_are_names_unless_they_are_said_to_be_rows(tmp_path):
    write(tmp_path, [5, 99_999_999_999], features=0)
    assert read_folder(tmp_path, "toys").n_items == 2
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "toys", ids="rows")
    assert error.value.problem.startswith("the largest itemID is 99999999999")
    assert "data.ids=names" in error.value.hint


def test_items_csv_has_its_ids_categories_and_titles_under_the_configured_names(tmp_path):
    folder = write(tmp_path, ["a", "b"], features=0)
    table = (folder / "toys.inter").read_text().replace("itemID", "asin")
    (folder / "toys.inter").write_text(table)
    (folder / "items.csv").write_text('asin,name,tags\na,First,"x, y"\nb,Second,y\n')
    (folder / "cold_items.csv").write_text("asin,cold_label\nb,2\n")
    columns = Columns(item="asin", title="name", categories="tags")
    source = read_folder(tmp_path, "toys", columns=columns, category_separator=",")
    assert source.item_titles.to_list() == ["First", "Second"]
    assert source.categories.names == ("x", "y")
    assert source.categories.item.tolist() == [0, 0, 1]
    assert source.cold.tolist() == [0, 2]
    default = read_folder(tmp_path, "toys", columns=Columns(item="asin"))
    assert default.categories is None
    assert default.item_titles.to_list() == ["First", "Second"]  # a usual name is read by itself
    assert default.fingerprint != source.fingerprint


def test_a_column_of_items_csv_that_was_asked_for_must_be_there(tmp_path):
    folder = write(tmp_path, ["a", "b"], features=0)
    with pytest.raises(SettingError) as error:
        read_folder(tmp_path, "toys", columns=Columns(title="name"))
    assert (error.value.setting, error.value.value) == ("data.columns.title", "name")
    (folder / "items.csv").write_text("itemID,title\na,First\n")
    with pytest.raises(DataError) as missing:
        read_folder(tmp_path, "toys", columns=Columns(title="name"))
    assert (missing.value.file, missing.value.expected) == ("toys/items.csv", "a column name")
    assert "data.columns.title=title" in missing.value.hint


@pytest.mark.parametrize(("name", "value"), [("columns", None), ("category_separator", "")])
def test_settings_that_cannot_name_a_column_or_a_separator_are_refused(tmp_path, name, value):
    write(tmp_path, [0, 1, 2])
    with pytest.raises(SettingError) as error:
        read_folder(tmp_path, "toys", **{name: value})
    assert (error.value.setting, error.value.value) == (f"data.{name}", value)
