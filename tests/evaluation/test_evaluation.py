import copy
import math
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.config.errors import SettingError
from mmrec.data.corpus import Corpus, Interactions, Modality
from mmrec.evaluation import NonFiniteScores, RankingMetric, Rankings
from mmrec.evaluation.protocol import Evaluation, check_rankable, groups

CUTOFFS = (1, 3, 8)
ACCURACY = ("recall", "hit_rate", "precision", "ndcg", "mrr", "map")


def make_corpus(seed=0, n_users=25, n_items=20, modalities=2):
    """Distinct random pairs; every user has a train interaction, not everyone a held-out one."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(n_users * n_items, generator=generator)[: n_users * 5]
    first = torch.arange(n_users) * n_items + torch.randint(
        n_items, (n_users,), generator=generator
    )
    rest = chosen[~torch.isin(chosen, first)]
    cut = n_users * 3
    parts = (
        torch.cat([first, rest[:cut]]),
        rest[cut : cut + n_users // 2],
        rest[cut + n_users // 2 :],
    )
    train, val, test = (Interactions(p // n_items, p % n_items) for p in parts)
    contents = {}
    for name in ("image", "text", "audio")[:modalities]:
        present = torch.rand(n_items, generator=generator) < 0.8
        features = torch.randn(n_items, 6, generator=generator) * present[:, None]
        contents[name] = Modality(features, present, name)
    return toy(n_users, n_items, train, val, test, split="random(seed=0)", modalities=contents)


def toy(n_users, n_items, train, val, test, *, split="official", **more):
    sizes = {"n_users": n_users, "n_items": n_items}
    parts = {"train": train, "val": val, "test": test}
    return Corpus(name="toy", fingerprint="0" * 8, split=split, **sizes, **parts, **more)


def random_scores(corpus, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(corpus.n_users, corpus.n_items, generator=generator)


def feed(metric, scores, *, users=None, batch=7):
    for block in (metric.users if users is None else users).split(batch):
        metric.update(block, scores[block].clone())
    return metric


def as_floats(values):
    return {key: value.item() for key, value in values.items()}


def by_user(*parts):
    items = defaultdict(set)
    for part in parts:
        for user, item in zip(part.user.tolist(), part.item.tolist(), strict=True):
            items[user].add(item)
    return items


def lists_of(corpus, scores, relevant, seen, k):
    """The k best unseen items of each user with a held-out one, by sorting."""
    lists = {}
    for user in relevant:
        free = [i for i in range(corpus.n_items) if i not in seen[user]]
        lists[user] = sorted(free, key=lambda i: -scores[user, i].item())[:k]
    return lists


def naive_accuracy(ranked, relevant, k):
    ranks = [r for r, item in enumerate(ranked[:k], start=1) if item in relevant]
    possible = min(len(relevant), k)
    return {
        "recall": len(ranks) / len(relevant),
        "hit_rate": float(bool(ranks)),
        "precision": len(ranks) / k,
        "ndcg": sum(1 / math.log2(r + 1) for r in ranks)
        / sum(1 / math.log2(r + 1) for r in range(1, possible + 1)),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": sum((n + 1) / r for n, r in enumerate(ranks)) / possible,
    }


def mean(values):
    return sum(values) / len(values)


def naive_groups(counts, names):
    """The default shares: 20 %, 30 %, the rest."""
    order = sorted(range(len(counts)), key=lambda i: -counts[i])
    first, second = round(0.2 * len(order)), round(0.5 * len(order))
    parts = order[:first], order[first:second], order[second:]
    return {name: set(part) for name, part in zip(names, parts, strict=True)}


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("seen", ["train", "train+val", "none"])
@pytest.mark.parametrize("seed", range(3))
def test_accuracy_agrees_with_a_loop_over_users(split, seen, seed):
    corpus = make_corpus(seed)
    scores = random_scores(corpus, seed)
    metric = RankingMetric(corpus, split, Evaluation(CUTOFFS, seen), detailed=False)
    values = as_floats(feed(metric, scores).compute())

    masked = {"train": [corpus.train], "train+val": [corpus.train, corpus.val], "none": []}[seen]
    if split == "val":
        masked = masked[:1]
    relevant = by_user(corpus.val if split == "val" else corpus.test)
    lists = lists_of(corpus, scores, relevant, by_user(*masked), max(CUTOFFS))
    expected = {}
    for k in CUTOFFS:
        users = [naive_accuracy(lists[user], relevant[user], k) for user in relevant]
        expected |= {f"{name}@{k}": mean([u[name] for u in users]) for name in ACCURACY}
    assert values == pytest.approx(expected, abs=1e-11)
    assert metric.users.tolist() == sorted(relevant)


@pytest.mark.parametrize("seed", range(3))
def test_groups_agree_with_a_loop_over_users(seed):
    corpus = make_corpus(seed)
    scores = random_scores(corpus, seed)
    metric = RankingMetric(corpus, "test", Evaluation(CUTOFFS), detailed=True)
    values = as_floats(feed(metric, scores).compute())

    relevant = by_user(corpus.test)
    lists = lists_of(corpus, scores, relevant, by_user(corpus.train), max(CUTOFFS))
    expected = {}
    items = naive_groups(corpus.item_counts().tolist(), ("head", "mid", "tail"))
    users = naive_groups(corpus.user_counts().tolist(), ("active", "regular", "occasional"))
    for k in CUTOFFS:
        for name in ("recall", "ndcg"):
            for group, members in items.items():
                judged = [u for u in relevant if relevant[u] & members]
                if judged:
                    expected[f"{group}/{name}@{k}"] = mean(
                        [naive_accuracy(lists[u], relevant[u] & members, k)[name] for u in judged]
                    )
            for group, members in users.items():
                judged = [u for u in relevant if u in members]
                if judged:
                    expected[f"{group}/{name}@{k}"] = mean(
                        [naive_accuracy(lists[u], relevant[u], k)[name] for u in judged]
                    )
    assert {k: v for k, v in values.items() if "/" in k} == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_beyond_accuracy_agree_with_a_loop_over_lists(seed):
    corpus = make_corpus(seed)
    scores = random_scores(corpus, seed)
    metric = RankingMetric(corpus, "test", Evaluation(CUTOFFS), detailed=True)
    values = as_floats(feed(metric, scores).compute())

    lists = lists_of(corpus, scores, by_user(corpus.test), by_user(corpus.train), max(CUTOFFS))
    popular = corpus.item_counts().tolist()
    for k in CUTOFFS:
        slots = [item for ranked in lists.values() for item in ranked[:k]]
        exposure = [slots.count(item) for item in range(corpus.n_items)]
        assert values[f"coverage@{k}"] == pytest.approx(len(set(slots)) / corpus.n_items)
        gaps = sum(abs(a - b) for a in exposure for b in exposure)
        assert values[f"gini@{k}"] == pytest.approx(gaps / (2 * corpus.n_items * len(slots)))
        assert values[f"popularity@{k}"] == pytest.approx(mean([popular[i] for i in slots]))
        bits = [-math.log2(max(1, popular[i]) / corpus.n_users) for i in slots]
        assert values[f"novelty@{k}"] == pytest.approx(mean(bits))
    for k in CUTOFFS[1:]:
        by_modality = []
        for modality in corpus.modalities.values():
            diversities = []
            for ranked in lists.values():
                kept = [i for i in ranked[:k] if modality.present[i]]
                cosines = [
                    torch.cosine_similarity(
                        modality.features[a], modality.features[b], dim=0
                    ).item()
                    for a in kept
                    for b in kept
                    if a != b
                ]
                if cosines:
                    diversities.append(1 - mean(cosines))
            by_modality.append(mean(diversities))
        assert values[f"diversity@{k}"] == pytest.approx(mean(by_modality), abs=1e-5)


def test_diversity_is_left_out_where_there_is_nothing_to_compare():
    without = make_corpus(modalities=0)
    values = feed(
        RankingMetric(without, "test", Evaluation(CUTOFFS), detailed=True), random_scores(without)
    ).compute()
    assert "coverage@3" in values
    assert not [key for key in values if key.startswith("diversity")]
    # A single item has no pair.
    corpus = make_corpus()
    metric = RankingMetric(corpus, "test", Evaluation(CUTOFFS), detailed=True)
    keys = feed(metric, random_scores(corpus)).compute()
    assert [key for key in keys if key.startswith("diversity")] == ["diversity@3", "diversity@8"]


def test_a_group_that_nobody_has_is_left_out():
    train = Interactions(torch.arange(10), torch.arange(10))
    held = Interactions(torch.tensor([0]), torch.tensor([9]))
    corpus = toy(10, 10, train, held, held)
    metric = RankingMetric(corpus, "test", Evaluation((1,)), detailed=True)
    keys = feed(metric, random_scores(corpus)).compute()
    assert {key.split("/")[0] for key in keys if "/" in key} == {"tail", "active"}


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 30), st.randoms(use_true_random=False), st.booleans())
def test_result_depends_neither_on_batch_size_nor_on_order_nor_on_ties(batch, random, tied):
    corpus = make_corpus()
    scores = random_scores(corpus)
    if tied:
        scores = scores.round()
    metric = RankingMetric(corpus, "test", Evaluation(CUTOFFS), detailed=True)
    whole = as_floats(feed(metric, scores, batch=100).compute())
    table = metric.per_user()
    metric.reset()
    shuffled = metric.users.tolist()
    random.shuffle(shuffled)
    feed(metric, scores, users=torch.tensor(shuffled), batch=batch)
    assert as_floats(metric.compute()) == whole  # equal, not close
    assert metric.per_user().equals(table)


def test_states_of_two_processes_add_up_to_the_whole_exactly():
    corpus = make_corpus()
    scores = random_scores(corpus)
    metric = RankingMetric(corpus, "test", Evaluation(CUTOFFS), detailed=True)
    first, second = copy.deepcopy(metric), copy.deepcopy(metric)
    feed(metric, scores)
    feed(first, scores, users=metric.users[::2])
    feed(second, scores, users=metric.users[1::2])
    first.merge_state(second)
    assert as_floats(first.compute()) == as_floats(metric.compute())


def test_a_constant_scorer_scores_like_chance():
    n_users, n_items, k = 4_000, 100, 20
    generator = torch.Generator().manual_seed(0)
    users = torch.arange(n_users)
    # Popular items have the low indices: an order by index would be far from chance.
    skewed = (torch.rand(3, n_users, generator=generator) ** 4 * n_items).long()
    train, val, test = (Interactions(users, (skewed[0] + shift) % n_items) for shift in (0, 1, 2))
    corpus = toy(n_users, n_items, train, val, test)
    metric = RankingMetric(corpus, "test", Evaluation((k,)), detailed=False)
    recall = feed(metric, torch.full((n_users, n_items), 3.5), batch=512).compute()[f"recall@{k}"]
    chance = k / (n_items - 1)  # one item is masked
    assert abs(recall.item() - chance) < 3.5 * math.sqrt(chance * (1 - chance) / n_users)


def test_per_user_holds_the_values_whose_means_are_reported():
    corpus = make_corpus()
    metric = RankingMetric(corpus, "test", Evaluation(CUTOFFS), detailed=True)
    assert metric.per_user().shape == (0, 1 + len(ACCURACY) * len(CUTOFFS))
    values = as_floats(feed(metric, random_scores(corpus)).compute())
    table = metric.per_user()
    assert table.columns == ["user", *(f"{name}@{k}" for name in ACCURACY for k in CUTOFFS)]
    assert table["user"].to_list() == metric.users.tolist()
    for column in table.columns[1:]:
        assert table[column].mean() == pytest.approx(values[column], abs=1e-11)
    metric.reset()
    assert metric.per_user().is_empty()


def test_users_without_a_held_out_item_do_not_count():
    corpus = make_corpus()
    scores = random_scores(corpus)
    metric = RankingMetric(corpus, "val", Evaluation(CUTOFFS), detailed=True)
    expected = as_floats(feed(metric, scores).compute())
    everyone = torch.arange(corpus.n_users)
    assert len(metric.users) < corpus.n_users
    metric.reset()
    assert as_floats(feed(metric, scores, users=everyone, batch=1).compute()) == expected


def test_masked_items_are_never_hits_even_where_too_few_candidates_are_left():
    # User 0 has seen all but item 4, which is held out; the list of three has one place filled.
    train = Interactions(torch.zeros(4, dtype=torch.int64), torch.arange(4))
    held = Interactions(torch.tensor([0]), torch.tensor([4]))
    corpus = toy(1, 5, train, held, held)
    metric = RankingMetric(corpus, "test", Evaluation((3,)), detailed=True)
    metric.update(torch.tensor([0]), torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]]))
    values = as_floats(metric.compute())
    assert values["recall@3"] == values["mrr@3"] == 1
    assert values["precision@3"] == pytest.approx(1 / 3)
    assert values["coverage@3"] == 1 / 5


@pytest.mark.parametrize(
    ("bad", "word"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")]
)
def test_scores_that_are_not_finite_name_user_and_item(bad, word):
    corpus = make_corpus()
    metric = RankingMetric(corpus, "test", Evaluation(CUTOFFS), detailed=False)
    scores = random_scores(corpus)
    user = metric.users[5].item()
    seen = by_user(corpus.train)[user].pop()  # a mask must not hide it
    scores[user, seen] = bad
    message = rf"user {user} for item {seen} is {word}; .*lower the learning rate"
    with pytest.raises(NonFiniteScores, match=message):
        feed(metric, scores)


def test_scores_of_a_wrong_shape_are_refused():
    corpus = make_corpus()
    metric = RankingMetric(corpus, "test", Evaluation(CUTOFFS), detailed=False)
    with pytest.raises(
        ValueError, match=r"\[2, 20\] for 2 users and 20 items, found shape \[2, 19\]"
    ):
        metric.update(metric.users[:2], torch.zeros(2, 19))


def test_a_cutoff_beyond_the_catalogue_is_refused():
    with pytest.raises(SettingError) as error:
        RankingMetric(make_corpus(), "test", Evaluation((5, 21)), detailed=False)
    assert (error.value.setting, error.value.value) == ("evaluation.cutoffs", [5, 21])
    assert error.value.problem == "the cutoff 21 exceeds the 20 items of toy"


def test_a_result_without_users_is_refused():
    metric = RankingMetric(make_corpus(), "test", Evaluation(CUTOFFS), detailed=False)
    metric.update(torch.empty(0, dtype=torch.int64), torch.empty(0, 20))
    with pytest.raises(ValueError, match="no user was evaluated"):
        metric.compute()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cutoffs", ()),
        ("candidates", "warm"),
        ("cutoffs", (0, 5)),
        ("cutoffs", (10, 5)),
        ("cutoffs", (5, 5)),
        ("cutoffs", (5.0,)),
        ("seen", "val"),
        ("item_groups", (0.5, 0.5)),
        ("user_groups", (0.2,)),
        ("user_groups", (0.0, 0.2)),
    ],
)
def test_settings_that_cannot_be_are_refused(name, value):
    with pytest.raises(SettingError) as error:
        Evaluation(**{name: value})
    expected = [*value] if isinstance(value, tuple) else value
    assert (error.value.setting, error.value.value) == (name, expected)


def test_lists_as_yaml_gives_them_are_settings_too():
    given_lists = Evaluation([5, 10, 20, 50], "train", [0.2, 0.3], [0.2, 0.3])
    assert given_lists == Evaluation(seen="train")
    assert hash(given_lists) == hash(Evaluation(seen="train"))


def cold_corpus(seed, *, warm_held=True):
    """Items 0 to 11 are warm, 12 to 15 cold for validation, 16 to 19 for test."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(25 * 20, generator=generator)[:300].sort().values
    user, item = drawn // 20, drawn % 20
    cold = torch.tensor([0] * 12 + [1] * 4 + [2] * 4, dtype=torch.int8)
    kept = (cold[item] == 0) & (torch.rand(300, generator=generator) < 0.8)
    train, val, test, warm = (
        Interactions(user[rows], item[rows])
        for rows in (kept, cold[item] == 1, cold[item] == 2, (cold[item] == 0) & ~kept)
    )
    if not warm_held:
        warm = warm.select(torch.empty(0, dtype=torch.int64))
    return toy(25, 20, train, val, test, split="item_cold(given)", cold=cold, warm=warm)


@pytest.mark.parametrize("candidates", [None, "cold", "split", "all"])
@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("seed", range(3))
def test_cold_warm_and_all_items_agree_with_a_loop_over_users(candidates, split, seed):
    corpus, scores, cutoffs = cold_corpus(seed), random_scores(cold_corpus(seed), seed), (1, 3)
    evaluation = Evaluation(cutoffs, candidates=candidates)
    rankings = Rankings(corpus, split, evaluation)
    values = as_floats(feed(rankings, scores).compute())

    warm, of_val, of_test = set(range(12)), set(range(12, 16)), set(range(16, 20))
    own = of_val if split == "val" else of_test
    ranked = {"split": own, "all": warm | of_val | of_test}.get(candidates, of_val | of_test)
    held = corpus.val if split == "val" else corpus.test
    parts = {split: (ranked, [held])}
    if split == "test":
        parts["test_cold"] = parts["test"]
        parts["test_warm"] = warm, [corpus.warm]
        parts["test_all"] = warm | of_val | of_test, [corpus.test, corpus.warm]
    mine = by_user(corpus.train)
    for part, (items, looked_for) in parts.items():
        relevant = by_user(*looked_for)
        others = set(range(20)) - items
        seen = {user: mine[user] | others for user in relevant}
        lists = lists_of(corpus, scores, relevant, seen, 3)
        for k in cutoffs:
            expected = [naive_accuracy(lists[user], relevant[user], k) for user in relevant]
            for name in ACCURACY:
                found = values.pop(f"{part}/{name}@{k}")
                assert found == pytest.approx(mean([e[name] for e in expected])), (part, name)
    assert {name.partition("/")[0] for name in values} <= {split}
    assert split == "test" or not values


def test_no_warm_item_held_out_is_none_ranked():
    corpus = cold_corpus(0, warm_held=False)
    rankings = Rankings(corpus, "test", Evaluation((1, 3)))
    values = feed(rankings, random_scores(corpus)).compute()
    assert {name.partition("/")[0] for name in values} == {"test", "test_cold"}


def test_cold_candidates_need_cold_items():
    with pytest.raises(SettingError) as error:
        Rankings(make_corpus(), "val", Evaluation(CUTOFFS, candidates="cold"))
    assert (error.value.setting, error.value.value) == ("evaluation.candidates", "cold")


def test_a_cutoff_beyond_the_candidates_is_refused():
    for check in (check_rankable, lambda *words: Rankings(words[0], "val", words[1])):
        with pytest.raises(SettingError) as error:
            check(cold_corpus(0), Evaluation((1, 8), candidates="split"))
        assert error.value.value == [1, 8]
        said = "the cutoff 8 exceeds the 4 cold-start items in val of toy"
        assert error.value.problem.startswith(said)


def test_a_cutoff_that_only_a_test_lacks_items_for_is_refused_before_it():
    corpus = cold_corpus(0)
    warm = replace(corpus, cold=torch.tensor([0] * 3 + [1] * 9 + [2] * 8, dtype=torch.int8))
    with pytest.raises(SettingError) as error:
        check_rankable(warm, Evaluation((1, 4)))
    assert error.value.problem == "the cutoff 4 exceeds the 3 warm items of toy"
    few = replace(corpus, cold=torch.tensor([0] * 12 + [1] * 6 + [2] * 2, dtype=torch.int8))
    with pytest.raises(SettingError) as error:
        check_rankable(few, Evaluation((1, 3), candidates="split"))
    assert error.value.problem == "the cutoff 3 exceeds the 2 cold-start items in test of toy"
    check_rankable(corpus, Evaluation((1, 4)))


def test_a_result_names_its_candidates():
    assert Evaluation().card(make_corpus()) == {
        "seen": "train",
        "candidates": "all",
        "history": "train",
    }
    assert Evaluation().card(cold_corpus(0)) == {
        "seen": "train",
        "candidates": "cold",
        "history": "train",
    }


def test_groups_are_cut_by_rank():
    counts = torch.tensor([1, 9, 5, 5, 0, 7, 2, 2, 2, 3])
    assert groups(counts, (0.2, 0.3)).tolist() == [2, 0, 1, 1, 2, 0, 2, 2, 2, 1]


def test_scores_of_any_layout_and_precision_are_taken():
    corpus = make_corpus()
    metric = RankingMetric(corpus, "test", Evaluation(CUTOFFS), detailed=False)
    popular = corpus.item_counts().to(torch.bfloat16)  # 0..9: exact
    metric.update(metric.users, popular.expand(len(metric.users), -1))
    expanded = as_floats(metric.compute())
    metric.reset()
    for user in metric.users:
        metric.update(user[None], popular.float()[None].clone().requires_grad_())
    assert as_floats(metric.compute()) == expanded


def test_moving_to_half_precision_keeps_the_result():
    corpus = make_corpus(modalities=0)
    scores = random_scores(corpus)
    metric = RankingMetric(corpus, "test", Evaluation(CUTOFFS), detailed=True)
    expected = as_floats(feed(metric, scores).compute())
    metric.reset()
    assert as_floats(feed(metric.to(torch.bfloat16), scores).compute()) == expected


def test_nothing_of_the_metric_enters_a_checkpoint():
    metric = RankingMetric(make_corpus(), "test", Evaluation(CUTOFFS), detailed=True)
    assert not metric.state_dict()


def stacked(*parts):
    return torch.cat([torch.stack([part.user, part.item]) for part in parts], 1)


def test_pairs_alone_give_the_metrics_of_a_corpus():
    corpus = make_corpus()
    scores = random_scores(corpus)
    whole = RankingMetric(
        corpus, "test", Evaluation(cutoffs=CUTOFFS, seen="train+val"), detailed=False
    )
    alone = RankingMetric.from_pairs(
        stacked(corpus.test, corpus.test),  # a repeated pair counts once
        stacked(corpus.train, corpus.val),
        n_users=corpus.n_users,
        n_items=corpus.n_items,
        cutoffs=CUTOFFS,
    )
    assert torch.equal(whole.users, alone.users)
    assert feed(alone, scores).compute() == feed(whole, scores).compute()
    assert feed(copy.deepcopy(alone), scores).compute() == alone.compute()


@pytest.mark.parametrize(
    ("held_out", "seen", "more", "message"),
    [
        ([[0], [9]], None, {}, "an item of held_out lies outside 0..8"),
        ([[0], [1]], [[5], [1]], {}, "a user of seen lies outside 0..4"),
        ([[0, 1]], None, {}, r"held_out is int64 \[1, 2\], expected int64 \[2, N\]"),
        ([[0.5], [1]], None, {}, "held_out is float32"),
        ([[0], [1]], None, {"cutoffs": [20]}, "the cutoff 20 exceeds the catalogue of 9 items"),
        ([[0], [1]], None, {"cutoffs": [3, 2]}, "cutoffs"),
    ],
)
def test_pairs_that_cannot_be_are_refused(held_out, seen, more, message):
    given = None if seen is None else torch.tensor(seen)
    with pytest.raises(ValueError, match=message):
        RankingMetric.from_pairs(
            torch.tensor(held_out), given, **{"n_users": 5, "n_items": 9, "cutoffs": [2], **more}
        )


def test_no_held_out_pair_is_refused():
    with pytest.raises(ValueError, match="no pair"):
        RankingMetric.from_pairs(torch.empty(2, 0, dtype=torch.int64), n_users=5, n_items=9)
