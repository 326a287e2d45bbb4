from __future__ import annotations

import torch

from mmrec.data import Triplets
from mmrec.nn import lookup


def test_rows_and_gradients_are_those_of_indexing():
    rng = torch.Generator().manual_seed(0)
    users, items = torch.randn(4, 3, generator=rng), torch.randn(6, 3, generator=rng)
    batch = Triplets(
        user=torch.tensor([0, 3, 0]),
        positive=torch.tensor([5, 1, 1]),
        negative=torch.tensor([[1, 1], [0, 5], [2, 3]]),
    )
    gradients = []
    for rows in (
        lambda u, i: lookup(batch, u, i),
        lambda u, i: (u[batch.user], i[batch.positive], i[batch.negative]),
    ):
        tables = users.clone().requires_grad_(), items.clone().requires_grad_()
        found = rows(*tables)
        assert [x.shape for x in found] == [(3, 3), (3, 3), (3, 2, 3)]
        sum((x.exp() * (place + 1)).sum() for place, x in enumerate(found)).backward()
        gradients.append([*found, *(table.grad for table in tables)])
    torch.testing.assert_close(*gradients)
