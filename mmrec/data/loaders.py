"""Loaders: training batches of each type, and blocks of users to rank the catalogue for.

Shape legend: U users, B rows of a batch, N items of its sequences, T targets, K negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from mmrec.config.errors import DataError, SettingError
from mmrec.config.literals import Known, TestHistory
from mmrec.data.batches import History, Pairs, Queries, Sequences, Triplets, ranges
from mmrec.data.corpus import ByUser, Corpus, Interactions, together
from mmrec.data.sampling import EpochBatches, NegativeSampler

Samples = Literal["causal", "prefix"]
BatchT = TypeVar("BatchT")
BatchT_co = TypeVar("BatchT_co", covariant=True)


class Learner(Protocol):
    """Attributes of a model that determine its batches and queries.

    Attributes:
        batch_type: `Triplets`, `Pairs` or `Sequences`.
        reads_negatives: whether the losses read a batch's negatives.
        needs_history: whether queries carry the users' sequences.
        reads_content: whether scores depend on item content; if not, histories have no cold items,
            of which such a model has learned nothing.
        max_length: longest sequence; longer ones lose their oldest items.
        samples: training samples of a sequence: `causal` (one with a target at each position) or
            `prefix` (one for each target).
    """

    batch_type: type[Any]
    reads_negatives: bool
    needs_history: bool
    reads_content: bool
    max_length: int
    samples: Samples

    @property
    def test_history(self) -> TestHistory:
        """Parts that the sequences of test queries are made of."""
        ...


class Dataset(Protocol[BatchT_co]):
    """Makes a batch of some of its rows."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def batch(self, rows: Tensor, generator: torch.Generator) -> BatchT_co:
        """Return the batch of the rows [B]; random choices come from the generator."""
        ...


class EpochLoader(Generic[BatchT]):
    """Batches of one epoch after the other; each is a pure function of the seed and the epoch.

    Attributes:
        sampler: where Lightning sets the epoch.

    Args:
        dataset: makes a batch of rows.
        sampler: chooses the rows.
    """

    def __init__(self, dataset: Dataset[BatchT], sampler: EpochBatches) -> None:
        self.dataset = dataset
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[BatchT]:
        return (self.dataset.batch(rows, generator) for rows, generator in self.sampler)


class PairDataset:
    """Observed pairs.

    Args:
        train: the pairs.
    """

    def __init__(self, train: Interactions) -> None:
        self.train = train

    def __len__(self) -> int:
        return len(self.train)

    def batch(self, rows: Tensor, generator: torch.Generator) -> Pairs:
        """Return the rows [B] of train."""
        return Pairs(self.train.user[rows], self.train.item[rows])


class TripletDataset:
    """Observed pairs with negatives.

    Args:
        train: the pairs.
        sampler: draws the negatives; None: there are none, whatever K is.
        negatives: K, for each pair.
    """

    def __init__(
        self, train: Interactions, sampler: NegativeSampler | None, negatives: int
    ) -> None:
        self.train = train
        self.sampler = sampler
        self.negatives = negatives

    def __len__(self) -> int:
        return len(self.train)

    def batch(self, rows: Tensor, generator: torch.Generator) -> Triplets:
        """Return the rows [B] of train, each with K negatives."""
        user, item = self.train.user[rows], self.train.item[rows]
        if self.sampler is None:
            return Triplets(user, item, item.new_empty(len(item), 0))
        return Triplets(user, item, self.sampler(user, self.negatives, generator))


class SequenceDataset:
    """Sequences of users, and the items that follow.

    Of a user with items 1, 2, 3, 4 the `causal` sample is the sequence 1, 2, 3 with the targets 2,
    3, 4 after its positions. The `prefix` samples are 1 before 2; 1, 2 before 3; and 1, 2, 3 before
    4. Users with a single item have no sample.

    Args:
        by_user: train interactions in order of time.
        max_length: of a sequence; older items are left out.
        samples: `causal` or `prefix`.
        sampler: draws the negatives; None: there are none, whatever K is.
        negatives: K, for each target.

    Raises:
        SettingError: no user has two items.
    """

    def __init__(
        self,
        by_user: ByUser,
        *,
        max_length: int,
        samples: Samples,
        sampler: NegativeSampler | None = None,
        negatives: int = 1,
    ) -> None:
        self.item, self.time = by_user.item, by_user.time
        self.samples, self.sampler, self.negatives = samples, sampler, negatives
        start, end = by_user.start[:-1], by_user.start[1:]  # [U] each
        if samples == "causal":
            self.user = ((end - start) > 1).nonzero().squeeze(1)  # [rows]
            self.end = end[self.user] - 1  # place of the last target
        else:
            user = torch.arange(len(start)).repeat_interleave(end - start)  # [N]
            self.end = (torch.arange(len(user)) > start[user]).nonzero().squeeze(1)
            self.user = user[self.end]
        self.begin = torch.maximum(start[self.user], self.end - max_length)  # first of a sequence
        if not len(self.user):
            raise SettingError(
                setting="data.split",
                problem="no user has two train interactions, so no item follows another",
                hint="choose another split, or data with longer histories",
            )

    def __len__(self) -> int:
        return len(self.user)

    def batch(self, rows: Tensor, generator: torch.Generator) -> Sequences:
        """Return the sequences of the rows [B], with K negatives for each target."""
        user, begin, end = self.user[rows], self.begin[rows], self.end[rows]
        length = end - begin  # [B]
        row, place = ranges(begin, length)  # [N] each
        time = None if self.time is None else self.time[place]
        history = History(self.item[place], length, time)
        causal = self.samples == "causal"
        position = torch.arange(len(place)) if causal else history.last()  # [T]
        target = self.item[place[position] + 1]  # [T]
        negative = target.new_empty(len(target), 0)
        chance = negative.float()
        if self.sampler is not None:
            of_target = user[row] if causal else user  # [T]
            negative = self.sampler(of_target, self.negatives, generator)
            chance = self.sampler.chance(of_target, negative)
        return Sequences(user, history, position, target, negative, chance)


class Histories:
    """The latest items of users.

    Args:
        by_user: interactions in order of time.
        max_length: of a sequence; older items are left out.
    """

    def __init__(self, by_user: ByUser, max_length: int) -> None:
        self.by_user, self.max_length = by_user, max_length

    def __call__(self, users: Tensor) -> History:
        """Return the sequences of users [B]."""
        start, end = self.by_user.start[users], self.by_user.start[users + 1]
        begin = torch.maximum(start, end - self.max_length)
        _, place = ranges(begin, end - begin)
        time = None if self.by_user.time is None else self.by_user.time[place]
        return History(self.by_user.item[place], end - begin, time)


class QueryLoader:
    """Users in blocks.

    Args:
        users: [Q] int64.
        batch_size: users in a block.
        histories: gives the users' sequences; None: queries have none.
    """

    def __init__(self, users: Tensor, batch_size: int, histories: Histories | None = None) -> None:
        self.blocks = torch.split(users, batch_size)
        self.histories = histories

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Queries]:
        for block in self.blocks:
            yield Queries(block, None if self.histories is None else self.histories(block))


def check_ordered(name: str, interactions: Interactions) -> None:
    """Refuse data without an order of interactions, which models of sequences read.

    Args:
        name: of the data set, for the error.
        interactions: before or after the split.

    Raises:
        DataError: the interactions have neither a time nor a position.
    """
    if interactions.time is None:
        raise DataError(
            file=name,
            problem="the interactions have no order, which the model reads",
            hint="add a column timestamp or position, or name yours in data.columns.time or "
            "data.columns.position",
        )


def queries_for(
    learner: Learner, corpus: Corpus, users: Tensor, batch_size: int, known: Known
) -> QueryLoader:
    """Queries in blocks, with histories where the model needs them.

    Args:
        learner: the model that scores.
        corpus: its data.
        users: [Q] int64.
        batch_size: users in a block.
        known: parts that histories are made of: `train`, `train+val`, or `all` (test too).

    Raises:
        DataError: the model needs histories, and the data have no order.
    """
    if not learner.needs_history:
        return QueryLoader(users, batch_size)
    check_ordered(corpus.name, corpus.train)
    parts = [corpus.train]
    if known != "train":
        parts.append(corpus.val)
    if known == "all":
        parts += [corpus.test, *([] if corpus.warm is None else [corpus.warm])]
    rows = together(*parts)
    if known != "train" and corpus.cold is not None and not learner.reads_content:
        rows = rows.select(corpus.cold[rows.item] == 0)
    histories = Histories(rows.by_user(corpus.n_users), learner.max_length)
    return QueryLoader(users, batch_size, histories)
