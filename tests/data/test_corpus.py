import dataclasses
import itertools
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.data.corpus import (
    Corpus,
    DataError,
    Interactions,
    Modality,
    TrainingView,
    content_hash,
)


def interactions(pairs, *, time=None):
    user, item = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return Interactions(user, item, time)


def modality(items=4, width=3, *, present=None):
    known = torch.ones(items, dtype=torch.bool) if present is None else torch.tensor(present)
    features = torch.arange(items * width, dtype=torch.float32).reshape(items, width)
    return Modality(features * known[:, None], known, "digest")


def corpus(**changes):
    parts = {
        "train": interactions([(0, 0), (0, 1), (2, 1)]),
        "val": interactions([(0, 2)]),
        "test": interactions([(2, 3), (2, 0)]),
        "modalities": {"image": modality(), "text": modality(width=5)},
    }
    return Corpus(
        name="toy",
        n_users=3,
        n_items=4,
        split="random_per_user(seed=0)",
        fingerprint="abc",
        **(parts | changes),
    )


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_an_empty_part_is_named_with_the_rule_and_a_remedy(part):
    with pytest.raises(DataError) as error:
        corpus(**{part: interactions([])})
    assert error.value.file == "toy"
    assert f"no {part} interaction" in error.value.problem
    assert error.value.problem.endswith("split=random_per_user(seed=0)")
    assert "data.split" in error.value.hint


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize(("pair", "last"), [((3, 0), 2), ((-1, 0), 2), ((0, 4), 3), ((0, -1), 3)])
def test_an_index_out_of_range_is_named(part, pair, last):
    with pytest.raises(DataError) as error:
        corpus(**{part: interactions([(0, 0), pair])})
    assert error.value.file == "toy"
    assert error.value.problem == f"an index of {part} lies outside 0..{last}"


def test_a_modality_has_a_row_for_each_item():
    with pytest.raises(DataError) as error:
        corpus(modalities={"image": modality(items=5)})
    assert error.value.problem == "modality image has 5 rows and a mask of 5"
    assert error.value.expected == "4, one for each item"


def test_the_presence_mask_has_a_row_for_each_item():
    short = dataclasses.replace(modality(), present=torch.ones(3, dtype=torch.bool))
    with pytest.raises(DataError) as error:
        corpus(modalities={"image": short})
    assert error.value.problem == "modality image has 4 rows and a mask of 3"


def test_a_corpus_is_a_line_to_read():
    assert repr(corpus(warm=interactions([(1, 1)]))) == (
        "Corpus(toy, random_per_user(seed=0), 3 users, 4 items, 3 train + 1 val + 2 test + 1 warm, "
        "image: 3, text: 5)"
    )


def test_a_corpus_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        corpus().n_users = 4


def test_counts_are_of_train_and_include_zeros():
    assert corpus().user_counts().tolist() == [2, 0, 1]
    assert corpus().item_counts().tolist() == [1, 2, 0, 0]


def test_a_card_is_plain():
    assert corpus().card() == {
        "name": "toy",
        "fingerprint": "abc",
        "users": 3,
        "items": 4,
        "train": 3,
        "val": 1,
        "test": 2,
        "modalities": {"image": 3, "text": 5},
        "without_content": 0,
        "split": "random_per_user(seed=0)",
    }


@pytest.mark.parametrize("rows", [torch.tensor([True, False, True]), torch.tensor([0, 2])])
def test_select_takes_rows_by_mask_or_index(rows):
    whole = interactions([(0, 0), (0, 1), (2, 1)], time=torch.tensor([5, 6, 7]))
    part = whole.select(rows)
    assert (part.user.tolist(), part.item.tolist()) == ([0, 2], [0, 1])
    assert part.time.tolist() == [5, 7]
    assert len(part) == 2


def test_select_keeps_the_order_of_indices():
    assert interactions([(0, 0), (0, 1), (2, 1)]).select(torch.tensor([2, 0])).user.tolist() == [
        2,
        0,
    ]


def test_pyg_has_the_same_nodes_edges_and_features():
    made = corpus(
        train=interactions([(0, 0), (0, 1), (2, 1)], time=torch.tensor([5, 6, 7])),
        modalities={"image": modality(present=[True, False, True, True])},
    )
    graph = made.to_pyg()
    assert graph.validate()
    assert (graph["user"].num_nodes, graph["item"].num_nodes) == (3, 4)
    for split in ("train", "val", "test"):
        part = getattr(made, split)
        user, item = graph["user", split, "item"].edge_index
        assert torch.equal(user, part.user)
        assert torch.equal(item, part.item)
    assert graph["user", "train", "item"].time.tolist() == [5, 6, 7]
    assert "time" not in graph["user", "val", "item"]
    assert torch.equal(graph["item"].image, made.modalities["image"].features)
    assert graph["item"].image_present.tolist() == [True, False, True, True]


BYTES = torch.arange(12, dtype=torch.int32)


def test_hashes_of_the_same_bytes_in_another_shape_type_or_cut_differ():
    contents = [
        [BYTES],
        [BYTES.reshape(3, 4)],
        [BYTES.reshape(4, 3)],
        [BYTES.view(torch.float32)],
        [BYTES.view(torch.int64)],
        [BYTES[:5], BYTES[5:]],
        [BYTES[:6], BYTES[6:]],
        [BYTES, BYTES[:0]],
        [BYTES, ""],
        ["ab", "c"],
        ["a", "bc"],
        ["abc"],
        ["c", "ab"],
        [],
    ]
    assert len({content_hash(parts) for parts in contents}) == len(contents)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=8), st.data())
def test_a_hash_changes_with_any_value_and_with_nothing_else(values, data):
    row = data.draw(st.integers(0, len(values) - 1))
    other = values.copy()
    other[row] += 1
    tensor = torch.tensor(values)
    assert content_hash([tensor]) == content_hash([torch.tensor(values)])
    assert content_hash([tensor]) != content_hash([torch.tensor(other)])


def test_a_hash_sees_values_and_not_how_they_lie_in_memory():
    strided = BYTES.reshape(3, 4).T
    assert content_hash([strided]) == content_hash([strided.contiguous()])
    assert content_hash([strided]) != content_hash([BYTES.reshape(4, 3)])


def test_a_hash_depends_on_the_order_of_parts():
    parts = [BYTES, BYTES + 1, "name"]
    assert len({content_hash(order) for order in itertools.permutations(parts)}) == 6


def test_the_training_view_has_all_but_what_is_held_out():
    whole = corpus(cold=torch.zeros(4, dtype=torch.int8))
    view = whole.train_view
    assert type(view) is TrainingView
    assert view.train_view is view
    held_out = {"val", "test", "cold", "warm", "removed", "filtered", "clock"}
    assert {f.name for f in fields(whole)} - {f.name for f in fields(view)} == held_out
    for each in fields(view):
        assert getattr(view, each.name) is getattr(whole, each.name)
    assert torch.equal(view.item_counts(), whole.item_counts())
    assert repr(view).startswith("TrainingView(toy, ")
    assert "3 train" in repr(view)
    assert "val" not in repr(view)
