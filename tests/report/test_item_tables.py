from __future__ import annotations

import torch

from mmrec.data import Interactions, TrainingView
from mmrec.report.item_tables import latest_items


def _corpus(time):
    user = torch.tensor([0, 1, 0, 0, 1])
    item = torch.tensor([3, 1, 0, 2, 4])
    train = Interactions(user, item, None if time is None else torch.tensor(time))
    return TrainingView(
        name="any", n_users=3, n_items=5, train=train, split="any", fingerprint="any"
    )


def _rows(time, users, k):
    return latest_items(_corpus(time), torch.tensor(users), k).rows()


def test_the_latest_by_time_come_first():
    assert _rows([9, 1, 7, 8, 0], [0, 1], 2) == [(0, 3), (0, 2), (1, 1), (1, 4)]


def test_without_times_rows_of_the_file_count():
    assert _rows(None, [1, 0], 2) == [(1, 4), (1, 1), (0, 2), (0, 0)]


def test_users_without_items_have_no_rows():
    assert _rows(None, [2], 2) == []
    assert _rows(None, [], 2) == []
