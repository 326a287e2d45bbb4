"""SLMRec: Self-supervised Learning for Multimedia Recommendation.

Tao et al., IEEE Transactions on Multimedia 2022. https://doi.org/10.1109/TMM.2022.3187556

From the paper: one graph convolution for IDs and one per modality; their linear fusion; a main loss
that contrasts the user's item with the other items of the batch; three self-supervised tasks:
alignment of modalities in fine and coarse spaces, feature dropout, and feature masking. From the
public code: all channels share one table of users; the main loss uses cosines, while ranking uses
dot products; the first task uses dot products. Ours: any number of modalities, aligned with IDs in
their order, the last one in the coarse space; items that lack a modality are excluded from its
alignment; repeated items of a batch count once in the dropout and masking tasks.

Shapes: U users, I items, M modalities, C = 1 + M channels, D embedding size, B batch, N distinct
users and items of a batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.data import Pairs, TrainingView, require_modalities
from mmrec.graphs import normalized_adjacency
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import ItemFeatures, Propagation
from mmrec.nn.losses import info_nce

Task = Literal["fac", "fd", "fm"]


class SLMRec(Recommender):
    """LightGCN of IDs and of each modality, fused, and trained with a self-supervised task.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        layers: propagation steps over the user-item graph.
        temperature: temperature of the main loss.
        task: `fac` aligns IDs with modalities in fine and coarse spaces; `fd` contrasts two views
            with feature dropout; `fm` contrasts two views, each with one channel of items masked.
        task_temperature: temperature of the task.
        task_weight: weight of the task; 0 disables it.
        feature_dropout: dropout rate of `fd` after each propagation step, in [0, 1).
    """

    batch_type = Pairs
    reads_negatives = False

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 3,
        temperature: float = 0.2,
        task: Task = "fac",
        task_temperature: float = 0.2,
        task_weight: float = 0.01,
        feature_dropout: float = 0.3,
    ) -> None:
        check_at_least(1, dim=dim)
        check_at_least(0, layers=layers, task_weight=task_weight)
        check_at_least(0.01, temperature=temperature, task_temperature=task_temperature)
        check_share(feature_dropout=feature_dropout, whole=False)
        check_choice(Task, task=task)
        super().__init__(corpus)
        self.item_features = ItemFeatures(require_modalities(corpus, "slmrec"))
        count = len(self.item_features.names)
        self.task, self.task_weight, self.feature_dropout = task, task_weight, feature_dropout
        self.temperature, self.task_temperature = temperature, task_temperature
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        self.project = nn.ModuleList(nn.Linear(n, dim) for n in self.item_features.widths)
        self.fuse_users = nn.Linear((1 + count) * dim, dim)
        self.fuse_items = nn.Linear((1 + count) * dim, dim)
        adjacency = normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items)
        self.propagate = Propagation(adjacency, layers)
        if task == "fac" and task_weight:
            # One fine space per modality, and the coarse space for the last one.
            widths = [dim] * max(1, count - 1) + [max(1, dim // 2)] * (count > 1)
            self.onward = nn.ModuleList(map(nn.Linear, [dim, *widths[:-1]], widths))
            self.enter = nn.ModuleList(nn.Linear(dim, width) for width in widths)
        for module in self.modules():
            if isinstance(module, nn.Embedding | nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def channels(self) -> Tensor:
        """Concatenate the channels of users, then items, before propagation: [U+I, C D]."""
        rows, present = self.item_features()
        contents = [
            project(row) * there.unsqueeze(1)
            for project, row, there in zip(self.project, rows, present.T, strict=True)
        ]
        items = torch.cat([self.item.weight, *contents], dim=1)
        return torch.cat([self.user.weight.repeat(1, 1 + len(contents)), items])

    def fuse(self, rows: Tensor, n_users: int) -> Tensor:
        """Fuse the channels of users, then items: [N, C D] -> [N, D]."""
        return torch.cat([self.fuse_users(rows[:n_users]), self.fuse_items(rows[n_users:])])

    def encode(self) -> Embeddings:
        """Propagate the channels and fuse them."""
        n_users, n_items = self.corpus.n_users, self.corpus.n_items
        fused = self.fuse(self.propagate(self.channels()), n_users)
        return Embeddings(*torch.split(fused, [n_users, n_items]))

    def losses(self, batch: Pairs) -> dict[str, Tensor]:
        """Return the main contrastive loss and the loss of the task."""
        nodes = torch.cat([batch.user, self.corpus.n_users + batch.item])  # [2B]
        distinct, place = torch.unique(nodes, return_inverse=True)  # [N] [2B], users first
        n_users = int((distinct < self.corpus.n_users).sum())
        channels = self.channels()
        rows = self.propagate.rows(channels, distinct)  # [N, C D]
        users, items = self.fuse(rows, n_users)[place].chunk(2)  # [B, D] each
        terms = {"main": info_nce(users, items, self.temperature, cosine=True)}
        if self.task_weight:
            if self.task == "fac":
                loss = self.align(rows[place[len(users) :]], batch.item)
            else:
                views = (
                    [self.dropped(channels)[distinct] for _ in range(2)]
                    if self.task == "fd"
                    else self.masked(rows, distinct)
                )
                sizes = [n_users, len(distinct) - n_users]
                one, other = (torch.split(self.fuse(view, n_users), sizes) for view in views)
                sides = [
                    info_nce(a, b, self.task_temperature, cosine=True)
                    for a, b in zip(one, other, strict=True)  # users, then items
                ]
                loss = torch.stack(sides).sum()
            terms[self.task] = self.task_weight * loss
        return terms

    def align(self, rows: Tensor, item: Tensor) -> Tensor:
        """Return the alignment loss in fine and coarse spaces of items with channels [B, C D]."""
        known, *contents = rows.view(len(rows), -1, self.item.embedding_dim).unbind(1)
        present = self.item_features.present[item].T  # [M, B]
        terms = []
        for onward, enter, content, there in zip(
            self.onward, self.enter, contents, present, strict=True
        ):
            known = onward(known)
            terms.append(info_nce(known[there], enter(content[there]), self.task_temperature))
        return torch.stack(terms).sum()

    def dropped(self, channels: Tensor) -> Tensor:
        """Propagate with feature dropout after each step: [U+I, C D]."""
        total = x = channels
        for _ in range(self.propagate.layers):
            x = dropout(self.propagate.graph(x), self.feature_dropout, self.training)
            total = total + x
        return total / (self.propagate.layers + 1)

    def masked(self, rows: Tensor, distinct: Tensor) -> list[Tensor]:
        """Return two views [N, C D], each with the items of a different random channel masked."""
        users = self.user.weight
        table = torch.cat([users, users.new_zeros(self.corpus.n_items, users.shape[1])])
        alone = self.propagate.rows(table, distinct)  # [N, D], with masked items
        channels = torch.split(rows, users.shape[1], dim=1)
        chosen = torch.randperm(len(channels))[:2]
        return [
            torch.cat([alone if c == m else x for c, x in enumerate(channels)], dim=1)
            for m in chosen.tolist()
        ]
