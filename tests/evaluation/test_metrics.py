import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric import metrics as pyg
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_reciprocal_rank

from mmrec.data import PygData
from mmrec.evaluation import metrics
from mmrec.evaluation.protocol import Evaluation
from mmrec.models import BPR

modest = settings(max_examples=40, deadline=None)

CUTOFFS = (1, 2, 3, 5, 8)
LENGTH = CUTOFFS[-1]
PYG = {
    "recall": pyg.LinkPredRecall,
    "precision": pyg.LinkPredPrecision,
    "ndcg": pyg.LinkPredNDCG,
    "mrr": pyg.LinkPredMRR,
    "map": pyg.LinkPredMAP,
    "hit_rate": pyg.LinkPredHitRatio,
}


def naive(found, total, k):
    """Every accuracy metric of one list, as it is defined on paper."""
    ranks = [r for r, hit in enumerate(found[:k], start=1) if hit]
    possible = min(total, k)
    return {
        "recall": len(ranks) / total,
        "hit_rate": float(bool(ranks)),
        "precision": len(ranks) / k,
        "ndcg": sum(1 / math.log2(r + 1) for r in ranks)
        / sum(1 / math.log2(r + 1) for r in range(1, possible + 1)),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": sum((n + 1) / r for n, r in enumerate(ranks)) / possible,
    }


@st.composite
def lists(draw):
    rows = draw(st.lists(st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH), min_size=1))
    held_out = [max(1, sum(row)) + draw(st.integers(0, 10)) for row in rows]
    return torch.tensor(rows), torch.tensor(held_out)


@modest
@given(lists())
def test_accuracy_is_what_the_definitions_say_at_every_cutoff(data):
    hits, held_out = data
    values = metrics.accuracy(hits, held_out)
    for row, total in enumerate(held_out.tolist()):
        for k in range(1, LENGTH + 1):
            for name, expected in naive(hits[row].tolist(), total, k).items():
                assert values[name][row, k - 1].item() == pytest.approx(expected, abs=1e-12)


def test_accuracy_of_a_list_computed_by_hand():
    # Second and fourth of four are hits, three items are held out.
    values = metrics.accuracy(torch.tensor([[False, True, False, True]]), torch.tensor([3]))
    gain, ideal = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3) + 1 / 2
    at_4 = {name: value[0, 3].item() for name, value in values.items()}
    assert at_4 == pytest.approx(
        {
            "recall": 2 / 3,
            "hit_rate": 1,
            "precision": 1 / 2,
            "ndcg": gain / ideal,
            "mrr": 1 / 2,
            "map": (1 / 2 + 2 / 4) / 3,
        }
    )


@modest
@given(lists(), st.sampled_from(CUTOFFS))
def test_accuracy_agrees_with_pyg(data, k):
    hits, held_out = data
    values = metrics.accuracy(hits, held_out)
    # Item r has rank r in each list; held-out items that are not found come after the list.
    row, item = hits.nonzero().T
    missed = held_out - hits.sum(1)
    rows = torch.arange(len(hits)).repeat_interleave(missed)
    beyond = torch.cat([torch.arange(LENGTH, LENGTH + n) for n in missed.tolist()])
    edges = torch.stack([torch.cat([row, rows]), torch.cat([item, beyond])])
    for name, cls in PYG.items():
        theirs = cls(k)
        theirs.update(torch.arange(LENGTH).expand(len(hits), -1), edges)
        ours = values[name][:, k - 1].mean()
        torch.testing.assert_close(ours.float(), theirs.compute(), msg=f"{name}@{k}")


@modest
@given(st.integers(0, 999), st.integers(2, 6))
def test_what_is_recommended_is_described_as_by_pyg(seed, k):
    generator = torch.Generator().manual_seed(seed)
    n_items = 9
    ranked = torch.rand(5, n_items, generator=generator).argsort(1)[:, :k]
    counts = torch.randint(20, (n_items,), generator=generator)
    category = torch.randint(3, (n_items,), generator=generator)
    recommended = torch.bincount(ranked.flatten(), minlength=n_items)
    features = torch.eye(3)[category]  # a cosine of 1 in a category, of 0 between two
    distance = metrics.diversity(ranked, features, metrics.inverse_row_norms(features), [k])
    for ours, theirs in (
        (metrics.coverage(recommended), pyg.LinkPredCoverage(k, n_items)),
        (metrics.popularity(recommended, counts), pyg.LinkPredAveragePopularity(k, counts)),
        (distance.mean(), pyg.LinkPredDiversity(k, category)),
    ):
        theirs.update(ranked, torch.empty(2, 0, dtype=torch.int64))
        torch.testing.assert_close(ours.float(), theirs.compute())


@pytest.mark.parametrize("seen", ["none", "train", "train+val"])
def test_a_test_stage_agrees_with_pyg_on_the_same_graph(small_corpus, quiet_trainer, seen):
    corpus = small_corpus(n_users=20, n_items=15)
    graph = corpus.to_pyg()
    data = PygData(graph)
    model = BPR(data.corpus, dim=4)
    model.evaluation = Evaluation(cutoffs=(3, 5), seen=seen)
    (found,) = quiet_trainer().test(model, data, verbose=False)
    scores = model.user.weight @ model.item.weight.T
    for split in {"none": (), "train": ("train",), "train+val": ("train", "val")}[seen]:
        user, item = graph["user", split, "item"].edge_index
        scores[user, item] = -torch.inf
    for k in (3, 5):
        for name, cls in PYG.items():
            theirs = cls(k)
            theirs.update(scores.topk(k).indices, graph["user", "test", "item"].edge_index)
            assert found[f"test/{name}@{k}"] == pytest.approx(theirs.compute().item(), abs=1e-6)


@modest
@given(st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH).filter(any))
def test_map_and_mrr_of_a_full_ranking_agree_with_torchmetrics(found):
    hits = torch.tensor(found)
    scores = torch.linspace(1, 0.1, LENGTH)
    values = metrics.accuracy(hits[None], hits.sum()[None])
    ours = values["map"][0, -1].float(), values["mrr"][0, -1].float()
    theirs = retrieval_average_precision(scores, hits), retrieval_reciprocal_rank(scores, hits)
    torch.testing.assert_close(ours, theirs)


def test_a_list_without_held_out_items_is_worth_nothing():
    values = metrics.accuracy(torch.zeros(1, 4, dtype=torch.bool), torch.tensor([0]))
    assert all(value.tolist() == [[0.0] * 4] for value in values.values())


@st.composite
def score_blocks(draw):
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    few = st.sampled_from([-math.inf, -1.5, -1.0, -0.0, 0.0, 1e-30, 1.0, 2.0])
    values = draw(st.lists(few, min_size=n_users * n_items, max_size=n_users * n_items))
    k = draw(st.integers(1, n_items))
    return torch.tensor(values).view(n_users, n_items), k


@modest
@given(score_blocks())
def test_ranking_returns_the_best_scores_in_falling_order_and_nothing_masked(data):
    scores, k = data
    ranked = metrics.rank_items(scores, torch.arange(len(scores)), k)
    assert ranked.shape == (len(scores), k)
    for row, items in zip(scores.tolist(), ranked.tolist(), strict=True):
        kept = [i for i in items if i >= 0]
        possible = sorted((s for s in row if s > -math.inf), reverse=True)
        assert [row[i] for i in kept] == possible[:k]
        assert len(set(kept)) == len(kept)
        assert items[len(kept) :] == [-1] * (k - len(kept))


@modest
@given(score_blocks(), st.randoms(use_true_random=False))
def test_ranking_of_a_user_does_not_depend_on_the_batch(data, random):
    scores, k = data
    users = torch.tensor(random.sample(range(1000), len(scores)))
    together = metrics.rank_items(scores, users, k)
    order = torch.tensor(random.sample(range(len(users)), len(users)))
    assert torch.equal(metrics.rank_items(scores[order], users[order], k), together[order])
    alone = [metrics.rank_items(scores[i, None], users[i, None], k) for i in range(len(users))]
    assert torch.equal(torch.cat(alone), together)


@modest
@given(score_blocks())
def test_a_shorter_ranking_is_the_head_of_a_longer_one(data):
    scores, k = data
    users = torch.arange(len(scores))
    longest = metrics.rank_items(scores, users, scores.shape[1])
    assert torch.equal(metrics.rank_items(scores, users, k), longest[:, :k])


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_ties_are_broken_alike_whatever_the_block(monkeypatch, rows):
    scores = torch.randint(3, (20, 40), generator=torch.Generator().manual_seed(0)).float()
    users = torch.arange(20)
    expected = metrics.rank_items(scores, users, 10)
    monkeypatch.setattr(metrics, "TIED_BLOCK", rows * 40)
    assert torch.equal(metrics.rank_items(scores, users, 10), expected)


def test_the_two_zeros_are_one_score():
    users = torch.arange(50)
    zeros = torch.zeros(50, 30)
    mixed = torch.where(torch.arange(30) % 2 == 0, zeros, -zeros)
    assert torch.equal(metrics.rank_items(mixed, users, 10), metrics.rank_items(zeros, users, 10))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_scores_rank_like_their_float32_values(dtype):
    scores = torch.randn(20, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    users = torch.arange(20)
    expected = metrics.rank_items(scores.float(), users, 40)
    assert torch.equal(metrics.rank_items(scores, users, 40), expected)


def test_a_constant_scorer_gives_every_item_and_every_pair_the_same_chance():
    n_users, n_items, k = 20_000, 50, 10
    ranked = metrics.rank_items(torch.zeros(n_users, n_items), torch.arange(n_users), k)
    listed = torch.zeros(n_users, n_items).scatter_(1, ranked, 1.0)
    chance = k / n_items
    deviation = math.sqrt(chance * (1 - chance) / n_users)
    # The largest of 50 normal deviations exceeds 4.5 less often than once in 2,000 draws.
    assert ((listed.mean(0) - chance).abs() < 4.5 * deviation).all()
    together = (listed[:, :1] * listed[:, 1:]).mean(0)
    pair = chance * (k - 1) / (n_items - 1)
    assert ((together - pair).abs() < 4.5 * math.sqrt(pair * (1 - pair) / n_users)).all()


def test_neighbouring_users_break_ties_independently():
    n_users, n_items, k = 20_000, 50, 10
    ranked = metrics.rank_items(torch.zeros(n_users, n_items), torch.arange(n_users), k)
    listed = torch.zeros(n_users, n_items).scatter_(1, ranked, 1.0)
    shared = (listed[1:] * listed[:-1]).sum(1)  # items in common: hypergeometric
    mean = k * k / n_items
    variance = mean * (1 - k / n_items) * (n_items - k) / (n_items - 1)
    assert abs(shared.mean().item() - mean) < 4.5 * math.sqrt(variance / n_users)
    assert shared.var().item() == pytest.approx(variance, rel=0.06)


def test_beyond_accuracy_computed_by_hand():
    recommended = torch.tensor([[1, 0, 3, 0], [1, 1, 1, 1], [0, 0, 0, 4]])
    counts = torch.tensor([4, 2, 1, 0])
    assert metrics.coverage(recommended).tolist() == [0.5, 1.0, 0.25]
    # Mean absolute difference of all ordered pairs over twice the mean: 20 / 16 / 2 = 0.625.
    assert metrics.gini(recommended).tolist() == pytest.approx([0.625, 0.0, 0.75])
    assert metrics.popularity(recommended, counts).tolist() == [7 / 4, 7 / 4, 0.0]
    # Self-information of the four items among 8 users: 1, 2, 3 bits, and 3 for the unknown one.
    novelty = metrics.novelty(recommended, counts, 8)
    assert novelty.tolist() == [10 / 4, 9 / 4, 3.0]


@modest
@given(st.lists(st.integers(0, 20), min_size=1, max_size=20).filter(any))
def test_gini_is_the_mean_absolute_difference_over_twice_the_mean(counts):
    n = len(counts)
    difference = sum(abs(a - b) for a in counts for b in counts) / n**2
    expected = difference / (2 * sum(counts) / n)
    assert metrics.gini(torch.tensor(counts)).item() == pytest.approx(expected, abs=1e-12)


@modest
@given(st.integers(0, 2**31))
def test_diversity_is_one_minus_the_mean_cosine_of_all_pairs(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    features[:3] = 0  # no content
    ranked = torch.stack([torch.randperm(12, generator=generator)[:6] for _ in range(4)])
    ranked[0, 2:] = -1
    cutoffs = (1, 2, 4, 6)
    norms = metrics.inverse_row_norms(features)
    values = metrics.diversity(ranked, features, norms, cutoffs)
    for row, items in enumerate(ranked.tolist()):
        for column, k in enumerate(cutoffs):
            kept = [i for i in items[:k] if i >= 3]
            cosines = [
                torch.cosine_similarity(features[a], features[b], dim=0).item()
                for a in kept
                for b in kept
                if a != b
            ]
            expected = 1 - sum(cosines) / len(cosines) if cosines else math.nan
            assert values[row, column].item() == pytest.approx(expected, abs=1e-9, nan_ok=True)
