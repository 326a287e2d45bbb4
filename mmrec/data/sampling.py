"""Which rows a training batch has, and the items that serve as negatives.

Shape legend: U users, I items, N train interactions, B batch, K negatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from mmrec.config.checks import check_at_least
from mmrec.config.errors import SettingError
from mmrec.data.corpus import Interactions

Distribution = Literal["uniform", "warm", "popularity"]
Draw = tuple[Tensor, torch.Generator]

_POPULARITY_TOTAL = 2**36


class NegativeSampler:
    """Draws items that a user has not in train, exactly, without trial and error.

    Lay the items out on a line, each as long as its integer weight, and cut out what the user has.
    A point drawn on the line that is left is moved right by the cut pieces before it, and lies in a
    free item. Both steps are a binary search.

    An item's chance is its weight over the free weight of the user, to one part in 2**62 / W, where
    W is the weight of all items.

    Args:
        train: what nobody is to be given.
        n_users: U.
        n_items: I.
        distribution: `uniform` over items, `warm` over items that are in train, or `popularity`:
            proportional to train count ** power, so warm too.
        power: of `popularity`.

    Raises:
        SettingError: a user of train has every item that can be drawn, or no such distribution.
    """

    def __init__(
        self,
        train: Interactions,
        n_users: int,
        n_items: int,
        *,
        distribution: Distribution = "uniform",
        power: float = 0.75,
    ) -> None:
        pair = torch.unique(train.user * n_items + train.item)  # sorted by user, then item
        user, item = pair // n_items, pair % n_items
        weight = _weights(train.item, n_items, distribution, power)  # [I]
        self._weight = weight
        self._ends = weight.cumsum(0)  # [I]
        total = int(self._ends[-1])
        self._stride = total + 1
        self._cut = torch.cat([weight.new_zeros(1), weight[item].cumsum(0)])  # [N+1] before a row
        rows = torch.bincount(user, minlength=n_users).cumsum(0)  # [U]
        last = self._cut[rows]  # [U] cut before the next user's first row
        self._first = torch.cat([last.new_zeros(1), last[:-1]])  # [U] before the user's first row
        self._free = total - (last - self._first)  # [U]
        starts = self._ends[item] - weight[item]  # [N]
        gaps = starts - (self._cut[:-1] - self._first[user])  # [N] rises within a user
        self._gaps = user * self._stride + gaps  # [N] rises throughout
        full = self._free[user] == 0
        if full.any():
            wider = "" if distribution == "uniform" else ", or choose data.distribution=uniform"
            raise SettingError(
                setting="data.distribution",
                value=distribution,
                problem=f"user {int(user[full][0])} has every item that could be drawn as a "
                "negative",
                hint=f"drop such users from the data{wider}",
            )

    def __call__(self, users: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """Draw k items for each user, independently, so an item may come twice.

        Args:
            users: [B] int64.
            k: K.
            generator: on the CPU.

        Returns:
            [B, K] int64.
        """
        users = users[:, None]
        point = torch.randint(2**62, (len(users), k), generator=generator) % self._free[users]
        before = torch.searchsorted(self._gaps, users * self._stride + point, right=True)
        moved = point + self._cut[before] - self._first[users]  # [B, K]
        return torch.searchsorted(self._ends, moved, right=True)

    def chance(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the probability of items to be drawn for their users, in one draw.

        Args:
            users: [B] int64.
            items: [B, K] int64, items that the user does not have.

        Returns:
            [B, K] float32.
        """
        return (self._weight[items].double() / self._free[users].unsqueeze(1)).float()


def _weights(item: Tensor, n_items: int, distribution: Distribution, power: float) -> Tensor:
    """[I] int64."""
    count = torch.bincount(item, minlength=n_items)
    match distribution:
        case "uniform":
            return torch.ones_like(count)
        case "warm":
            return (count > 0).long()
        case "popularity":
            share = torch.where(count > 0, count.double().pow(power), 0)
            return (share * (_POPULARITY_TOTAL / share.sum())).round().long()
        case _:
            raise SettingError(
                setting="data.distribution",
                value=distribution,
                expected="uniform, warm or popularity",
            )


class EpochBatches(Sampler[Draw]):
    """Rows of each batch of an epoch, with the generator that draws the batch's negatives.

    All of it is a pure function of seed, epoch and process, so an epoch that is run again, after a
    crash or in other worker processes, gives the same batches.

    Every epoch goes through all rows in a new order. Process r of R takes every R-th row, so no row
    is repeated or dropped, and all make the same number of batches: where the rows do not divide,
    the last batch of some processes has one row more.

    Args:
        n_rows: N.
        batch_size: B, in each process.
        seed: of orders and generators, 0 or more.
        rank: of this process.
        world: number of processes.

    Raises:
        SettingError: a batch size below 1, or fewer rows than processes.
    """

    def __init__(
        self, n_rows: int, batch_size: int, *, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        check_at_least(1, "data", batch_size=batch_size)
        if n_rows < world:
            raise SettingError(
                setting="trainer.devices",
                problem=f"{n_rows} train interactions cannot be shared by {world} processes",
                hint="lower it",
            )
        self.n_rows = n_rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.n_rows // self.world / self.batch_size)

    def __iter__(self) -> Iterator[Draw]:
        order = torch.randperm(self.n_rows, generator=seeded_generator(self.seed, self.epoch, 0))
        cuts = [step * self.batch_size for step in range(1, len(self))]
        for step, rows in enumerate(order[self.rank :: self.world].tensor_split(cuts)):
            draw = 1 + step * self.world + self.rank
            yield rows, seeded_generator(self.seed, self.epoch, draw)


def seeded_generator(*key: int) -> torch.Generator:
    """Return a CPU generator for a key of whole numbers.

    Distinct keys of the same length give unrelated streams, unlike sums of seeds.
    """
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
