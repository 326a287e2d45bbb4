"""SASRecF: the inputs and outputs of each fusion, and the Transformer in between."""

from __future__ import annotations

import pytest
import torch

from mmrec.data import DataError, History, Queries
from mmrec.models import SASRecF


def build(corpus, **settings):
    torch.manual_seed(0)
    return SASRecF(corpus, **{"dim": 8, "inner": 16, "dropout": 0.0, "max_length": 6, **settings})


def projected(model, corpus, item):
    """`W_m f_m + b_m` of one item from its raw features, zero where it lacks the modality: [D]."""
    found = []
    for project, content in zip(model.project.each, corpus.modalities.values(), strict=True):
        known = content.features[content.present]
        scale = (known - known.mean(0)).square().sum(1).mean().sqrt()
        centred = (content.features[item] - known.mean(0)) / scale
        one = project.linear.weight @ centred + project.linear.bias
        found.append(one if content.present[item] else torch.zeros_like(one))
    return found


@pytest.mark.parametrize("fusion", ["concat", "add", "content"])
@pytest.mark.parametrize("modalities", [("a",), ("a", "b", "c")])
def test_items_are_fused_as_written(checkerboard, fusion, modalities):
    corpus = checkerboard(modalities, missing=5)
    model = build(corpus, fusion=fusion)
    items, inputs = [], []
    for item in range(corpus.n_items):
        content = projected(model, corpus, item)
        if fusion == "concat":
            own = model.item.weight[item]
            items.append(own)
            inputs.append(model.fuse.weight @ torch.cat([own, *content]) + model.fuse.bias)
        else:
            own = model.item.weight[item] if fusion == "add" else 0.0
            items.append(own + torch.stack(content).sum(0))
            inputs.append(items[-1])
    if fusion == "content":  # item 0 has no content
        bare = ~torch.stack([m.present for m in corpus.modalities.values()]).any(0)
        mean = torch.stack([x for x, none in zip(items, bare, strict=True) if not none]).mean(0)
        assert bare[0]
        items = inputs = [mean if bare[i] else x for i, x in enumerate(items)]
    expected = torch.stack(items), torch.stack(inputs)
    torch.testing.assert_close(tuple(model.encode()), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", ["concat", "add", "content"])
def test_scores_are_products_with_the_transformer_over_the_inputs(checkerboard, fusion):
    model = build(checkerboard(), fusion=fusion).eval()
    encoded = model.encode()
    history = History(torch.tensor([3, 1, 4, 1]), torch.tensor([3, 0, 1]))
    scores = model.score(encoded, Queries(torch.arange(3), history))
    for row, sequence in ((0, [3, 1, 4]), (2, [1])):
        states = model.transformer(encoded.inputs[sequence], torch.tensor([len(sequence)]))
        torch.testing.assert_close(scores[row], encoded.items @ states[-1], atol=1e-5, rtol=1e-5)
    assert not scores[1].any()


def test_content_alone_has_no_embedding_of_items(checkerboard):
    names = {name for name, _ in build(checkerboard(), fusion="content").named_parameters()}
    assert not any(name.startswith("item.") for name in names)


@pytest.mark.parametrize("fusion", ["concat", "add", "content"])
def test_every_fusion_trains_all_that_it_has(checkerboard, fusion):
    corpus = checkerboard(missing=8)
    model = build(corpus, fusion=fusion)
    history = History(torch.arange(corpus.n_items), torch.tensor([6] * 16))
    model.score(model.encode(), Queries(torch.arange(16), history)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_data_without_content_are_refused(checkerboard):
    with pytest.raises(DataError):
        build(checkerboard(()))


@pytest.mark.parametrize("users", [[0], [0, 1], []])
def test_users_without_a_history_score_zero(checkerboard, users):
    model = build(checkerboard()).eval()
    history = History(torch.empty(0).long(), torch.zeros(len(users)).long())
    scores = model.score(model.encode(), Queries(torch.tensor(users).long(), history))
    assert scores.shape == (len(users), model.corpus.n_items)
    assert not scores.any()
