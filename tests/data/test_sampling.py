import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mmrec.config.errors import SettingError
from mmrec.data.corpus import Interactions
from mmrec.data.loaders import EpochLoader, TripletDataset
from mmrec.data.sampling import EpochBatches, NegativeSampler

few = settings(max_examples=60, deadline=None)
DISTRIBUTIONS = ["uniform", "warm", "popularity"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def train(pairs):
    user, item = torch.tensor(pairs, dtype=torch.int64).T
    return Interactions(user.contiguous(), item.contiguous())


@st.composite
def observed(draw, users=5, items=6):
    """Pairs in which every user lacks an item that someone else has."""
    pair = st.tuples(st.integers(0, users - 1), st.integers(0, items - 1))
    drawn = draw(st.lists(pair, max_size=60))
    lacks = draw(st.lists(st.integers(0, items - 1), min_size=users, max_size=users))
    kept = [(user, item) for user, item in drawn if item != lacks[user]]
    owners = [(users + item, item) for item in range(items)]
    return train(kept + owners), users + items, items


def probabilities(data, user, n_items, distribution, power):
    """The definition, item by item."""
    has = set(data.item[data.user == user].tolist())
    weights = []
    for item in range(n_items):
        count = int((data.item == item).sum())
        popularity = count**power if count else 0.0
        weight = {"uniform": 1.0, "warm": float(count > 0), "popularity": popularity}
        weights.append(0.0 if item in has else weight[distribution])
    return torch.tensor(weights, dtype=torch.float64) / sum(weights)


@few
@given(observed(), st.sampled_from(DISTRIBUTIONS))
def test_the_chance_of_an_item_is_its_share_of_what_its_user_lacks(data, distribution):
    interactions, n_users, n_items = data
    sampler = NegativeSampler(interactions, n_users, n_items, distribution=distribution)
    for user in range(n_users):
        expected = probabilities(interactions, user, n_items, distribution, 0.75)
        free = expected.nonzero().T  # [1, K]
        found = sampler.chance(torch.tensor([user]), free)
        torch.testing.assert_close(found, expected[free].float(), atol=1e-6, rtol=1e-5)


@few
@given(observed(), st.sampled_from(DISTRIBUTIONS), st.integers(0, 9))
def test_a_negative_is_never_a_train_positive(data, distribution, seed):
    interactions, n_users, n_items = data
    sampler = NegativeSampler(interactions, n_users, n_items, distribution=distribution)
    drawn = sampler(torch.arange(n_users), 20, generator(seed))
    positives = set(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True))
    assert drawn.shape == (n_users, 20)
    assert drawn.dtype == torch.int64
    for user, items in enumerate(drawn.tolist()):
        assert all(0 <= item < n_items and (user, item) not in positives for item in items)


@pytest.mark.parametrize(
    ("distribution", "power"),
    [("uniform", 0.75), ("warm", 0.75), *(("popularity", power) for power in (0.75, 0.0, 1.0))],
)
def test_frequencies_fit_the_exact_probabilities(distribution, power):
    # user 0 has three scattered items, user 1 most, user 2 none; item 7 is in nobody's train
    pairs = [(0, 0), (0, 3), (0, 4), *((1, item) for item in (0, 1, 2, 4, 5)), (3, 6), (3, 0)]
    pairs += [(user, item) for user in range(4, 12) for item in range(6) if item <= user - 4]
    data, n_users, n_items, draws = train(pairs), 12, 8, 20_000
    sampler = NegativeSampler(data, n_users, n_items, distribution=distribution, power=power)
    for user in range(n_users):
        drawn = sampler(torch.full((draws // 4,), user), 4, generator(user)).flatten()
        observed_counts = torch.bincount(drawn, minlength=n_items)
        expected = draws * probabilities(data, user, n_items, distribution, power)
        possible = expected > 0
        assert observed_counts[~possible].sum() == 0
        fit = chisquare(observed_counts[possible], expected[possible])
        assert possible.sum() == 1 or fit.pvalue > 1e-3


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_user_who_lacks_one_item_always_gets_it(distribution):
    n = 300
    lacks = torch.arange(n)
    user, item = torch.where(torch.arange(n) != lacks[:, None])  # user u lacks item u alone
    sampler = NegativeSampler(Interactions(user, item), n, n, distribution=distribution)
    assert torch.equal(sampler(lacks, 3, generator()), lacks[:, None].expand(n, 3))


def test_repeated_rows_change_nothing():
    pairs = [(0, 1), (0, 3), (1, 2)]
    once, twice = (NegativeSampler(train(rows), 2, 5) for rows in (pairs, pairs[::-1] + pairs))
    users = torch.tensor([0, 1, 1, 0])
    assert torch.equal(once(users, 50, generator()), twice(users, 50, generator()))


def test_the_generator_alone_decides_what_is_drawn():
    sampler, users = NegativeSampler(train([(0, 1), (1, 2)]), 2, 50), torch.tensor([0, 1])
    assert torch.equal(sampler(users, 9, generator(1)), sampler(users, 9, generator(1)))
    assert not torch.equal(sampler(users, 9, generator(1)), sampler(users, 9, generator(2)))


@pytest.mark.parametrize(
    ("distribution", "n_items"), [("uniform", 2), ("warm", 3), ("popularity", 3)]
)
def test_a_user_with_nothing_left_to_draw_is_named(distribution, n_items):
    data = train([(0, 0), (4, 1), (4, 0)])
    with pytest.raises(SettingError) as error:
        NegativeSampler(data, 6, n_items, distribution=distribution)
    assert (error.value.setting, error.value.value) == ("data.distribution", distribution)
    assert error.value.problem.startswith("user 4 has every item")


def test_an_unknown_distribution_lists_the_known():
    with pytest.raises(SettingError) as error:
        NegativeSampler(train([(0, 0)]), 1, 2, distribution="even")
    assert (error.value.setting, error.value.value) == ("data.distribution", "even")
    assert error.value.expected == "uniform, warm or popularity"


def epoch_rows(batches):
    return [rows.tolist() for rows, _ in batches]


@few
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 4), st.integers(0, 3))
def test_processes_share_every_row_once_in_equally_many_batches(n_rows, size, world, epoch):
    world = min(world, n_rows)
    seen, lengths = [], set()
    for rank in range(world):
        batches = EpochBatches(n_rows, size, seed=0, rank=rank, world=world)
        batches.set_epoch(epoch)
        rows = epoch_rows(batches)
        assert len(rows) == len(batches)
        assert all(len(batch) == size for batch in rows[:-1])
        assert 1 <= len(rows[-1]) <= size + (world > 1)
        lengths.add(len(rows))
        seen += [row for batch in rows for row in batch]
    assert len(lengths) == 1
    assert sorted(seen) == list(range(n_rows))


def test_a_partial_last_batch_is_kept():
    assert [len(rows) for rows in epoch_rows(EpochBatches(10, 4, seed=0))] == [4, 4, 2]


def test_epoch_and_seed_change_the_order():
    def order(seed, epoch):
        batches = EpochBatches(100, 100, seed=seed)
        batches.set_epoch(epoch)
        return tuple(epoch_rows(batches)[0])

    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_no_two_batches_share_a_stream():
    first = []
    for epoch in range(3):
        for rank in range(2):
            batches = EpochBatches(40, 4, seed=1, rank=rank, world=2)
            batches.set_epoch(epoch)
            first += [int(torch.randint(2**62, (), generator=stream)) for _, stream in batches]
    assert len(first) == 30
    assert len(set(first)) == 30


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_at_least_one_row(size):
    with pytest.raises(SettingError) as error:
        EpochBatches(10, size, seed=0)
    assert (error.value.setting, error.value.value) == ("data.batch_size", size)


def test_more_processes_than_rows_are_refused():
    with pytest.raises(SettingError) as error:
        EpochBatches(2, 1, seed=0, rank=0, world=3)
    assert error.value.setting == "trainer.devices"
    assert error.value.problem == "2 train interactions cannot be shared by 3 processes"


PAIRS = train([(row % 7, row % 11) for row in range(50)])


def loader(*, epochs_before):
    """As a process that has run some epochs, or that starts at the epoch after them."""
    dataset = TripletDataset(PAIRS, NegativeSampler(PAIRS, 7, 30), 3)
    made = EpochLoader(dataset, EpochBatches(len(PAIRS), 8, seed=5))
    for epoch in range(epochs_before):
        made.sampler.set_epoch(epoch)
        list(made)
    made.sampler.set_epoch(2)
    return made


def test_an_epoch_that_is_run_again_gives_the_same_batches():
    fresh = list(loader(epochs_before=0))
    again = list(loader(epochs_before=2))
    assert len(fresh) == len(again) == 7
    for one, other in zip(fresh, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_triplet_holds_an_observed_pair_and_items_its_user_lacks():
    observed_pairs = set(zip(PAIRS.user.tolist(), PAIRS.item.tolist(), strict=True))
    for batch in loader(epochs_before=0):
        assert batch.negative.shape == (len(batch.user), 3)
        for user, positive, negative in zip(*(part.tolist() for part in batch), strict=True):
            assert (user, positive) in observed_pairs
            assert all((user, item) not in observed_pairs for item in negative)
