"""The lift of content neighbours is that of a naive loop, and tells shuffled features."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mmrec.data import Interactions, Modality
from mmrec.data.prepare import lift
from mmrec.data.prepare.lift import CoInteraction, Lift, content_lift, lift_warning, nearest, usable

GROUPS, SIZE, USERS = 10, 8, 120  # items of a group have like features and the same users


def modality(features, present=None):
    features = torch.as_tensor(features, dtype=torch.float32)
    present = torch.ones(len(features), dtype=torch.bool) if present is None else present
    return Modality(features * present[:, None], present, "digest")


@pytest.fixture
def grouped():
    """Interactions, and features that are aligned with them; two items lack features."""
    draw = np.random.default_rng(3)
    group = np.arange(GROUPS * SIZE) % GROUPS
    user = np.repeat(np.arange(USERS), 4)
    item = np.concatenate(
        [draw.choice(np.flatnonzero(group == u % GROUPS), 4, replace=False) for u in range(USERS)]
    )
    stray = draw.integers(0, len(group), USERS)
    rows = Interactions(
        torch.from_numpy(np.concatenate([user, np.arange(USERS)])),
        torch.from_numpy(np.concatenate([item, stray])),
    )
    features = np.eye(GROUPS)[group] + 0.2 * draw.standard_normal((len(group), GROUPS))
    present = torch.ones(len(group), dtype=torch.bool)
    present[[5, 17]] = False
    return rows, modality(features, present)


def naive(rows, content, k):
    """Lift of all items by dictionaries and a sort of each item's cosines."""
    users = {}
    for user, item in zip(rows.user.tolist(), rows.item.tolist(), strict=True):
        users.setdefault(item, set()).add(user)
    features = content.features.double().numpy()
    known = [i for i in sorted(users) if content.present[i] and features[i].any()]

    def cosine(a, b):
        x, y = features[a], features[b]
        return x @ y / np.sqrt((x @ x) * (y @ y))

    shared = {
        pair: bool(users[pair[0]] & users[pair[1]]) for pair in itertools.permutations(known, 2)
    }
    near = [
        (a, b)
        for a in known
        for b in sorted((b for b in known if b != a), key=lambda b: -cosine(a, b))[:k]
    ]
    found = np.mean([shared[pair] for pair in near])
    return found / np.mean([*shared.values()]), near


def test_lift_is_the_naive_loop(grouped):
    rows, content = grouped
    shared = CoInteraction(rows, USERS, GROUPS * SIZE)
    expected, near = naive(rows, content, 4)
    found = content_lift(content, shared, k=4)
    assert found.value == pytest.approx(expected)
    known = usable(content, shared.items())
    neighbours, _ = nearest(content, known, known, 4)
    assert [*zip(known.repeat(4).tolist(), neighbours.flatten().tolist(), strict=True)] == near


def test_shuffled_features_have_a_lift_near_one_and_are_suspicious(grouped):
    rows, content = grouped
    shared = CoInteraction(rows, USERS, GROUPS * SIZE)
    aligned = content_lift(content, shared, k=4)
    assert aligned.value > 3
    assert not aligned.suspicious
    order = torch.randperm(GROUPS * SIZE, generator=torch.Generator().manual_seed(0))
    mixed = content_lift(modality(content.features[order], content.present[order]), shared, k=4)
    assert 0.7 < mixed.value < 1.3
    assert mixed.suspicious
    assert lift_warning("image", aligned) is None
    assert lift_warning("image", mixed).startswith(
        f"image: content neighbours share a user {mixed.value:.2f}"
    )


def test_blocks_and_samples_change_no_neighbour(grouped, monkeypatch):
    rows, content = grouped
    items = usable(content, np.arange(GROUPS * SIZE))
    whole = nearest(content, items[::3], items, 5)
    for name, value in (("BLOCK", 40), ("TILE", 3)):
        monkeypatch.setattr(lift, name, value)
    parts = nearest(content, items[::3], items, 5)
    np.testing.assert_array_equal(whole[0], parts[0])
    shared = CoInteraction(rows, USERS, GROUPS * SIZE)
    monkeypatch.setattr(lift, "QUERIES", 30)
    monkeypatch.setattr(lift, "CANDIDATES", 60)
    sampled = content_lift(content, shared, seed=1, k=4)
    assert sampled == content_lift(content, shared, seed=1, k=4)
    assert sampled.queries == 30
    assert sampled.value > 3


def test_what_cannot_be_judged(grouped):
    rows, content = grouped
    shared = CoInteraction(rows, USERS, GROUPS * SIZE)
    assert content_lift(content, shared, k=79) is None
    alone = Interactions(torch.arange(80), torch.arange(80))
    nobody = content_lift(content, CoInteraction(alone, 80, 80), k=4)
    assert nobody.value is None
    assert "no two items share a user" in lift_warning("text", nobody)
    everybody = Lift(1.0, 1.0, neighbours=0.99, random=0.99, queries=9, k=4)
    assert lift_warning("text", everybody) is None


def test_zero_rows_are_not_usable_and_huge_ones_are(grouped):
    _, content = grouped
    features = content.features.clone()
    features[3] = 0
    features[4] *= 1e38
    changed = modality(features, content.present)
    items = usable(changed, np.arange(len(features)))
    assert {*range(80)} - {*items.tolist()} == {3, 5, 17}
    _, cosine = nearest(changed, items, items, 3)
    assert np.isfinite(cosine).all()
    assert cosine.max() <= 1 + 1e-6
