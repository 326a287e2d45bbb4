from __future__ import annotations

import pytest
import torch

from mmrec.data import Modality
from mmrec.nn import Features

PRESENT = torch.tensor([True, False, True, True])


@pytest.fixture
def modality():
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) + 5
    return Modality(rows * PRESENT[:, None], PRESENT, "digest")


def test_fixed_features_are_not_in_checkpoints(modality):
    features = Features(modality)
    assert torch.equal(features(), modality.features)
    assert features.state_dict() == {}
    assert not [*features.parameters()]


def test_trainable_features_get_gradients_where_they_are_present(modality):
    features = Features(modality, trainable=True)
    assert torch.equal(features(), modality.features)
    features().sum().backward()
    assert torch.equal(features.rows.grad, PRESENT[:, None].float().expand(4, 3))
    with torch.no_grad():
        features.rows += 1
    assert not torch.equal(features()[0], modality.features[0])  # the modality has its own copy


@pytest.mark.parametrize("trainable", [False, True])
def test_standardized_features_have_mean_zero_and_unit_mean_squared_norm(modality, trainable):
    rows = Features(modality, trainable=trainable, standardize=True)()
    assert not rows[1].any()
    torch.testing.assert_close(rows[PRESENT].mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows[PRESENT].square().sum(1).mean(), torch.tensor(1.0))
