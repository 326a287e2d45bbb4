from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.data import Interactions
from mmrec.nn import UserItems


@settings(max_examples=40)
@given(
    st.sets(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1),
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
    st.randoms(),
)
def test_it_is_rows_of_the_train_matrix(pairs, users, random):
    pairs = list(pairs)
    random.shuffle(pairs)
    user, item = torch.tensor(pairs).unbind(1)
    dense = torch.zeros(5, 6)
    dense[user, item] = 1
    rows = UserItems(Interactions(user, item), 5, 6)(torch.tensor(users))
    assert rows.layout == torch.sparse_csr
    assert torch.equal(rows.to_dense(), dense[users])


def test_a_user_without_history_has_an_empty_row():
    history = UserItems(Interactions(torch.tensor([1]), torch.tensor([2])), 3, 4)
    assert history(torch.tensor([0, 2])).to_dense().tolist() == [[0] * 4] * 2
