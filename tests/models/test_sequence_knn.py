"""SequenceKNN against the sum over the last items, written out."""

import pytest
import torch

from mmrec.config.errors import SettingError
from mmrec.data import Queries
from mmrec.data.batches import History
from mmrec.graphs import cooccurrence_similarity
from mmrec.models import SequenceKNN

LISTS = ([4], [1, 2, 3, 4, 1], [], [5, 5])


def queries(lists):
    flat = torch.tensor([item for each in lists for item in each], dtype=torch.int64)
    length = torch.tensor([len(each) for each in lists])
    return Queries(torch.arange(len(lists)), History(flat, length))


@pytest.mark.parametrize(("last", "decay"), [(1, 0.5), (3, 0.5), (3, 0.0), (9, 1.0)])
def test_it_sums_over_the_last_items(last, decay, small_corpus):
    corpus = small_corpus(seed=1, n_users=14)
    model = SequenceKNN(corpus, k=4, last=last, decay=decay, shrinkage=2.0)
    size = corpus.n_users, corpus.n_items
    similar = cooccurrence_similarity(corpus.train, *size, 4, 2.0).to_dense().T
    expected = torch.zeros(len(LISTS), corpus.n_items)
    for row, items in enumerate(LISTS):
        for age, item in enumerate(reversed(items[-last:])):
            expected[row] += decay**age * similar[item]
    torch.testing.assert_close(model.score(None, queries(LISTS)), expected)
    similarity = model.item_similarity(None, torch.tensor([2, 7]))
    torch.testing.assert_close(
        similarity, similar[[2, 7]].masked_fill(similar[[2, 7]] == 0, -torch.inf)
    )


@pytest.mark.parametrize(
    ("setting", "value"), [("k", 0), ("last", 0), ("decay", 1.5), ("shrinkage", -1.0)]
)
def test_settings_out_of_range_are_refused(setting, value, small_corpus):
    with pytest.raises(SettingError) as error:
        SequenceKNN(small_corpus(), **{setting: value})
    assert (error.value.setting, error.value.value) == (f"model.{setting}", value)
