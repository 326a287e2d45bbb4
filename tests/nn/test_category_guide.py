"""Labels of items, the weights of channels, and the loss of the predictor, written out."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from mmrec.data import Categories
from mmrec.nn import CategoryGuide, CategoryLabels, category_loss

CHANNELS, ROWS, DIM, LABELS = 3, 5, 4, 6


@pytest.fixture
def x():
    return torch.randn(CHANNELS, ROWS, DIM, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def present():
    mask = torch.ones(ROWS, CHANNELS, dtype=torch.bool)
    mask[1, 2] = mask[3, 1] = mask[3, 2] = False
    return mask


def test_labels_are_those_of_the_pairs_in_any_order():
    pairs = [(4, 1), (0, 2), (4, 0), (2, 2), (0, 1)]
    item, category = torch.tensor(pairs).T
    labels = CategoryLabels(Categories(item, category, ("a", "b", "c")), n_items=5)
    items = torch.tensor([4, 1, 0, 4, 3, 2])
    targets, labelled = labels(items)
    expected = [[float((i, c) in pairs) for c in range(3)] for i in items.tolist()]
    assert targets.tolist() == expected
    assert labelled.tolist() == [True, False, True, True, False, True]
    assert not list(labels.state_dict())


def test_weights_and_logits_are_those_written_out(x, present):
    torch.manual_seed(0)
    guide = CategoryGuide(CHANNELS, DIM, LABELS).requires_grad_(False)
    weights, logits = guide(x, present)
    for n in range(ROWS):
        those = [c for c in range(CHANNELS) if present[n, c]]
        hidden = {c: x[c, n] @ guide.map[c] + guide.bias[c, 0] for c in those}
        powers = {c: exp(float(guide.scalar.weight[0] @ hidden[c])) for c in those}
        shares = {c: powers[c] / sum(powers.values()) for c in those}
        expected = torch.tensor([shares.get(c, 0.0) for c in range(CHANNELS)])
        torch.testing.assert_close(weights[n], expected)
        fused = sum(shares[c] * hidden[c] for c in those)
        torch.testing.assert_close(logits[n], guide.predict.weight @ fused + guide.predict.bias)


def test_unweighed_channels_share_evenly(x, present):
    weights, _ = CategoryGuide(CHANNELS, DIM, LABELS, weighed=False)(x, present)
    torch.testing.assert_close(weights, present / present.sum(1, keepdim=True))


def test_weights_do_not_need_categories(x, present):
    weights, logits = CategoryGuide(CHANNELS, DIM, 0)(x, present)
    assert logits is None
    torch.testing.assert_close(weights.sum(1), torch.ones(ROWS))


def test_the_channel_that_tells_the_categories_gets_the_weight():
    """The second of two channels shows the category, the first is noise."""
    torch.manual_seed(0)
    label = torch.arange(64) % 4
    x = torch.stack([torch.randn(64, 4), torch.nn.functional.one_hot(label, 4).float()])
    present, targets = torch.ones(64, 2, dtype=torch.bool), x[1]
    guide = CategoryGuide(2, 4, 4)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.02)
    for _ in range(200):
        x[0].normal_()
        optimizer.zero_grad()
        _, logits = guide(x, present)
        category_loss(logits, targets, present.all(1)).backward()
        optimizer.step()
    weights, _ = guide(x, present)
    assert weights[:, 1].mean() > 0.8


def test_the_loss_counts_labelled_rows_only():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]])
    labelled = torch.tensor([True, False, True, False])
    terms = [
        -log(1 / (1 + exp(-z if t else z)))
        for n in (0, 2)
        for z, t in zip(logits[n].tolist(), targets[n].tolist(), strict=True)
    ]
    loss = category_loss(logits, targets, labelled)
    assert float(loss) == pytest.approx(sum(terms) / 6)
    assert category_loss(logits, targets, torch.zeros(4, dtype=torch.bool)) == 0
