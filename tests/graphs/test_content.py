from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.config.errors import SettingError
from mmrec.data import Modality, content_hash
from mmrec.graphs import content_similarity


def content(seed, width, items=8, absent=()):
    features = torch.randn(items, width, generator=torch.Generator().manual_seed(seed))
    present = torch.ones(items, dtype=torch.bool)
    present[list(absent)] = False
    features[~present] = 0
    return Modality(features, present, content_hash([features, present]))


def naive(modalities, k):
    """Mean over modalities of positive cosines, where either of two items is near the other."""
    n = len(modalities[0].features)
    total = torch.zeros(n, n)
    for modality in modalities:
        items = [i for i in range(n) if modality.present[i]]
        cosine = {
            (i, j): torch.cosine_similarity(modality.features[i], modality.features[j], 0).item()
            for i in items
            for j in items
            if i != j
        }
        near = {
            (i, j)
            for i in items
            for j in sorted((j for j in items if j != i), key=lambda j: -cosine[i, j])[:k]
        }
        for i, j in near | {(j, i) for i, j in near}:
            total[i, j] += max(cosine[i, j], 0) / len(modalities)
    return total


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 5))
def test_it_is_the_mean_cosine_of_near_neighbours(seed, kinds, k):
    modalities = [content(seed + n, 3 + n, absent=[n, 7 - n]) for n in range(kinds)]
    found = content_similarity({str(n): m for n, m in enumerate(modalities)}, k)
    torch.testing.assert_close(found.to_dense(), naive(modalities, k))


def test_items_without_content_are_nobodys_neighbours():
    one = content(0, 4, absent=[2, 3])
    two = content(1, 4, absent=[3])
    found = content_similarity({"one": one, "two": two}, 3).to_dense()
    assert found[2].any()
    assert not found[3].any()
    assert not found[:, 3].any()
    assert not found.diagonal().any()


def test_a_k_that_no_modality_can_serve_is_refused():
    with pytest.raises(SettingError) as error:
        content_similarity({"one": content(0, 4)}, 8)
    assert (error.value.setting, error.value.value) == ("model.k", 8)
    assert error.value.problem == "only 8 items have one"
