"""BM3: Bootstrap Latent Representations for Multi-modal Recommendation.

Zhou et al., WWW 2023. https://arxiv.org/abs/2207.05969

From the paper: all formulas. From its public code: the content terms have a separate weight, and
the penalty uses Frobenius norms, for which the published weights were tuned; `norm="squared"` is
the formula of the paper. The public code also trains the raw features and penalises whole tables;
this implementation freezes the features, as the paper does, and penalises the batch. Ours: dropout
is drawn per pair; any number of modalities is supported; pairs whose item lacks a modality are
excluded from its terms. Targets have no gradient, so content affects items only through the
predictor, and cold-start items are ranked without content.

Shapes: U users, I items, M modalities, D embedding size, B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding

from mmrec.config.checks import check_at_least, check_choice, check_share
from mmrec.data import Pairs, TrainingView, require_modalities
from mmrec.graphs import normalized_adjacency
from mmrec.models.base import Embeddings, Recommender
from mmrec.nn import ProjectedFeatures, Propagation, unit_rows
from mmrec.nn.losses import Norm, norm_penalty


class BM3(Recommender):
    """LightGCN trained without negative sampling: each view of a pair predicts another view.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        layers: propagation steps over the user-item graph.
        dropout: dropout rate of the target views, in [0, 1).
        content_weight: weight of the inter-modality and intra-modality alignment terms.
        l2: weight of the norm of the batch's propagated embeddings.
        norm: `frobenius`, or `squared` as in the paper.
    """

    batch_type = Pairs
    reads_negatives = False
    reads_content = False  # content trains the predictor, but no item embedding
    present: Tensor  # [M, I] bool

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 64,
        layers: int = 2,
        dropout: float = 0.3,
        content_weight: float = 2.0,
        l2: float = 0.01,
        norm: Norm = "frobenius",
    ) -> None:
        check_at_least(1, dim=dim)
        check_at_least(0, layers=layers, content_weight=content_weight, l2=l2)
        check_share(dropout=dropout, whole=False)
        check_choice(Norm, norm=norm)
        super().__init__(corpus)
        modalities = require_modalities(corpus, "bm3")
        self.dropout, self.content_weight, self.l2, self.norm = dropout, content_weight, l2, norm
        self.node = nn.Embedding(corpus.n_users + corpus.n_items, dim)  # users first
        for part in torch.split(self.node.weight.detach(), [corpus.n_users, corpus.n_items]):
            nn.init.xavier_uniform_(part)
        adjacency = normalized_adjacency(corpus.train, corpus.n_users, corpus.n_items)
        self.propagate = Propagation(adjacency, layers)
        self.predict = nn.Linear(dim, dim)
        nn.init.xavier_normal_(self.predict.weight)
        if content_weight:
            contents = [ProjectedFeatures(m, dim) for m in modalities.values()]
            for content in contents:
                nn.init.xavier_normal_(content.linear.weight)
            self.content = nn.ModuleList(contents)
            present = torch.stack([m.present for m in modalities.values()])
            self.register_buffer("present", present, persistent=False)

    def encode(self) -> Embeddings:
        """Apply the predictor to the propagated embeddings; items have a residual connection."""
        table, sizes = self.node.weight, [self.corpus.n_users, self.corpus.n_items]
        users, items = torch.split(self.propagate(table), sizes)
        return Embeddings(self.predict(users), self.predict(items + table[-len(items) :]))

    def losses(self, batch: Pairs) -> dict[str, Tensor]:
        """Return cosine distances between predictions and targets, and the embedding penalty."""
        nodes = torch.cat([batch.user, self.corpus.n_users + batch.item])  # [2B]
        users, items = self.propagate.rows(self.node.weight, nodes).chunk(2)  # [B, D] each
        # A sparse gradient: the table already has a dense one, and a second would be mostly zeros.
        items = items + embedding(nodes.chunk(2)[1], self.node.weight, sparse=True)
        of_user, of_item = self.target(users), self.target(items)
        cosines = self.predicted(users) * of_item + self.predicted(items) * of_user  # [B, D]
        terms = {
            "graph": 2 - cosines.sum(-1).mean(),
            "l2": self.l2 * norm_penalty(self.norm, users, items),
        }
        if self.content_weight:
            distinct, place = torch.unique(batch.item, return_inverse=True)
            aligned = [
                self.align(content(distinct)[place], of_item, present)
                for content, present in zip(self.content, self.present[:, batch.item], strict=True)
            ]
            terms["content"] = self.content_weight * torch.stack(aligned).sum()
        return terms

    def align(self, content: Tensor, of_item: Tensor, present: Tensor) -> Tensor:
        """Return the inter-modality plus the intra-modality distance of predicted content."""
        cosines = (self.predicted(content) * (of_item + self.target(content))).sum(-1)  # [B]
        return ((2 - cosines) * present).sum() / present.sum().clamp(min=1)

    def predicted(self, rows: Tensor) -> Tensor:
        """Apply the predictor to a view and normalise the rows to unit length."""
        return unit_rows(self.predict(rows))

    def target(self, rows: Tensor) -> Tensor:
        """Return a view as a target: detached, with dropout, normalised to unit length."""
        kept = dropout(rows.detach(), self.dropout, self.training)
        return unit_rows(kept)
