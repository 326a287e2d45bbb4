"""Full-ranking evaluation: mask seen items, rank all candidates, and compare with held-out items.

Shapes: U users, Q evaluated users, I items, N interactions, B users of a batch, K largest cutoff,
C cutoffs, A accuracy metrics, G = 3 groups, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from mmrec.data.batches import ranges
from mmrec.data.corpus import Corpus, Interactions
from mmrec.evaluation import metrics
from mmrec.evaluation.finite import check_finite
from mmrec.evaluation.pairs import checked_pairs
from mmrec.evaluation.protocol import (
    Evaluation,
    Part,
    beside_test,
    candidates,
    groups,
    held_out_in,
    seen_interactions,
)

Cutoffs = tuple[int, ...]
ACCURACY = ("recall", "hit_rate", "precision", "ndcg", "mrr", "map")
GROUPED = ("recall", "ndcg")
ITEM_GROUPS = ("head", "mid", "tail")
USER_GROUPS = ("active", "regular", "occasional")

# Sums are stored in integer units of 2^-40, so that they do not depend on the order of users,
# batches and processes, for up to four million users. In float64, 200 orders of 19,445 users gave 6
# different means. For 512 users, 6 metrics and 4 cutoffs, units take 45 us, and float64 11 us.
UNIT = 2.0**-40


class RankingMetric(Metric):
    """Ranking metrics, averaged over the users with held-out items in a part of the split.

    Call `update` once for each user in `users`, then `compute`. States are integer sums, so results
    do not depend on batches or processes. See `from_pairs` for a metric without a corpus.

    Args:
        corpus: data set with the split.
        part: held-out part: `val`, `test`, or, with the split `item_cold`, also `test_warm` (warm
            items ranked among warm items) and `test_all` (all items).
        evaluation: cutoffs, masking and groups.
        detailed: also compute beyond-accuracy metrics, metrics by group, and values per user.

    Attributes:
        users: users with held-out items, sorted, [Q] int64.

    Raises:
        SettingError: a cutoff exceeds the number of candidates.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    users: Tensor
    seen_start: Tensor
    seen_item: Tensor
    excluded: Tensor
    pairs: Tensor
    held_out: Tensor
    item_counts: Tensor
    item_group: Tensor
    user_group: Tensor
    held_out_in_group: Tensor

    accuracy: Tensor
    n_evaluated: Tensor
    by_item_group: Tensor
    n_by_item_group: Tensor
    by_user_group: Tensor
    n_by_user_group: Tensor
    recommended: Tensor
    diversity: Tensor
    n_diversity: Tensor

    def __init__(
        self,
        corpus: Corpus,
        part: Part,
        evaluation: Evaluation,
        *,
        detailed: bool,
    ) -> None:
        super().__init__()
        self.detailed = detailed
        self._constant("excluded", (~candidates(corpus, part, evaluation)).nonzero().squeeze(1))
        seen = seen_interactions(corpus, part, evaluation.resolved(needs_history=False).seen)
        size = corpus.n_users, corpus.n_items
        held_out = self._prepare(held_out_in(corpus, part), seen, size, evaluation.cutoffs)
        if detailed:
            self._add_details(corpus, held_out, evaluation)

    @classmethod
    def from_pairs(
        cls,
        held_out: Tensor,
        seen: Tensor | None = None,
        *,
        n_users: int,
        n_items: int,
        cutoffs: Sequence[int] = (5, 10, 20, 50),
    ) -> RankingMetric:
        """Create a metric from user-item pairs, without a corpus.

        Args:
            held_out: users and held-out items, [2, N] int64.
            seen: pairs to mask unless they are held out, [2, M] int64; None masks none.
            n_users: number of users U.
            n_items: number of items I.
            cutoffs: lengths of the evaluated lists, in ascending order.

        Raises:
            ValueError: a pair is out of range, there is no pair, or a cutoff exceeds the catalogue.
        """
        pairs, lengths = checked_pairs(held_out, seen, n_users, n_items, cutoffs)
        metric = cls.__new__(cls)
        Metric.__init__(metric)
        metric.detailed = False
        metric._prepare(*pairs, (n_users, n_items), lengths)
        metric._constant("excluded", torch.empty(0, dtype=torch.int64))
        return metric

    def _prepare(
        self, held_out: Interactions, seen: Interactions, size: tuple[int, int], cutoffs: Cutoffs
    ) -> Interactions:
        """Register the shared buffers and states; return the distinct held-out pairs, sorted."""
        self.n_users, self.n_items = n_users, n_items = size
        self.cutoffs = cutoffs
        pairs = torch.unique(held_out.user * n_items + held_out.item)  # [N] sorted
        again = torch.isin(seen.user * n_items + seen.item, pairs)  # seen and held out
        masked = seen.select(~again).by_user(n_users)
        count = torch.bincount(pairs // n_items, minlength=n_users)
        self._constant("users", count.nonzero().squeeze(1))  # [Q]
        self._constant("held_out", count)  # [U]
        self._constant("pairs", pairs)
        self._constant("seen_start", masked.start)  # [U + 1]
        self._constant("seen_item", masked.item)
        self._summed("accuracy", len(ACCURACY), len(cutoffs))
        self._summed("n_evaluated")
        return Interactions(pairs // n_items, pairs % n_items)

    def _add_details(self, corpus: Corpus, relevant: Interactions, evaluation: Evaluation) -> None:
        item_group = groups(corpus.item_counts(), evaluation.item_groups)
        cells = item_group[relevant.item] * corpus.n_users + relevant.user
        in_group = torch.bincount(cells, minlength=3 * corpus.n_users).view(3, -1)
        self._constant("item_counts", corpus.item_counts())  # [I]
        self._constant("item_group", item_group)  # [I]
        self._constant("user_group", groups(corpus.user_counts(), evaluation.user_groups))  # [U]
        self._constant("held_out_in_group", in_group)  # [G, U]
        self.contents = nn.ModuleList(_Content(m.features) for m in corpus.modalities.values())
        n_cutoffs, n_contents = len(self.cutoffs), len(self.contents)
        self._summed("by_item_group", 3, len(GROUPED), n_cutoffs)
        self._summed("n_by_item_group", 3)
        self._summed("by_user_group", 3, len(GROUPED), n_cutoffs)
        self._summed("n_by_user_group", 3)
        self._summed("recommended", n_cutoffs, corpus.n_items)
        self._summed("diversity", n_contents, n_cutoffs)
        self._summed("n_diversity", n_contents, n_cutoffs)
        self._of_users: list[tuple[Tensor, Tensor]] = []

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def _summed(self, name: str, *shape: int) -> None:
        self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, users: Tensor, scores: Tensor) -> None:
        """Rank the items of a batch of users; users without held-out items are ignored.

        Args:
            users: users, [B] int64.
            scores: finite scores, [B, I]; overwritten.

        Raises:
            NonFiniteScores: a score is NaN or infinite.
            ValueError: the shape of `scores` is wrong.
        """
        if scores.shape != (len(users), self.n_items):
            raise ValueError(
                f"score() must return a tensor of shape [{len(users)}, {self.n_items}] for "
                f"{len(users)} users and {self.n_items} items, found shape {list(scores.shape)}"
            )
        counted = self.held_out[users] > 0
        if not counted.all():
            users, scores = users[counted], scores[counted]
        if not len(users):
            return
        scores = scores.detach().float().contiguous()
        check_finite(
            users,
            scores,
            "the model has diverged; lower the learning rate or clip gradients",
        )
        scores[self._seen_of(users)] = -torch.inf
        if len(self.excluded):
            scores.index_fill_(1, self.excluded, -torch.inf)
        ranked = metrics.rank_items(scores, users, self.cutoffs[-1])  # [B, K]
        hits = self._hits(users, ranked)  # [B, K]
        values = self._at_cutoffs(metrics.accuracy(hits, self.held_out[users]), ACCURACY)
        self.accuracy += _units(values).sum(0)
        self.n_evaluated += len(users)
        if self.detailed:
            self._update_groups(users, ranked, hits, values)
            self._update_lists(ranked)
            self._of_users.append((users.cpu(), values.flatten(1).cpu()))

    def _seen_of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows and items of the seen interactions of users [B]."""
        begin = self.seen_start[users]  # [B]
        row, place = ranges(begin, self.seen_start[users + 1] - begin)
        return row, self.seen_item[place]

    def _hits(self, users: Tensor, ranked: Tensor) -> Tensor:
        """Return the mask of ranked items that are held out: [B, K] bool."""
        pairs = users[:, None] * self.n_items + ranked
        place = torch.searchsorted(self.pairs, pairs).clamp(max=len(self.pairs) - 1)
        return (self.pairs[place] == pairs) & (ranked >= 0)

    def _at_cutoffs(self, values: dict[str, Tensor], names: Sequence[str]) -> Tensor:
        """Select the cutoffs and stack metrics: [..., K] by name -> [..., A, C]."""
        last = torch.tensor(self.cutoffs, device=self.held_out.device) - 1
        return torch.stack([values[name][..., last] for name in names], dim=-2)

    def _update_groups(self, users: Tensor, ranked: Tensor, hits: Tensor, values: Tensor) -> None:
        group = torch.arange(3, device=users.device)[:, None, None]
        held_out = self.held_out_in_group[:, users]  # [G, B]
        hits = hits & (self.item_group[ranked] == group)  # [G, B, K]
        in_group = {
            "recall": metrics.recall(hits, held_out),
            "ndcg": metrics.ndcg(hits, held_out),
        }
        self.by_item_group += _units(self._at_cutoffs(in_group, GROUPED)).sum(1)
        self.n_by_item_group += (held_out > 0).sum(1)
        of_user = self.user_group[users]  # [B]
        columns = [ACCURACY.index(name) for name in GROUPED]
        self.by_user_group.index_add_(0, of_user, _units(values[:, columns]))
        self.n_by_user_group += torch.bincount(of_user, minlength=3)

    def _update_lists(self, ranked: Tensor) -> None:
        begin = 0
        for place, end in enumerate(self.cutoffs):
            items = ranked[:, begin:end]
            counts = torch.bincount(items[items >= 0], minlength=self.n_items)
            self.recommended[place:] += counts
            begin = end
        for place, content in enumerate(self.contents):
            value = content(ranked, self.cutoffs)  # [B, C]
            self.diversity[place] += _units(value.nan_to_num()).sum(0)
            self.n_diversity[place] += (~value.isnan()).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Return means over users as float64 scalars by name, for example `recall@20`.

        Metrics of groups have names like `tail/ndcg@10`. Undefined metrics are omitted: groups
        without held-out items, diversity without lists to compare, and popularity, novelty and item
        groups if all candidates are cold-start items.

        Raises:
            ValueError: no user was evaluated.
        """
        if not self.n_evaluated:
            raise ValueError("no user was evaluated; call update() with the users in self.users")
        result = self._named(ACCURACY, _mean(self.accuracy, self.n_evaluated))
        if not self.detailed:
            return result
        ranked = torch.ones_like(self.item_counts, dtype=torch.bool)
        ranked[self.excluded] = False
        recommended, popular = self.recommended[:, ranked], self.item_counts[ranked]
        beyond = {
            "coverage": metrics.coverage(recommended),
            "gini": metrics.gini(recommended),
            "popularity": metrics.popularity(recommended, popular),
            "novelty": metrics.novelty(recommended, popular, self.n_users),
            "diversity": _mean(self.diversity, self.n_diversity).nanmean(0),
        }
        result |= self._named(tuple(beyond), torch.stack(list(beyond.values())))
        for groups_of, sums, counts in (
            (ITEM_GROUPS, self.by_item_group, self.n_by_item_group),
            (USER_GROUPS, self.by_user_group, self.n_by_user_group),
        ):
            for group, total, count in zip(groups_of, sums, counts, strict=True):
                named = self._named(GROUPED, _mean(total, count))
                result |= {f"{group}/{key}": value for key, value in named.items()}
        idle = () if popular.any() else ("popularity", "novelty", *ITEM_GROUPS)
        return {k: v for k, v in result.items() if not (v.isnan() or k.startswith(idle))}

    def _named(self, names: Sequence[str], values: Tensor) -> dict[str, Tensor]:
        """Return scalars by name and cutoff from values [A, C]."""
        keys = [f"{name}@{k}" for name in names for k in self.cutoffs]
        return dict(zip(keys, values.flatten(), strict=True))

    def per_user(self) -> pl.DataFrame:
        """Return accuracy metrics per user at all cutoffs, for the users of this process."""
        assert self.detailed, "values per user require detailed=True"
        columns = [f"{name}@{k}" for name in ACCURACY for k in self.cutoffs]
        users = torch.cat([torch.empty(0, dtype=torch.int64), *(u for u, _ in self._of_users)])
        values = torch.cat([torch.empty(0, len(columns)), *(v for _, v in self._of_users)])
        frame = pl.DataFrame(values.double().numpy(), schema=columns, orient="row")
        return frame.insert_column(0, pl.Series("user", users.numpy())).sort("user")

    def reset(self) -> None:
        """Reset all states."""
        super().reset()
        if self.detailed:
            self._of_users = []


class Rankings(nn.Module):
    """All metrics computed in one pass over users: those of a split, and those of warm items.

    With the split `item_cold`, the test metrics are those of cold-start items. `test_cold/` repeats
    their accuracy; `test_warm/` and `test_all/` are added if warm items are held out as well.

    Args:
        corpus: data set with the split.
        split: `val`, or `test` with detailed metrics.
        evaluation: cutoffs, masking and groups.

    Attributes:
        main: metric of the split.
        users: users to evaluate, sorted, [Q] int64.
    """

    def __init__(
        self, corpus: Corpus, split: Literal["val", "test"], evaluation: Evaluation
    ) -> None:
        super().__init__()
        self.split, self.cold = split, split == "test" and corpus.cold is not None
        self.main = RankingMetric(corpus, split, evaluation, detailed=split == "test")
        beside = beside_test(corpus) if split == "test" else ()
        self.beside = nn.ModuleDict(
            {part: RankingMetric(corpus, part, evaluation, detailed=False) for part in beside}
        )
        users = [metric.users for metric in (self.main, *self._beside().values())]
        self.users = torch.unique(torch.cat(users))

    def _beside(self) -> dict[str, RankingMetric]:
        return dict(self.beside.items())  # type: ignore[arg-type]

    def reset(self) -> None:
        """Reset all metrics."""
        for metric in (self.main, *self._beside().values()):
            metric.reset()

    def update(self, users: Tensor, scores: Tensor) -> None:
        """Update all metrics with scores, which are overwritten. See `RankingMetric.update`."""
        for metric in self._beside().values():
            metric.update(users, scores.clone())
        self.main.update(users, scores)

    def compute(self) -> dict[str, Tensor]:
        """Return means over users by name, for example `test/recall@20`, `test_all/ndcg@10`."""
        found: dict[str, dict[str, Tensor]] = {self.split: self.main.compute()}
        if self.cold:
            names = [f"{name}@{k}" for name in ACCURACY for k in self.main.cutoffs]
            found["test_cold"] = {name: found["test"][name] for name in names}
        found |= {part: metric.compute() for part, metric in self._beside().items()}
        return {f"{part}/{name}": v for part, values in found.items() for name, v in values.items()}

    def per_user(self) -> pl.DataFrame:
        """Return values per user of the split. See `RankingMetric.per_user`."""
        return self.main.per_user()


class _Content(nn.Module):
    """Features of one modality, for the diversity of lists."""

    features: Tensor
    inverse_norm: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("inverse_norm", metrics.inverse_row_norms(features), persistent=False)

    def forward(self, ranked: Tensor, cutoffs: Sequence[int]) -> Tensor:
        """Return the diversity of ranked lists: [B, K] -> [B, C]."""
        return metrics.diversity(ranked, self.features, self.inverse_norm, cutoffs)


def _units(values: Tensor) -> Tensor:
    return (values.double() / UNIT).round().long()


def _mean(units: Tensor, count: Tensor) -> Tensor:
    return units.double() * UNIT / count
