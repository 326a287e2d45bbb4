"""What a model learns from: interactions, item content, and how they are split.

Shape legend: U users, I items, N interactions, F width of a modality, B batch, K negatives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import polars as pl
import torch
from annotated_types import Ge, Le
from torch import Tensor

from mmrec.config.errors import DataError as DataError

if TYPE_CHECKING:
    from torch_geometric.data.hetero_data import HeteroData

TRAIN, VAL, TEST, WARM, DROPPED = 0, 1, 2, 3, -1
SPLITS = ("train", "val", "test")

COLD_REMEDY = (
    "check the cold items that are given (cold_items.csv, data.world.cold_items), or change "
    "data.cold_share where they are chosen"
)

# Numbers that torch takes; a larger one is refused with the name of its setting.
Size = Annotated[int, Le(2**63 - 1)]
Seed = Annotated[int, Ge(-(2**63)), Le(2**63 - 1)]


def lexsort(*keys: Tensor) -> Tensor:
    """Sort rows by several keys, the first one first; the sort is stable."""
    return torch.from_numpy(np.lexsort([key.numpy() for key in reversed(keys)]))


@dataclass(frozen=True, eq=False)
class Interactions:
    """User-item pairs, one a row.

    Attributes:
        user: [N] int64, 0..U-1.
        item: [N] int64, 0..I-1.
        time: [N] int64 or None: seconds, or the position within the user where there is no clock.
    """

    user: Tensor
    item: Tensor
    time: Tensor | None = None

    def select(self, rows: Tensor) -> Interactions:
        """The given rows: a bool mask [N] or int64 indices, in their order."""
        time = None if self.time is None else self.time[rows]
        return Interactions(self.user[rows], self.item[rows], time)

    def by_user(self, n_users: int) -> ByUser:
        """Group the items by user, each user's in order of time; equal times keep their order.

        Args:
            n_users: U.
        """
        order = lexsort(self.user, *([] if self.time is None else [self.time]))
        count = torch.bincount(self.user, minlength=n_users)  # [U]
        return ByUser(
            start=torch.cat([count.new_zeros(1), count.cumsum(0)]),
            item=self.item[order],
            time=None if self.time is None else self.time[order],
        )

    def __len__(self) -> int:
        return len(self.user)


class CheckedInteractions(Interactions):
    """Interactions whose indices a corpus has checked before, so that they need not be read."""


class ByUser(NamedTuple):
    """Interactions grouped by user, in order of time.

    Attributes:
        start: [U + 1] int64, where each user's items start, and their number.
        item: [N] int64.
        time: [N] int64, or None.
    """

    start: Tensor
    item: Tensor
    time: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Modality:
    """Content of one kind.

    Attributes:
        features: [I, F] float32; rows of absent items are zero.
        present: [I] bool; False where the item lacks this modality.
        digest: hash of the content; what is derived from it is cached under this.
    """

    features: Tensor
    present: Tensor
    digest: str

    @property
    def width(self) -> int:
        """F."""
        return self.features.shape[1]


class Categories(NamedTuple):
    """Which item bears which category; an item may bear none or many.

    Attributes:
        item: [N] int64.
        category: [N] int64, an index into names.
        names: every category.
    """

    item: Tensor
    category: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it was read or made, before it is split.

    Attributes:
        name: of the data set.
        n_users: U.
        n_items: I.
        interactions: all of them; of a user in order of time, where there is a time.
        label: [N] int8, the split given with the data (0 train, 1 validation, 2 test), if any.
        modalities: by name, in a fixed order.
        categories: if known.
        cold: [I] int8, the cold-item assignment given with the data (0 warm, 1 validation, 2 test).
        user_ids: [U] original ids, if they differ from 0..U-1.
        item_ids: [I] original ids, if they differ from 0..I-1.
        item_titles: [I] what people call them, if known; empty for items without.
        fingerprint: hash of the content of everything above.
        clock: whether times are seconds, and not positions within a user.
        removed: interactions that filters removed, of users and items that are left.
        kept_items: [I] rows of the items in the files of features, if filters removed some.
    """

    name: str
    n_users: int
    n_items: int
    interactions: Interactions
    fingerprint: str
    clock: bool = True
    label: Tensor | None = None
    modalities: Mapping[str, Modality] = field(default_factory=dict)
    categories: Categories | None = None
    cold: Tensor | None = None
    user_ids: pl.Series | None = None
    item_ids: pl.Series | None = None
    item_titles: pl.Series | None = None
    removed: Interactions | None = None
    kept_items: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingView:
    """The part of a data set that models may see; it holds no validation or test interactions.

    Attributes:
        name: of the data set.
        n_users: U.
        n_items: I, the catalogue that is ranked.
        train: interactions that models learn from.
        split: the rule that made the splits, with its parameters, as `random_per_user(seed=0)`.
        fingerprint: hash of the source's content, before the split.
        modalities: by name.
        categories: if known.
        user_ids: [U] original ids, if they differ from 0..U-1.
        item_ids: [I] original ids, if they differ from 0..I-1.
        item_titles: [I] titles, if known; empty for items without.
    """

    name: str
    n_users: int
    n_items: int
    train: Interactions
    split: str
    fingerprint: str
    modalities: Mapping[str, Modality] = field(default_factory=dict)
    categories: Categories | None = None
    user_ids: pl.Series | None = None
    item_ids: pl.Series | None = None
    item_titles: pl.Series | None = None

    def __repr__(self) -> str:
        return self._described(f"{len(self.train):,} train")

    def _described(self, parts: str) -> str:
        content = "".join(f", {name}: {m.width}" for name, m in self.modalities.items())
        return (
            f"{type(self).__name__}({self.name}, {self.split}, {self.n_users:,} users, "
            f"{self.n_items:,} items, {parts}{content})"
        )

    @property
    def train_view(self) -> TrainingView:
        """The training view of this object: itself, or for a `Corpus` a copy without the rest."""
        if type(self) is TrainingView:
            return self
        shown = (each.name for each in fields(TrainingView))
        return TrainingView(**{name: getattr(self, name) for name in shown})

    def item_counts(self) -> Tensor:
        """[I] int64: how many train interactions an item has."""
        return torch.bincount(self.train.item, minlength=self.n_items)

    def user_counts(self) -> Tensor:
        """[U] int64: how many train interactions a user has."""
        return torch.bincount(self.train.user, minlength=self.n_users)

    def without_content(self) -> int:
        """How many items have no modality at all."""
        there = [modality.present for modality in self.modalities.values()]
        return self.n_items - int(torch.stack(there).any(0).sum()) if there else self.n_items


@dataclass(frozen=True, eq=False, kw_only=True)
class Corpus(TrainingView):
    """A data set with its splits, which metrics and commands read; models see its `train_view`.

    Every user of val and test has at least one train interaction. Pairs are unique over train, val
    and test together, unless repeated pairs were kept for a model that reads sequences.

    Attributes:
        val: what selection sees.
        test: what is looked at once.
        cold: [I] int8 (0 warm, 1 cold for validation, 2 for test) under `item_cold`, else None.
        warm: under `item_cold`, what is held out of warm items, for test; there may be none.
        removed: interactions in no part, of users and items that are left: filters removed or the
            split dropped them. Only `recommend seen=all` reads them.
        filtered: whether filters removed interactions, and maybe users and items.
        clock: whether times are seconds, and not positions within a user.

    Raises:
        DataError: an index out of range, a wrong shape, or an empty split.
    """

    val: Interactions
    test: Interactions
    cold: Tensor | None = None
    warm: Interactions | None = None
    removed: Interactions | None = None
    filtered: bool = False
    clock: bool = True

    def __post_init__(self) -> None:
        parts = self.train, self.val, self.test
        for split, part in zip(SPLITS, parts, strict=True):
            if not len(part):
                remedy = "choose another data.split, or check the split column of the file"
                remedy = remedy if self.cold is None else COLD_REMEDY
                raise empty_part(self.name, split, self.split, remedy)
        for split, rows in zip((*SPLITS, "warm"), (*parts, self.warm), strict=True):
            if rows is None or not len(rows) or isinstance(rows, CheckedInteractions):
                continue
            for column, count in ((rows.user, self.n_users), (rows.item, self.n_items)):
                if column.min() < 0 or column.max() >= count:
                    raise DataError(
                        file=self.name,
                        problem=f"an index of {split} lies outside 0..{count - 1}",
                    )
        for name, modality in self.modalities.items():
            if len(modality.features) != self.n_items or len(modality.present) != self.n_items:
                raise DataError(
                    file=self.name,
                    problem=f"modality {name} has {len(modality.features)} rows and a mask of "
                    f"{len(modality.present)}",
                    expected=f"{self.n_items}, one for each item",
                )

    def __repr__(self) -> str:
        parts = " + ".join(f"{len(getattr(self, split)):,} {split}" for split in SPLITS)
        if self.warm is not None:
            parts += f" + {len(self.warm):,} warm"
        return self._described(parts)

    def card(self) -> dict[str, object]:
        """What a result must say about its data, as plain types."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "users": self.n_users,
            "items": self.n_items,
            "train": len(self.train),
            "val": len(self.val),
            "test": len(self.test),
            "modalities": {name: modality.width for name, modality in self.modalities.items()},
            "without_content": self.without_content(),
            "split": self.split,
        }

    @classmethod
    def from_frames(
        cls,
        interactions: Any,
        items: Any = None,
        features: Mapping[str, Any] | None = None,
        *,
        ordered: bool = False,
        **settings: Any,
    ) -> Corpus:
        """Make a corpus of DataFrames or a sparse matrix, and split it.

        Args:
            interactions: a row each, or a sparse matrix [U, I]; see `mmrec.data.read_frames`.
            items: a row each.
            features: by modality.
            ordered: the corpus is for a model that reads the order of interactions. Then repeated
                pairs are kept, and interactions need a time or a position.
            settings: further ones of `mmrec.data.FrameData`, for example `split`, `split_seed`,
                `columns` or `k_core`.
        """
        from mmrec.data.frames import corpus_of

        return corpus_of(interactions, items, features or {}, ordered=ordered, **settings)

    @classmethod
    def from_pyg(cls, graph: HeteroData, **settings: Any) -> Corpus:
        """Split a PyTorch Geometric graph; `settings` are those of `mmrec.data.PygData`."""
        from mmrec.data.pyg import PygData

        return PygData(graph, **settings).corpus

    def to_pyg(self) -> HeteroData:
        """Convert to a PyTorch Geometric graph; see `mmrec.data.pyg.to_pyg`."""
        from mmrec.data.pyg import to_pyg

        return to_pyg(self)


def together(*parts: Interactions) -> Interactions:
    """Join interactions, part after part; they have times if all parts have them."""
    times = [part.time for part in parts if part.time is not None]
    return Interactions(
        torch.cat([part.user for part in parts]),
        torch.cat([part.item for part in parts]),
        torch.cat(times) if len(times) == len(parts) else None,
    )


def content_hash(parts: Iterable[Tensor | str]) -> str:
    """Hash of tensors and strings: their values, shapes and types, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(b"s%d:" % len(part.encode()) + part.encode())
        else:
            array = part.contiguous().numpy()
            digest.update(f"t{array.dtype}{array.shape}:".encode())
            digest.update(array.data)
    return digest.hexdigest()


def empty_part(name: str, part: str, rule: str, hint: str) -> DataError:
    """Return the error about a split that leaves a part without interactions.

    Args:
        name: of the data set.
        part: `train`, `val` or `test`.
        rule: the split.
        hint: what to do.
    """
    problem = f"no {part} interaction is left under split={rule}"
    return DataError(file=name, problem=problem, hint=hint)


def require_modalities(corpus: TrainingView, model: str) -> Mapping[str, Modality]:
    """The corpus' modalities.

    Raises:
        DataError: there are none.
    """
    if not corpus.modalities:
        raise DataError(
            file=corpus.name,
            problem=f"model {model} needs item features, and it has none or data.modalities=[] "
            "leaves none",
            hint="put <modality>_feat.npy beside its interactions, or choose a model without "
            "content (lightgcn, bpr, ease)",
        )
    return corpus.modalities
