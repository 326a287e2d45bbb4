"""BPR and VBPR against their equations."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import logsigmoid

from mmrec.data import DataError, Queries, Triplets
from mmrec.models import BPR, VBPR

BATCH = Triplets(torch.tensor([0, 2]), torch.tensor([1, 4]), torch.tensor([[2, 3], [2, 8]]))


def randomise(model):
    """Values all over, as zeros would hide a missing term."""
    rng = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=rng))
    return model


def criterion(score):
    """BPR-Opt over the batch, from a table of all scores."""
    terms = [
        -logsigmoid(score[user, positive] - score[user, negative])
        for user, positive, negatives in zip(*map(torch.Tensor.tolist, BATCH), strict=True)
        for negative in negatives
    ]
    return torch.stack(terms).mean()


def test_bpr_is_the_criterion_over_dot_products(small_corpus):
    model = randomise(BPR(small_corpus(), dim=4, l2=0.5))
    score = model.user.weight @ model.item.weight.T
    torch.testing.assert_close(model.score(model.encode(), Queries(BATCH.user)), score[BATCH.user])
    losses = model.losses(BATCH)
    torch.testing.assert_close(losses["bpr"], criterion(score))
    rows = [model.user(BATCH.user), model.item(BATCH.positive), model.item(BATCH.negative)]
    torch.testing.assert_close(losses["l2"], 0.5 * sum(x.square().sum() for x in rows) / 4)


def test_vbpr_is_eq_4(small_corpus, centred):
    corpus = small_corpus(modalities=2)
    model = randomise(VBPR(corpus, dim=4, l2=0.5))
    content = sum(
        project(centred(m.features))
        for project, m in zip(model.project, corpus.modalities.values(), strict=True)
    )
    score = torch.stack(
        [
            torch.stack(
                [
                    model.bias.weight[i, 0]
                    + model.user.weight[u] @ model.item.weight[i]
                    + model.user_content.weight[u] @ content[i, :-1]
                    + content[i, -1]
                    for i in range(corpus.n_items)
                ]
            )
            for u in range(corpus.n_users)
        ]
    )
    found = model.score(model.encode(), Queries(torch.arange(corpus.n_users)))
    torch.testing.assert_close(found, score)
    torch.testing.assert_close(model.losses(BATCH)["bpr"], criterion(score))


@pytest.mark.parametrize("kind", [BPR, VBPR])
def test_an_unknown_norm_is_not_taken_for_another(small_corpus, kind):
    by_norm = {
        norm: randomise(kind(small_corpus(), dim=4, norm=norm)).losses(BATCH)["l2"].item()
        for norm in ("squared", "frobenius")
    }
    assert by_norm["squared"] != pytest.approx(by_norm["frobenius"])


def test_vbpr_without_content_is_refused(small_corpus):
    with pytest.raises(DataError) as error:
        VBPR(small_corpus(modalities=0))
    assert error.value.file == "small"
    assert error.value.problem.startswith("model vbpr needs item features")
