"""Packed sequences, and the loaders that make batches and queries of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrec.config.errors import SettingError
from mmrec.data import Corpus, History, Interactions, Queries, Triplets
from mmrec.data.batches import ranges
from mmrec.data.corpus import together
from mmrec.data.loaders import (
    EpochLoader,
    Histories,
    PairDataset,
    QueryLoader,
    SequenceDataset,
    queries_for,
)
from mmrec.data.sampling import EpochBatches, NegativeSampler

N_USERS, N_ITEMS = 5, 30
rows = st.lists(
    st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1), st.integers(0, 6)),
    max_size=40,
)


def interactions(triples):
    user, item, time = zip(*triples, strict=True) if triples else ((), (), ())
    return Interactions(*(torch.tensor(x, dtype=torch.int64) for x in (user, item, time)))


def sequences(triples):
    """Items of each user in order of time, by sorting a list; equal times keep their order."""
    found = [[] for _ in range(N_USERS)]
    for user, item, _ in sorted(triples, key=lambda row: row[2]):
        found[user].append(item)
    return found


def unpacked(history):
    return [part.tolist() for part in torch.split(history.item, history.length.tolist())]


@given(st.lists(st.tuples(st.integers(-3, 9), st.integers(0, 4)), max_size=8))
def test_ranges_enumerate_as_a_loop_does(pairs):
    begin, length = (torch.tensor([p[n] for p in pairs], dtype=torch.int64) for n in (0, 1))
    row, value = ranges(begin, length)
    expected = [(b, x) for b, (first, n) in enumerate(pairs) for x in range(first, first + n)]
    assert list(zip(row.tolist(), value.tolist(), strict=True)) == expected


@given(rows)
def test_interactions_by_user_are_in_order_of_time_and_then_of_rows(triples):
    grouped = interactions(triples).by_user(N_USERS)
    found = [
        grouped.item[first:last].tolist()
        for first, last in zip(grouped.start[:-1], grouped.start[1:], strict=True)
    ]
    assert found == sequences(triples)
    assert len(grouped.start) == N_USERS + 1
    times = [grouped.time[a:b] for a, b in zip(grouped.start[:-1], grouped.start[1:], strict=True)]
    assert all((t.diff() >= 0).all() for t in times)


def test_interactions_without_time_keep_their_order():
    grouped = Interactions(torch.tensor([1, 0, 1]), torch.tensor([7, 8, 2])).by_user(2)
    assert grouped.item.tolist() == [8, 7, 2]
    assert grouped.time is None


@given(rows, st.integers(1, 4))
def test_histories_are_the_latest_items(triples, longest):
    histories = Histories(interactions(triples).by_user(N_USERS), longest)
    users = torch.tensor([3, 0, 3])
    known = sequences(triples)
    history = histories(users)
    assert unpacked(history) == [known[user][-longest:] for user in users.tolist()]
    assert len(history.time) == len(history.item)


@given(rows, st.integers(1, 4), st.sampled_from(["causal", "prefix"]))
def test_samples_are_those_of_a_loop(triples, longest, samples):
    expected = []
    for user, items in enumerate(sequences(triples)):
        for end in range(1, len(items)):
            begin = max(0, end - longest)
            expected.append((user, items[begin:end], [items[end]]))
        if samples == "causal" and len(items) > 1:
            cut = items[-longest - 1 :]
            expected = [sample for sample in expected if sample[0] != user]
            expected.append((user, cut[:-1], cut[1:]))
    grouped = interactions(triples).by_user(N_USERS)
    if not expected:
        with pytest.raises(SettingError):
            SequenceDataset(grouped, max_length=longest, samples=samples)
        return
    dataset = SequenceDataset(grouped, max_length=longest, samples=samples)
    batch = dataset.batch(torch.arange(len(dataset)), torch.Generator())
    targets = dict.fromkeys(range(len(dataset)), ())
    of = torch.arange(len(dataset)).repeat_interleave(batch.history.length)
    for place, target in zip(batch.position.tolist(), batch.target.tolist(), strict=True):
        targets[int(of[place])] += (target,)
    found = [
        (user, items, list(targets[row]))
        for row, (user, items) in enumerate(
            zip(batch.user.tolist(), unpacked(batch.history), strict=True)
        )
    ]
    assert sorted(found) == sorted(expected)
    assert batch.negative.shape == (len(batch.target), 0)


@pytest.mark.parametrize("samples", ["causal", "prefix"])
def test_negatives_of_a_target_are_items_that_its_user_lacks(samples):
    train = interactions([(u, (7 * u + n) % N_ITEMS, n) for u in range(N_USERS) for n in range(9)])
    sampler = NegativeSampler(train, N_USERS, N_ITEMS)
    dataset = SequenceDataset(
        train.by_user(N_USERS), max_length=4, samples=samples, sampler=sampler, negatives=6
    )
    batch = dataset.batch(torch.arange(len(dataset)), torch.Generator().manual_seed(0))
    of = torch.arange(len(dataset)).repeat_interleave(batch.history.length)
    has = {(u, i) for u, i in zip(train.user.tolist(), train.item.tolist(), strict=True)}
    for place, negatives in zip(batch.position.tolist(), batch.negative.tolist(), strict=True):
        user = int(batch.user[of[place]])
        assert len(negatives) == 6
        assert not any((user, item) in has for item in negatives)


def test_an_epoch_of_pairs_holds_each_once():
    train = interactions([(n % N_USERS, n % N_ITEMS, n) for n in range(23)])
    batches = list(EpochLoader(PairDataset(train), EpochBatches(23, 5, seed=0)))
    pairs = [(u, i) for b in batches for u, i in zip(b.user.tolist(), b.item.tolist(), strict=True)]
    assert sorted(pairs) == sorted(zip(train.user.tolist(), train.item.tolist(), strict=True))


@dataclass
class Reader:
    needs_history: bool
    batch_type: type = Triplets
    reads_negatives: bool = True
    max_length: int = 3
    samples: str = "causal"
    test_history: str = "train+val"


@pytest.fixture
def corpus():
    def part(first, count):
        return interactions(
            [(u, (5 * u + first + n) % N_ITEMS, first + n) for u in range(4) for n in range(count)]
        )

    return Corpus(
        name="small",
        n_users=N_USERS,
        n_items=N_ITEMS,
        train=part(0, 3),
        val=part(3, 1),
        test=part(4, 1),
        split="given",
        fingerprint="f" * 64,
    )


@pytest.mark.parametrize(
    ("known", "expected"), [("train", [5, 6, 7]), ("train+val", [6, 7, 8]), ("all", [7, 8, 9])]
)
def test_queries_hold_the_latest_of_the_parts_that_are_known(corpus, known, expected):
    users = torch.tensor([1, 4])
    (queries,) = queries_for(Reader(needs_history=True), corpus, users, 10, known)
    assert queries.user.tolist() == [1, 4]
    assert unpacked(queries.history) == [expected, []]
    (bare,) = queries_for(Reader(needs_history=False), corpus, users, 10, known)
    assert bare.history is None


def test_a_query_without_a_history_says_so():
    with pytest.raises(ValueError, match="histories"):
        Queries(torch.tensor([0])).require_history()


def test_queries_come_in_blocks():
    blocks = list(QueryLoader(torch.arange(7), 3))
    assert [block.user.tolist() for block in blocks] == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_last_place_of_each_sequence():
    history = History(torch.arange(5), torch.tensor([2, 0, 3]))
    assert history.last().tolist() == [1, 1, 4]


def test_joined_interactions_have_times_if_all_parts_have_them():
    timed = interactions([(0, 1, 5)])
    untimed = Interactions(torch.tensor([2]), torch.tensor([3]))
    assert together(timed, timed).time.tolist() == [5, 5]
    both = together(timed, untimed)
    assert (both.user.tolist(), both.item.tolist(), both.time) == ([0, 2], [1, 3], None)
