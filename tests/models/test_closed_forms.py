"""EASE, ItemKNN, MostPop and Random against what they say they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.config.errors import SettingError
from mmrec.data import DataError, Queries
from mmrec.graphs import content_similarity
from mmrec.models import EASE, ItemKNN, MostPop, Random, ease


def history(corpus) -> Tensor:
    x = torch.zeros(corpus.n_users, corpus.n_items)
    x[corpus.train.user, corpus.train.item] = 1
    return x


def scores(model) -> Tensor:
    return model.score(model.encode(), Queries(torch.arange(model.corpus.n_users)))


@pytest.mark.parametrize("l2", [0.5, 250.0])
def test_ease_is_eq_8(small_corpus, l2):
    corpus = small_corpus()
    x = history(corpus).double().numpy()
    p = np.linalg.inv(x.T @ x + l2 * np.eye(corpus.n_items))
    b = p / -np.diag(p)
    np.fill_diagonal(b, 0)
    np.testing.assert_allclose(scores(EASE(corpus, l2=l2)).numpy(), x @ b, rtol=1e-4, atol=1e-6)


def test_ease_solves_its_ridge_regression(small_corpus):
    """No other weights with zero diagonal reconstruct the histories at less cost (Eq. 1)."""
    corpus = small_corpus()
    x, rng = history(corpus).double(), torch.Generator().manual_seed(0)
    best = EASE(corpus, l2=2.0).weights.double()

    def cost(b):
        return (x - x @ b).square().sum() + 2.0 * b.square().sum()

    for _ in range(20):
        other = torch.randn(best.shape, generator=rng).double().fill_diagonal_(0)
        assert cost(best + 1e-2 * other) > cost(best)


def test_content_is_added_to_ease_by_its_weight(small_corpus):
    corpus = small_corpus()
    plain, mixed = EASE(corpus), EASE(corpus, content_weight=0.7, k=3)
    added = 0.7 * history(corpus) @ content_similarity(corpus.modalities, 3).to_dense()
    torch.testing.assert_close(scores(mixed), scores(plain) + added)


def test_ease_needs_content_only_if_it_is_weighted(small_corpus):
    bare = small_corpus(modalities=0)
    assert scores(EASE(bare)).isfinite().all()
    with pytest.raises(DataError) as error:
        EASE(bare, content_weight=1.0)
    assert error.value.file == bare.name
    assert error.value.problem.startswith("model ease needs item features")


def test_ease_refuses_a_catalogue_whose_matrix_would_not_fit(small_corpus, monkeypatch):
    monkeypatch.setattr(ease, "LARGEST", 8)
    with pytest.raises(SettingError) as error:
        EASE(small_corpus())
    assert (error.value.setting, error.value.value) == ("model", "ease")
    assert error.value.problem.endswith("found 9 items, the limit is 8")


def test_item_knn_is_a_sum_over_the_history(small_corpus):
    corpus, k = small_corpus(modalities=2), 3
    expected = torch.zeros(corpus.n_users, corpus.n_items)
    for modality in corpus.modalities.values():
        f = torch.nn.functional.normalize(modality.features, dim=1)
        near = [
            sorted((j for j in range(9) if j != i), key=lambda j: -float(f[i] @ f[j]))[:k]
            for i in range(9)
        ]
        for user, item in zip(
            *map(Tensor.tolist, (corpus.train.user, corpus.train.item)), strict=True
        ):
            for other in range(9):
                if other in near[item] or item in near[other]:
                    expected[user, other] += max(float(f[item] @ f[other]), 0) / 2
    torch.testing.assert_close(scores(ItemKNN(corpus, k=k)), expected)


def test_neighbours_that_no_modality_has_are_named(checkerboard):
    with pytest.raises(SettingError) as error:
        ItemKNN(checkerboard(missing=8), k=88)
    assert (error.value.setting, error.value.value) == ("model.k", 88)
    assert error.value.problem == "only 88 items have modality visual"


def test_most_pop_counts(small_corpus):
    corpus = small_corpus()
    assert torch.equal(scores(MostPop(corpus)), history(corpus).sum(0).expand(7, 9))


def test_random_is_uniform_and_a_users_own(small_corpus):
    corpus = small_corpus(n_users=100, n_items=200)
    score = scores(Random(corpus))
    assert score.unique().numel() > 0.99 * score.numel()
    assert 0 <= score.min() < score.max() < 1
    counts = torch.histc(score, bins=10, min=0, max=1)
    chi_square = ((counts - 2000).square() / 2000).sum()
    assert chi_square < 27.9  # 9 degrees of freedom, 0.1 %
    correlations = torch.corrcoef(score).fill_diagonal_(0)
    assert correlations.abs().max() < 6 / 200**0.5  # independent users: 1 / sqrt(I) each
    assert torch.corrcoef(score.T).fill_diagonal_(0).abs().max() < 6 / 100**0.5


def test_another_seed_is_another_order(small_corpus):
    corpus = small_corpus(n_users=50, n_items=200)
    one, other = scores(Random(corpus, seed=0)), scores(Random(corpus, seed=2**31))
    assert torch.equal(one, scores(Random(corpus, seed=0)))
    assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].abs() < 0.05
