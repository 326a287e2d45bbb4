"""CLCRec: contrastive learning for cold-start recommendation.

Wei et al., MM 2021. https://arxiv.org/abs/2107.05315

From the paper: each item has a collaborative embedding and a content representation. One
contrastive loss aligns the two (Eq. 9); another aligns users with either of them, chosen at random
(Eq. 11 and 12). Cold-start items are scored by their content. Ours: the other items of the batch
are the negatives of an item; all similarities are cosines, also in ranking; content rows are
normalised to unit length, and absent modalities are zero.

Shapes: U users, I items, N selected items, M modalities, F_m width of modality m, D embedding size,
B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmrec.config.checks import check_at_least, check_share
from mmrec.data import Pairs, TrainingView, require_modalities
from mmrec.models.base import Embeddings
from mmrec.models.content import ContentRecommender
from mmrec.nn import Content, ItemFeatures, fill_missing, mean_item
from mmrec.nn.losses import info_nce, norm_penalty


class CLCRec(ContentRecommender):
    """`s = cos(u, z_i)` for an item with interactions, `cos(u, f(content_i))` for one without.

    Args:
        corpus: training interactions and at least one modality.
        dim: embedding size D.
        hidden: width of the content network.
        temperature: temperature of both contrastive losses.
        replaced: share of a batch's items whose embedding is replaced by content in the contrast
            with users, in [0, 1].
        content: weight of the contrast between embeddings and content, in [0, 1]; the contrast with
            users has weight `1 - content`.
        l2: weight of the squared norm of the batch's embeddings.
    """

    batch_type = Pairs
    reads_negatives = False
    warm: Tensor  # [I] bool

    def __init__(
        self,
        corpus: TrainingView,
        *,
        dim: int = 128,
        hidden: int = 256,
        temperature: float = 0.2,
        replaced: float = 0.5,
        content: float = 0.5,
        l2: float = 1e-4,
    ) -> None:
        check_at_least(1, dim=dim, hidden=hidden)
        check_at_least(0.01, temperature=temperature)  # below, a single negative dominates
        check_at_least(0, l2=l2)
        check_share(replaced=replaced, content=content)
        super().__init__(corpus)
        self.temperature, self.replaced, self.content, self.l2 = temperature, replaced, content, l2
        self.item_features = ItemFeatures(require_modalities(corpus, "clcrec"))
        self.user = nn.Embedding(corpus.n_users, dim)
        self.item = nn.Embedding(corpus.n_items, dim)
        for table in (self.user, self.item):
            nn.init.xavier_normal_(table.weight)
        self.of_content = nn.Sequential(
            nn.Linear(sum(self.item_features.widths), hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, dim),
        )
        self.register_buffer("warm", corpus.item_counts() > 0, persistent=False)

    def from_content(self, content: Content) -> Tensor:
        """Apply the content network f and normalise to unit length: [N, D]."""
        return normalize(self.of_content(torch.cat(content.rows, dim=1)), dim=-1)

    def encode(self) -> Embeddings:
        """Use embeddings of items with interactions, content of others, or else the mean item."""
        content = self.item_features()
        looks = self.from_content(content)
        looks = fill_missing(looks, content.present, mean_item(looks, content.present))
        items = torch.where(self.warm.unsqueeze(1), normalize(self.item.weight, dim=-1), looks)
        return Embeddings(normalize(self.user.weight, dim=-1), items)

    def fallback_item(self) -> Tensor:
        """Return the mean content representation of the catalogue: [D]."""
        content = self.item_features()
        return mean_item(self.from_content(content), content.present)

    def losses(self, batch: Pairs) -> dict[str, Tensor]:
        """Return both contrastive losses over the distinct items of a batch (Eq. 13)."""
        item, place = torch.unique(batch.item, return_inverse=True)  # [N] [B]
        content = self.item_features()
        looks = self.from_content(Content([x[item] for x in content.rows], content.present[item]))
        ids = self.item(item)
        known = normalize(ids, dim=-1)
        there = content.present[item].any(1)
        swapped = (torch.rand(len(item), device=item.device) < self.replaced) & there
        met = torch.where(swapped.unsqueeze(1), looks, known)
        user = self.user(batch.user)
        return {
            "content": self.content * info_nce(known[there], looks[there], self.temperature),
            "users": (1 - self.content)
            * info_nce(normalize(user, dim=-1), met, self.temperature, place),
            "l2": self.l2 * (norm_penalty("squared", user) + norm_penalty("squared", ids)),
        }
