"""What tests of graph models share: dense graphs, and a corpus whose content has gaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmrec.data import Corpus, Modality, content_hash


@pytest.fixture
def bare_corpus(small_corpus: Callable[..., Corpus]) -> Callable[..., Corpus]:
    """`bare_corpus(modalities=2)`: the `small_corpus`, with nodes that content does not reach.

    Item 1 has no modality at all and item 4 lacks the first; user 0 has only item 1.
    """

    def build(modalities: int = 2) -> Corpus:
        corpus = small_corpus(modalities=modalities)
        content = {}
        for place, (name, each) in enumerate(corpus.modalities.items()):
            present = each.present.clone()
            present[[1] if place else [1, 4]] = False
            features = each.features * present[:, None]
            content[name] = replace(
                each, features=features, present=present, digest=content_hash([features, present])
            )
        pairs = torch.stack([corpus.train.user, corpus.train.item])
        pairs = torch.cat([pairs[:, pairs[0] != 0], torch.tensor([[0], [1]])], 1)
        train = replace(corpus.train, user=pairs[0], item=pairs[1], time=None)
        return replace(corpus, train=train, modalities=content)

    return build


@pytest.fixture(scope="session")
def dense_bipartite() -> Callable[[Corpus], Tensor]:
    """`dense_bipartite(corpus)`: the symmetrically normalised user-item graph, users first."""

    def build(corpus: Corpus) -> Tensor:
        size = corpus.n_users + corpus.n_items
        graph = torch.zeros(size, size)
        graph[corpus.train.user, corpus.n_users + corpus.train.item] = 1
        graph = graph + graph.T
        scale = torch.where(graph.sum(1) > 0, graph.sum(1), 1).rsqrt()
        return scale[:, None] * graph * scale

    return build


@pytest.fixture(scope="session")
def dense_content_graph() -> Callable[[Modality, int], Tensor]:
    """`dense_content_graph(modality, k)`: cosines of the k nearest items, itself included.

    Entries are divided by the roots of both ends' row sums.
    """

    def build(modality: Modality, k: int) -> Tensor:
        unit, there = normalize(modality.features), modality.present
        graph = torch.zeros(len(unit), len(unit))
        for i in there.nonzero().flatten():
            cosine = (unit @ unit[i]).masked_fill(~there, -2)
            for j in cosine.topk(k).indices:
                graph[i, j] = cosine[j].clamp(min=0)
        scale = torch.where(there, graph.sum(1), 1).rsqrt()
        return scale[:, None] * graph * scale

    return build


@pytest.fixture(scope="session")
def dense_fusion(
    dense_bipartite: Callable[[Corpus], Tensor],
    dense_content_graph: Callable[[Modality, int], Tensor],
) -> Callable[[Any, Tensor, int], tuple[Tensor, Tensor]]:
    """`dense_fusion(model, behaviour, k)`: MGCN's fused views, and which nodes have a view.

    The model has `item`, `project`, `views` and `fuse`, as MGCN has them.
    """

    def build(model: Any, behaviour: Tensor, k: int) -> tuple[Tensor, Tensor]:
        corpus, users = model.corpus, model.corpus.n_users
        block = dense_bipartite(corpus)[:users, users:]
        found, has = [], []
        for modality, project, gate in zip(
            corpus.modalities.values(), model.project, model.views.gates, strict=True
        ):
            shown = modality.features @ project.linear.weight.T + project.linear.bias
            gated = model.item.weight * torch.sigmoid(shown @ gate.weight.T + gate.bias)
            items = dense_content_graph(modality, k)
            for _ in range(model.views.layers):
                gated = items @ gated
            found.append(torch.cat([block @ gated, gated]))
            has.append(torch.cat([block @ modality.present.float() > 0, modality.present]))
        views, there = torch.stack(found, 1), torch.stack(has, 1)
        count = there.sum(1, keepdim=True)
        if views.shape[1] == 1:
            return views[:, 0] / 2, there.any(1)
        power = model.fuse.query(views).squeeze(-1).exp() * there
        attention = power / power.sum(1, keepdim=True).clamp(min=1e-9)
        common = (attention.unsqueeze(-1) * views).sum(1)
        total = common
        for m, part in enumerate(model.fuse.gate(behaviour).split(views.shape[-1], 1)):
            total = total + torch.sigmoid(part) * (views[:, m] - common) * there[:, m, None]
        return total / (1 + count), there.any(1)

    return build
