import logging
import math
from collections import Counter, defaultdict
from itertools import pairwise

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.config.errors import SettingError
from mmrec.data.corpus import TEST, TRAIN, VAL, WARM, DataError, Interactions, Source
from mmrec.data.splits import (
    hold_out_warm,
    item_cold,
    leave_one_out,
    official,
    random_per_user,
    split_corpus,
    temporal,
)

USERS, ITEMS = 6, 9
few = settings(max_examples=60, deadline=None)


def from_rows(rows):
    columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).unbind(1)
    return Interactions(*(column.contiguous() for column in columns))


@st.composite
def interactions(draw, *, unique=False):
    pair = st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1))
    pairs = draw(st.lists(pair, min_size=1, max_size=50, unique=unique))
    times = draw(st.lists(st.integers(0, 30), min_size=len(pairs), max_size=len(pairs)))
    return from_rows([(*pair, time) for pair, time in zip(pairs, times, strict=True)])


def one_user(n):
    return Interactions(torch.zeros(n, dtype=torch.int64), torch.arange(n))


def source(data, *, label=None, **given):
    return Source("toy", USERS, ITEMS, data, "fingerprint", label=label, **given)


def labels(*values):
    return torch.tensor(values, dtype=torch.int8)


def pairs(part):
    return list(zip(part.user.tolist(), part.item.tolist(), strict=True))


# random_per_user


@pytest.mark.parametrize(
    ("n", "train", "val", "test"),
    [
        (1, 1, 0, 0),
        (2, 2, 0, 0),
        (3, 1, 1, 1),
        (9, 7, 1, 1),
        (10, 8, 1, 1),
        (12, 10, 1, 1),
        (13, 10, 1, 2),
        (20, 16, 2, 2),
        (100, 80, 10, 10),
    ],
)
def test_a_user_of_n_interactions_gives_so_many_to_each_part(n, train, val, test):
    count = Counter(random_per_user(one_user(n), seed=3).tolist())
    assert (count[TRAIN], count[VAL], count[TEST]) == (train, val, test)


@few
@given(interactions(), st.integers(0, 5))
def test_random_counts_hold_for_each_user_apart(data, seed):
    label = random_per_user(data, seed=seed)
    for user in data.user.unique():
        alone = Counter(random_per_user(one_user(int((data.user == user).sum())), seed=0).tolist())
        assert Counter(label[data.user == user].tolist()) == alone


@few
@given(interactions(unique=True), st.randoms(use_true_random=False))
def test_random_labels_follow_the_pairs_and_not_their_order(data, random):
    order = torch.tensor(random.sample(range(len(data)), len(data)))
    shuffled = random_per_user(data.select(order), seed=1)
    assert torch.equal(shuffled, random_per_user(data, seed=1)[order])


def test_another_seed_holds_out_other_items():
    data = one_user(100)
    assert not torch.equal(random_per_user(data, seed=0), random_per_user(data, seed=1))


@pytest.mark.parametrize(("n", "held"), [(2, 0), (9, 2), (10, 2), (13, 2), (14, 2), (15, 3)])
def test_published_splits_round_a_fifth_down(n, held):
    count = Counter(random_per_user(one_user(n), seed=3, floor=True).tolist())
    assert (count[VAL], count[TEST]) == (held // 2, held - held // 2)


def test_every_item_of_a_user_is_held_out_equally_often():
    data = Interactions(torch.arange(4000).repeat_interleave(5), torch.arange(5).repeat(4000))
    label = random_per_user(data, seed=0).reshape(4000, 5)
    for part in (VAL, TEST):
        often = (label == part).float().mean(0)
        assert (often - 0.2).abs().max() < 0.03  # five standard errors


# leave_one_out


@few
@given(interactions())
def test_leave_one_out_agrees_with_a_loop(data):
    rows_of = defaultdict(list)
    for row, user in enumerate(data.user.tolist()):
        rows_of[user].append(row)
    expected = [TRAIN] * len(data)
    for rows in rows_of.values():
        if len(rows) >= 3:
            *_, before, last = sorted(rows, key=lambda row: int(data.time[row]))
            expected[before], expected[last] = VAL, TEST
    assert leave_one_out(data).tolist() == expected


@pytest.mark.parametrize(
    ("rule", "column"), [(leave_one_out, "timestamp or a position"), (temporal, "timestamp")]
)
def test_a_rule_by_time_says_which_columns_give_it(rule, column):
    with pytest.raises(SettingError) as error:
        rule(one_user(5))
    assert (error.value.setting, error.value.value) == ("data.split", rule.__name__)
    assert error.value.hint.startswith(f"add a {column} column")


# temporal


def test_positions_are_no_clock():
    data = from_rows([(0, item, item) for item in range(ITEMS)])
    with pytest.raises(SettingError) as error:
        split_corpus(source(data, clock=False), split="temporal")
    assert (error.value.setting, error.value.value) == ("data.split", "temporal")
    assert "toy has positions" in error.value.problem
    assert "timestamp" in error.value.hint


@pytest.mark.parametrize("clock", [True, False])
def test_a_corpus_says_whether_its_times_are_seconds(clock):
    data = from_rows([(0, item, item) for item in range(3)])
    assert split_corpus(source(data, clock=clock), split="leave_one_out").clock is clock


def test_temporal_cuts_the_span_and_a_cut_off_belongs_to_what_is_before():
    data = from_rows([(0, 0, time) for time in (110, 108, 100, 109, 109, 108, 110, 101)])
    assert temporal(data, cutoffs=(0.8, 0.9)).tolist() == [2, 0, 0, 1, 1, 0, 2, 0]


@few
@given(interactions(), st.sampled_from([(0.8, 0.9), (0.1, 0.5), (0.5, 0.99)]))
def test_nothing_is_earlier_than_what_is_before_it(data, cutoffs):
    label = temporal(data, cutoffs=cutoffs)
    start, span = int(data.time.min()), int(data.time.max() - data.time.min())
    early, late = (start + fraction * span for fraction in cutoffs)
    assert (data.time[label == TRAIN] <= early).all()
    assert (data.time[label == VAL] > early).all()
    assert (data.time[label == VAL] <= late).all()
    assert (data.time[label == TEST] > late).all()


def test_temporal_keeps_apart_seconds_that_float32_would_merge():
    times = (0, 800_000_000, 800_000_001, 900_000_000, 900_000_001, 1_000_000_000)
    data = from_rows([(0, 0, time) for time in times])
    assert temporal(data, cutoffs=(0.8, 0.9)).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("cutoffs", [(0.9, 0.8), (0.8, 0.8), (0.0, 0.5), (0.5, 1.0), (0.8,)])
def test_cutoffs_are_two_rising_fractions(cutoffs):
    with pytest.raises(SettingError) as error:
        temporal(from_rows([(0, 0, 0)]), cutoffs=cutoffs)
    assert (error.value.setting, error.value.value) == ("data.temporal_cutoffs", [*cutoffs])


# item_cold


@few
@given(interactions(), st.integers(0, 5), st.sampled_from([0.2, 0.5, 0.9]))
def test_a_cold_item_has_all_its_interactions_in_one_held_out_part(data, seed, share):
    label, cold = item_cold(data, n_items=ITEMS, seed=seed, share=share)
    n_cold = round(share * ITEMS)
    assert torch.bincount(cold.long(), minlength=3).tolist() == [
        ITEMS - n_cold,
        n_cold // 2,
        n_cold - n_cold // 2,
    ]
    assert label.tolist() == [cold[item] for item in data.item.tolist()]
    assert torch.equal(cold, item_cold(data, n_items=ITEMS, seed=seed, share=share)[1])


def test_a_given_cold_assignment_wins():
    data, given_cold = from_rows([(0, 2, 0), (0, 0, 0), (1, 1, 0)]), labels(0, 1, 2)
    label, cold = item_cold(data, n_items=3, seed=0, share=0.9, cold=given_cold)
    assert label.tolist() == [2, 0, 1]
    assert torch.equal(cold, given_cold)


def test_another_seed_chooses_other_cold_items():
    first, second = (item_cold(one_user(5), n_items=100, seed=seed)[1] for seed in (0, 1))
    assert not torch.equal(first, second)


@few
@given(interactions(), st.floats(0.1, 0.9))
def test_the_newest_items_are_cold_and_the_very_last_are_for_test(data, share):
    _, cold = item_cold(data, n_items=ITEMS, seed=0, share=share, newest=True)
    n_cold = round(share * ITEMS)
    assert int((cold > 0).sum()) == n_cold
    assert int((cold == VAL).sum()) == n_cold // 2
    first = [min(data.time[data.item == item].tolist(), default=-math.inf) for item in range(ITEMS)]
    by_part = [[first[i] for i in range(ITEMS) if cold[i] == part] for part in (0, 1, 2)]
    for earlier, later in pairwise(by_part):
        if earlier and later:
            assert max(earlier) <= min(later)


def test_the_newest_need_a_clock():
    timeless = source(Interactions(DENSE.user, DENSE.item))
    for rows, problem in ((timeless, "time"), (source(DENSE, clock=False), "one clock")):
        with pytest.raises(SettingError) as error:
            split_corpus(rows, split="item_cold", cold_items="newest")
        assert (error.value.setting, error.value.value) == ("data.cold_items", "newest")
        assert error.value.problem.startswith(f"it needs {problem}")
        assert "data.cold_items=random" in error.value.hint


def test_cold_items_can_be_drawn_though_some_are_given(caplog):
    caplog.set_level("INFO")
    given_with_data = source(DENSE, cold=COLD)
    drawn = split_corpus(given_with_data, split="item_cold", cold_items="random", cold_share=0.4)
    assert drawn.split == "item_cold(seed=0, share=0.4, warm test)"
    assert not torch.equal(drawn.cold, COLD)
    newest = split_corpus(given_with_data, split="item_cold", cold_items="newest", cold_share=0.4)
    assert newest.split == "item_cold(newest, seed=0, share=0.4, warm test)"
    assert caplog.messages == [
        f"data.cold_items={choice} leaves aside the cold items that toy comes with"
        for choice in ("random", "newest")
    ]


@pytest.mark.parametrize(
    ("choice", "said"), [("given", "toy has no cold items"), ("oldest", "one of given, random")]
)
def test_a_choice_of_cold_items_that_cannot_be_is_refused(choice, said):
    with pytest.raises(SettingError) as error:
        split_corpus(source(DENSE), split="item_cold", cold_items=choice)
    assert (error.value.setting, error.value.value) == ("data.cold_items", choice)
    assert (error.value.problem or error.value.expected).startswith(said)


def test_a_share_of_cold_items_that_would_not_count_is_refused():
    split_corpus(source(DENSE), split="leave_one_out", cold_share=0.2)  # the default, as runs note
    with pytest.raises(SettingError) as error:
        split_corpus(source(DENSE, cold=COLD), split="item_cold", cold_share=0.4)
    assert (error.value.setting, error.value.value) == ("data.cold_share", 0.4)
    assert error.value.problem == "toy comes with its cold items"
    for name, value in (("cold_share", 0.4), ("cold_items", "random")):
        with pytest.raises(SettingError) as error:
            split_corpus(source(DENSE), split="temporal", **{name: value})
        assert (error.value.setting, error.value.value) == (f"data.{name}", value)
        assert error.value.problem == "it is for data.split=item_cold, not temporal"


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_no_cold_item_or_none_but_cold_ones_leave_a_part_empty(share):
    with pytest.raises(DataError) as error:
        split_corpus(source(DENSE), split="item_cold", cold_share=share)
    assert error.value.problem.startswith(("no val interaction is left", "no train interaction"))
    assert error.value.hint.startswith("check the cold items")


@few
@given(interactions(unique=True), st.integers(0, 3))
def test_a_tenth_of_each_users_warm_items_is_held_out_beside_the_cold_ones(data, seed):
    label, _ = item_cold(data, n_items=ITEMS, seed=seed, share=0.4)
    held = hold_out_warm(data, label, seed=seed)
    assert torch.equal(held[label != TRAIN], label[label != TRAIN])
    rows = (label == TRAIN).nonzero().squeeze(1)
    drawn = set(rows[random_per_user(data.select(rows), seed=seed) == TEST].tolist())
    for user in data.user.unique():
        mine = rows[data.user[rows] == user].tolist()
        alone = random_per_user(one_user(len(mine)), seed=0)
        assert len(drawn & {*mine}) == (alone == TEST).sum()
    for item in data.item.unique():
        its = set(rows[data.item[rows] == item].tolist())
        leaves = its & drawn if its - drawn else set()  # all of it, and it would not be warm
        assert {row for row in its if held[row] == WARM} == leaves


def test_the_last_train_interaction_of_an_item_is_never_held_out():
    user = torch.arange(3).repeat_interleave(10)  # each has a test item of its own
    data = Interactions(user, torch.arange(30))
    label = torch.full((30,), TRAIN, dtype=torch.int8)
    assert (hold_out_warm(data, label, seed=0) == TRAIN).all()
    shared = Interactions(user, torch.arange(30) % 10)
    assert (hold_out_warm(shared, label, seed=0) == WARM).sum() in (2, 3)


def test_the_seed_of_warm_items_is_in_the_name_of_the_split():
    one, two = (
        split_corpus(source(DENSE, cold=COLD), split="item_cold", seed=seed) for seed in (0, 1)
    )
    assert pairs(one.train) != pairs(two.train)
    assert one.split != two.split


def test_warm_items_are_held_out_on_request_only():
    whole = split_corpus(source(DENSE), split="item_cold", warm_test=False)
    assert len(whole.warm) == 0
    assert whole.split == "item_cold(seed=0, share=0.2)"
    held = split_corpus(source(DENSE), split="item_cold")
    assert len(held.warm) > 0
    assert len(held.train) + len(held.warm) == len(whole.train)
    assert pairs(held.test) == pairs(whole.test)
    assert not held.cold[held.warm.item].any()


@pytest.mark.parametrize("share", [0.0, 1.0, 20.0])
def test_a_cold_share_is_a_fraction(share):
    with pytest.raises(SettingError) as error:
        item_cold(one_user(5), n_items=5, seed=0, share=share)
    assert (error.value.setting, error.value.value) == ("data.cold_share", share)


# official


def test_official_is_the_split_as_given():
    given_label = labels(0, 2, 1)
    assert torch.equal(official(given_label), given_label)


def test_official_without_a_label_names_the_column():
    with pytest.raises(SettingError) as error:
        official(None)
    assert (error.value.setting, error.value.value) == ("data.split", "official")
    assert "x_label" in error.value.problem


# repeated pairs

# User 0 takes items 0, 1, 2, 3, 1, 2 at times 1 to 6; the rows are not in order of time.
AGAIN = from_rows([(0, 1, 5), (0, 2, 6), (0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4)])


def test_leave_one_out_counts_each_pair_once_at_its_first_time(caplog):
    caplog.set_level(logging.INFO)
    corpus = split_corpus(source(AGAIN), split="leave_one_out")
    assert pairs(corpus.train) == [(0, 0), (0, 1)]
    assert pairs(corpus.val) == [(0, 2)]
    assert pairs(corpus.test) == [(0, 3)]
    times = [part.time.tolist() for part in (corpus.train, corpus.val, corpus.test)]
    assert times == [[1, 2], [3], [4]]
    (message,) = caplog.messages
    assert message.startswith("toy: merged 2 repeated user-item pairs before the split")
    assert corpus.split == "leave_one_out(repeats merged)"


@few
@given(interactions())
def test_leave_one_out_holds_out_two_items_of_each_user_with_three(data):
    counts = Counter(user for user, _ in {*pairs(data)})
    three = {user for user, count in counts.items() if count >= 3}
    if not three:
        with pytest.raises(DataError) as error:
            split_corpus(source(data), split="leave_one_out")
        assert f"most active user has {max(counts.values())}" in error.value.hint
        return
    corpus = split_corpus(source(data), split="leave_one_out")
    assert {*corpus.val.user.tolist()} == {*corpus.test.user.tolist()} == three
    together = pairs(corpus.train) + pairs(corpus.val) + pairs(corpus.test)
    assert sorted(together) == sorted({*pairs(data)})


@few
@given(interactions(), st.integers(0, 3))
def test_random_splits_draw_each_pair_once(data, seed):
    distinct = from_rows([(*pair, 0) for pair in sorted({*pairs(data)})])
    try:
        expected = split_corpus(source(distinct), split="random_per_user", seed=seed)
    except DataError:
        return
    corpus = split_corpus(source(data), split="random_per_user", seed=seed)
    for part in ("train", "val", "test"):
        assert set(pairs(getattr(corpus, part))) == set(pairs(getattr(expected, part)))
    again = "" if len(distinct) == len(data) else ", repeats merged"
    assert corpus.split == f"random_per_user(seed={seed}{again})"


def test_random_splits_can_draw_from_every_row():
    """Then a user loses the held-out items of which train has a copy."""
    twice = [(0, item, time) for time in range(2) for item in range(ITEMS)]
    rows = from_rows([*twice, *[(1, item, 0) for item in range(ITEMS)]])
    label = random_per_user(rows, seed=0)[: len(twice)]
    in_train = {item for (_, item, _), part in zip(twice, label, strict=True) if part == TRAIN}
    assert len(in_train) > ITEMS - 2

    def items(part):
        return {item for user, item in pairs(part) if user == 0}

    drawn = split_corpus(source(rows), split="random_per_user", draw_repeats=True)
    merged = split_corpus(source(rows), split="random_per_user")
    assert items(drawn.train) == in_train
    assert [len(items(part)) for part in (merged.train, merged.val, merged.test)] == [7, 1, 1]
    assert merged.split != drawn.split == "random_per_user(seed=0)"


def test_temporal_and_official_keep_the_row_in_the_earliest_split():
    rows = from_rows([(0, 0, 0), (0, 1, 50), (0, 1, 85), (0, 2, 85), (0, 2, 99), (0, 3, 100)])
    corpus = split_corpus(source(rows), split="temporal")
    assert [pairs(part) for part in (corpus.train, corpus.val, corpus.test)] == [
        [(0, 0), (0, 1)],
        [(0, 2)],
        [(0, 3)],
    ]
    given_label = labels(0, 0, 1, 1, 2, 2)
    again = split_corpus(source(rows, label=given_label), split="official")
    for part in ("train", "val", "test"):
        assert pairs(getattr(again, part)) == pairs(getattr(corpus, part))


@pytest.mark.parametrize(
    ("label", "part", "number"),
    [(labels(0, 0, 0, 2, 2, 2), "val", 1), (labels(1, 2, 1, 1, 2, 2), "train", 0)],
)
def test_an_empty_part_of_an_official_split_blames_the_split_column(label, part, number):
    rows = from_rows([(0, item, item) for item in range(6)])
    with pytest.raises(DataError) as error:
        split_corpus(source(rows, label=label), split="official")
    assert error.value.file == "toy"
    assert error.value.problem.startswith(f"no {part} interaction")
    assert f"split column has no line with {number}" in error.value.hint
    assert "random_per_user" in error.value.hint


def test_a_part_of_an_official_split_may_hold_most_of_the_rows():
    rows = from_rows([(0, item, item) for item in range(6)])
    label = labels(0, 1, 1, 1, 1, 2)
    assert len(split_corpus(source(rows, label=label), split="official").val) == 4


def test_a_part_that_is_lost_says_to_what():
    rows = from_rows([(0, 1, 1), (0, 1, 2), (0, 2, 3), (1, 3, 4)])
    with pytest.raises(DataError) as error:
        split_corpus(source(rows, label=labels(0, 1, 2, 1)), split="official")
    assert error.value.problem == "no val interaction is left under split=official"
    assert error.value.hint.startswith("2 had this label, 1 of them repeat ")
    assert " 1 are of users without" in error.value.hint


# split_corpus

DENSE = from_rows([(user, item, item) for user in range(USERS) for item in range(ITEMS)])
COLD = labels(0, 0, 0, 0, 0, 1, 1, 2, 2)


@few
@given(st.data())
def test_a_corpus_holds_each_pair_once_in_its_earliest_split_unless_its_user_has_no_train(data):
    rows = data.draw(interactions())
    part = st.integers(0, 2)
    drawn = data.draw(st.lists(part, min_size=len(rows), max_size=len(rows)))
    # one user with a pair in each part, so that no part is empty
    fixed = from_rows([(USERS, ITEMS, 0), (USERS, ITEMS + 1, 0), (USERS, ITEMS + 2, 0)])
    whole = Interactions(
        *(torch.cat(both) for both in zip(vars(rows).values(), vars(fixed).values(), strict=True))
    )
    corpus = split_corpus(
        Source("toy", USERS + 1, ITEMS + 3, whole, "f", label=labels(*drawn, TRAIN, VAL, TEST)),
        split="official",
    )

    earliest = {}
    for pair, label in zip(pairs(whole), [*drawn, TRAIN, VAL, TEST], strict=True):
        earliest[pair] = min(label, earliest.get(pair, label))
    trained = {user for (user, _), label in earliest.items() if label == TRAIN}
    for label, part in enumerate((corpus.train, corpus.val, corpus.test)):
        expected = {p for p, where in earliest.items() if where == label and p[0] in trained}
        assert len(part) == len(expected)
        assert set(pairs(part)) == expected


def test_rows_are_ordered_by_user_and_then_as_in_the_source():
    data = from_rows([(1, 5, 0), (0, 8, 1), (1, 2, 2), (0, 3, 3), (0, 1, 4), (0, 2, 5)])
    corpus = split_corpus(source(data, label=labels(0, 0, 0, 0, 1, 2)), split="official")
    assert pairs(corpus.train) == [(0, 8), (0, 3), (1, 5), (1, 2)]
    assert corpus.train.time.tolist() == [1, 3, 0, 2]


def test_of_equal_copies_the_first_row_stays():
    data = from_rows([(0, 1, 7), (0, 1, 3), (0, 2, 0), (0, 3, 0)])
    corpus = split_corpus(source(data, label=labels(0, 0, 1, 2)), split="official")
    assert corpus.train.time.tolist() == [7]


def test_what_is_dropped_is_counted_in_the_log(caplog):
    rows = [(0, 1, 0), (0, 1, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0), (1, 4, 0)]
    label = labels(0, 0, 2, 1, 2, 1)
    with caplog.at_level(logging.INFO):
        split_corpus(source(from_rows(rows), label=label), split="official")
    assert caplog.messages == [
        "toy: dropped 2 repeated user-item pairs",
        "toy: dropped 1 held-out interactions of 1 users without a train interaction",
    ]


@pytest.mark.parametrize("removed", [None, (5, 8)])
def test_what_a_split_drops_is_kept_apart_with_what_filters_removed(removed):
    rows = [(0, 1, 0), (0, 1, 50), (0, 2, 85), (0, 3, 100), (1, 4, 87), (1, 5, 99)]
    before = None if removed is None else Interactions(*torch.tensor(removed).reshape(2, 1))
    corpus = split_corpus(source(from_rows(rows), removed=before), split="temporal")
    assert {(1, 4), (1, 5)} <= {*pairs(corpus.removed)}
    assert {*pairs(corpus.removed)} == {(0, 1), (1, 4), (1, 5)} | ({removed} - {None})
    assert corpus.filtered == (removed is not None)


def test_nothing_dropped_is_nothing_logged(caplog):
    data = from_rows([(0, 1, 0), (0, 2, 0), (0, 3, 0)])
    with caplog.at_level(logging.INFO):
        split_corpus(source(data, label=labels(0, 1, 2)), split="official")
    assert not caplog.messages


@pytest.mark.parametrize("split", ["random_per_user", "leave_one_out", "temporal", "item_cold"])
def test_the_same_seed_gives_the_same_corpus_whatever_the_order_of_rows(split):
    shuffled = DENSE.select(torch.randperm(len(DENSE), generator=torch.Generator().manual_seed(0)))
    first, second = (split_corpus(source(rows), split=split, seed=4) for rows in (DENSE, shuffled))
    for part in ("train", "val", "test"):
        assert set(pairs(getattr(first, part))) == set(pairs(getattr(second, part)))


@pytest.mark.parametrize(
    ("split", "given_with_data", "rule"),
    [
        ("official", {"label": leave_one_out(DENSE)}, "official"),
        ("random_per_user", {}, "random_per_user(seed=7)"),
        ("leave_one_out", {}, "leave_one_out"),
        ("temporal", {}, "temporal(0.5, 0.75)"),
        ("item_cold", {}, "item_cold(seed=7, share=0.4, warm test)"),
        ("item_cold", {"cold": COLD}, "item_cold(given, seed=7, warm test)"),
    ],
)
def test_a_corpus_names_its_rule_with_the_parameters_that_matter(split, given_with_data, rule):
    corpus = split_corpus(
        source(DENSE, **given_with_data),
        split=split,
        seed=7,
        **({"temporal_cutoffs": [0.5, 0.75]} if split == "temporal" else {}),
        **({"cold_share": 0.4} if "share" in rule else {}),
    )
    assert corpus.split == rule
    parts = [corpus.train, corpus.val, corpus.test, *([corpus.warm] if corpus.warm else [])]
    assert sum(len(part) for part in parts) == USERS * ITEMS


def test_only_item_cold_makes_a_corpus_with_cold_items():
    with_cold = source(DENSE, cold=COLD)
    assert torch.equal(split_corpus(with_cold, split="item_cold").cold, COLD)
    assert split_corpus(with_cold, split="leave_one_out").cold is None


def test_ids_and_fingerprint_reach_the_corpus():
    users, items = pl.Series(list("abcdef")), pl.Series(list("ABCDEFGHI"))
    corpus = split_corpus(source(DENSE, user_ids=users, item_ids=items), split="leave_one_out")
    assert corpus.user_ids is users
    assert corpus.item_ids is items
    assert (corpus.name, corpus.n_users, corpus.n_items) == ("toy", USERS, ITEMS)
    assert corpus.fingerprint == "fingerprint"


def test_a_rule_that_leaves_a_part_empty_is_refused():
    with pytest.raises(DataError) as error:
        split_corpus(source(from_rows([(0, 0, 0), (0, 1, 0)])), split="leave_one_out")
    assert error.value.file == "toy"
    assert error.value.problem == "no val interaction is left under split=leave_one_out"


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(SettingError) as error:
        split_corpus(source(DENSE), split="leave-one-out")
    assert (error.value.setting, error.value.value) == ("data.split", "leave-one-out")
    assert error.value.hint == "did you mean leave_one_out?"
