"""Data modules: a source, a split, and the batches that training and ranking take from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from lightning import LightningDataModule
from torch import Tensor

from mmrec.config.checks import check_at_least, check_choice
from mmrec.config.errors import SettingError
from mmrec.config.paths import data_root, expand
from mmrec.data.assembly import Columns
from mmrec.data.batches import Pairs, Sequences
from mmrec.data.corpus import Corpus, Interactions, Modality, Seed, Size, Source
from mmrec.data.corpus_cache import Built, cached_corpus
from mmrec.data.corruption import Corruption, corrupt_modalities
from mmrec.data.filters import Where, select_items
from mmrec.data.folder import FolderFiles, find_files, fingerprint, read_folder
from mmrec.data.ids import Ids
from mmrec.data.loaders import (
    Dataset,
    EpochLoader,
    Learner,
    PairDataset,
    QueryLoader,
    SequenceDataset,
    TripletDataset,
    check_ordered,
    queries_for,
)
from mmrec.data.planting import Roles
from mmrec.data.sampling import Distribution, EpochBatches, NegativeSampler
from mmrec.data.splits import COLD_SHARE, ColdItems, Split, needed_roles, split_corpus
from mmrec.data.synthetic import planted
from mmrec.tables.shards import table_size

log = logging.getLogger(__name__)
LARGE = 2**24  # bytes of a table of interactions whose split is cached
# Settings that bear on nothing up to the split.
AFTER_SPLIT = {
    *("modalities", "corrupt", "corrupt_how", "batch_size", "eval_batch_size", "negatives"),
    *("distribution", "seed"),
}


@dataclass(kw_only=True, eq=False)
class InteractionData(LightningDataModule):
    """A data set with its split, its training batches and its queries.

    Subclasses say where the data comes from.

    Attributes:
        split: `official`, `random_per_user`, `leave_one_out`, `temporal` or `item_cold`; None:
            `official` where the data has a split column, else `random_per_user`.
        split_seed: of the random splits; apart from `seed`, so that runs of many seeds share one.
        temporal_cutoffs: of `temporal`, as fractions of the time span.
        cold_share: of `item_cold`, the share of items that leave train, where they are not given.
        cold_items: of `item_cold`: `given` with the data, `random`, or the `newest`; None: given
            where there are any, else random.
        warm_test: whether `item_cold` holds out warm items too, for test, as `random_per_user` has
            them: one of users with 3 to 9, a tenth beyond.
        draw_repeats: whether the random splits draw from all lines, also of a repeated pair. By
            default each pair is drawn once, so that users keep all their held-out items.
        keep_repeats: whether each row of a repeated pair counts. None: for models that read the
            order of interactions, and for no others. False: for none, so that both kinds of models
            can be compared on the same held-out interactions.
        modalities: which models see, and in which order; None: all there are.
        corrupt: per modality, the share of items whose features are replaced; of `categories`, the
            share of items that have those of other items.
        corrupt_how: `noise` of the same mean and variance, or `shuffle`, which moves the features
            of other corrupted items there.
        batch_size: observed pairs (or sequences, for a model that learns from these) in a training
            batch, in each process.
        eval_batch_size: users that are ranked at a time; changes memory and speed, not results.
        negatives: items drawn for each observed pair.
        distribution: of the negatives: `uniform`, `warm` (items in train) or `popularity`; None:
            warm where items are cold, as uniform sampling would penalise them, else uniform.
        seed: of batches and negatives.
        ordered: whether a model reads the order of interactions. Then repeated pairs are kept, and
            data without a time or a position are refused. A run sets it; from Python, set it before
            `corpus` is read.
    """

    split: Split | None = None
    split_seed: Seed = 0
    temporal_cutoffs: Sequence[float] = (0.8, 0.9)
    cold_share: float = COLD_SHARE
    cold_items: ColdItems | None = None
    warm_test: bool = True
    draw_repeats: bool = False
    keep_repeats: bool | None = None
    modalities: Sequence[str] | None = None
    corrupt: Mapping[str, float] = field(default_factory=dict)
    corrupt_how: Corruption = "noise"
    batch_size: Size = 2048
    eval_batch_size: Size = 512
    negatives: Size = 1
    distribution: Distribution | None = None
    seed: Annotated[Seed, Ge(0)] = 0
    ordered: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        super().__init__()
        sizes = {"batch_size": self.batch_size, "eval_batch_size": self.eval_batch_size}
        check_at_least(1, "data", **sizes, negatives=self.negatives)
        check_choice(Corruption, "data", corrupt_how=self.corrupt_how)
        if self.corrupt_how != "noise" and not any(self.corrupt.values()):
            raise SettingError(
                setting="data.corrupt_how",
                value=self.corrupt_how,
                problem="no features are corrupted",
                hint="add a share of items, for example +data.corrupt.image=0.3",
            )

    def __str__(self) -> str:
        """Its settings; Lightning's would load everything, and knows torch's own loaders only."""
        return repr(self)

    def source(self) -> Source:
        """The data before the split."""
        raise TypeError(f"{type(self).__name__} must define source()")

    @cached_property
    def corpus(self) -> Corpus:
        """The data after it; read or made on first use."""
        if self.keep_repeats and not self.ordered:
            raise SettingError(
                setting="data.keep_repeats",
                value=True,
                problem="the model does not read the order of interactions, and counts pairs once",
                hint="leave it out",
            )
        corpus = self.whole()
        if self.modalities is not None:
            corpus = select_modalities(corpus, self.modalities)
        return corrupt_modalities(corpus, self.corrupt, how=self.corrupt_how, seed=self.split_seed)

    def whole(self) -> Corpus:
        """The data after the split, with all modalities as they are."""
        return self.apply_split(self.source())

    def apply_split(self, source: Source) -> Corpus:
        """Split a source by the settings."""
        if self.ordered:  # before the split, which would offer one that needs no order
            check_ordered(source.name, source.interactions)
        split = self.split
        if split is None:
            split = "random_per_user" if source.label is None else "official"
            reason = "without a split column" if source.label is None else "with a split column"
            log.info("%s is read %s: data.split=%s", source.name, reason, split)
        if self.ordered and split == "random_per_user":
            log.warning(
                "%s: data.split=random_per_user holds out items from within histories, which keep "
                "later items; data.split=leave_one_out holds out the last ones",
                source.name,
            )
        return split_corpus(
            source,
            split=split,
            seed=self.split_seed,
            temporal_cutoffs=self.temporal_cutoffs,
            cold_share=self.cold_share,
            cold_items=self.cold_items,
            warm_test=self.warm_test,
            draw_repeats=self.draw_repeats,
            keep_repeats=self.ordered and self.keep_repeats is not False,
        )

    def setup(self, stage: str) -> None:
        """Read or make the corpus, if that has not happened yet."""
        _ = self.corpus

    @cached_property
    def sampler(self) -> NegativeSampler:
        """Draws negatives.

        Raises:
            SettingError: a user has everything.
        """
        corpus = self.corpus
        return NegativeSampler(
            corpus.train,
            corpus.n_users,
            corpus.n_items,
            distribution=self.distribution or ("uniform" if corpus.cold is None else "warm"),
        )

    def train_dataloader(self) -> EpochLoader[Any]:
        """Shuffled batches of the type that the trainer's model learns from, else triplets."""
        dataset = self.dataset(self._learner())
        rank, world = self._process()
        rows = len(dataset)
        return EpochLoader(
            dataset, EpochBatches(rows, self.batch_size, seed=self.seed, rank=rank, world=world)
        )

    def dataset(self, learner: Learner | None) -> Dataset[Any]:
        """What a model's training batches are made of; None: triplets.

        Raises:
            SettingError: a model of sequences, and no user has two train interactions; or
                negatives cannot be drawn, see `sampler`.
        """
        train = self.corpus.train
        sampler = self.sampler if learner is None or learner.reads_negatives else None
        if learner is not None and learner.batch_type is Pairs:
            return PairDataset(train)
        if learner is not None and learner.batch_type is Sequences:
            check_ordered(self.corpus.name, train)
            return SequenceDataset(
                train.by_user(self.corpus.n_users),
                max_length=learner.max_length,
                samples=learner.samples,
                sampler=sampler,
                negatives=self.negatives,
            )
        return TripletDataset(train, sampler, self.negatives)

    def val_dataloader(self) -> QueryLoader:
        """The users with validation items, each once, shared among the processes."""
        return self._queries("val", self.corpus.val)

    def test_dataloader(self) -> QueryLoader:
        """The users with test items, warm ones among them, each once, shared like that too."""
        corpus = self.corpus
        return self._queries("test", corpus.test, *([] if corpus.warm is None else [corpus.warm]))

    def _queries(self, part: Literal["val", "test"], *held_out: Interactions) -> QueryLoader:
        rank, world = self._process()
        users = torch.unique(torch.cat([each.user for each in held_out]))[rank::world]
        learner = self._learner()
        if learner is None:
            return QueryLoader(users, self.eval_batch_size)
        known = "train" if part == "val" else learner.test_history
        return queries_for(learner, self.corpus, users, self.eval_batch_size, known)

    def _learner(self) -> Learner | None:
        return self.trainer.lightning_module if self.trainer else None  # type: ignore[return-value]

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


@dataclass(kw_only=True, eq=False)
class FolderData(InteractionData):
    """A folder of files: interactions, features, and what else is known of items.

    Attributes:
        name: of the folder and its interaction file.
        root: the folder of data sets; None: `$MMREC_DATA`, else `data/`.
        columns: names of the columns of the interactions and of `items.csv`.
        interactions_file: name of the interaction file, or of a folder of Parquet files; None:
            `<name>.inter`, or .csv, .tsv, .parquet, .jsonl; text also with .gz.
        separator: of the interaction file: `tab`, `comma`, `semicolon`, `pipe`, `double_colon`,
            `space`, or the characters themselves; None detects it.
        ids: meaning of ids that can be read in two ways: `rows` (row numbers) or `names` (original
            ids); None: an error where the two readings differ. An error too where item ids do not
            have this meaning, unless user ids need the choice.
        where: accepted values by column of the interactions, for example `{"event": "purchase"}`.
        min_rating: smallest rating of an interaction that counts; needs `columns.rating`.
        k_core: users and items with fewer interactions (a repeated pair counts once) are removed,
            until none has fewer; 0 keeps all.
        category_separator: between the categories of an item in `items.csv`.
        cache: whether the split data are kept in the cache folder, from where processes and trials
            map them into memory instead of reading the files again. None: if the table of
            interactions has 16 MiB or more; smaller ones are read as fast.
        prepare: read by the command `mmrec run`, which then makes a public set whose folder is
            missing; `source` itself downloads nothing.
    """

    name: str = field(kw_only=False)
    root: str | Path | None = field(default=None, kw_only=False)
    columns: Columns = field(default_factory=Columns)
    interactions_file: str | None = None
    separator: str | None = None
    ids: Ids | None = None
    where: Where = field(default_factory=dict)
    min_rating: float | None = None
    k_core: int = 0
    category_separator: str = "|"
    cache: bool | None = None
    prepare: bool = False

    def source(self) -> Source:
        """Read the folder."""
        return self._read(None)

    def whole(self) -> Corpus:
        """The data after the split, perhaps from the cache."""
        if self.cache is False:
            return super().whole()
        files = find_files(self._root(), self.name, self.interactions_file, self.modalities)
        if self.cache is None and table_size(files.interactions) < LARGE:
            return self.apply_split(self._read(files))

        def build() -> Built:
            source = self._read(files)
            return Built(self.apply_split(source), source.kept_items)

        def modalities(kept: Tensor | None) -> Mapping[str, Modality]:
            content = files.read_features()
            return content if kept is None else select_items(content, kept)

        return cached_corpus(self._key(files), build, modalities)

    def _root(self) -> Path:
        return data_root() if self.root is None else expand(self.root)

    def _how(self) -> dict[str, Any]:
        """How the folder is read."""
        return {
            "columns": self.columns,
            "separator": self.separator,
            "ids": self.ids,
            "where": self.where,
            "min_rating": self.min_rating,
            "k_core": self.k_core,
            "category_separator": self.category_separator,
        }

    def _needed(self) -> tuple[str, ...]:
        return needed_roles(self.split, self.cold_items, ordered=self.ordered)

    def _key(self, files: FolderFiles) -> list[str]:
        """Everything that the split data depend on, as text."""
        named = [self.name, files.interactions.name, self.columns.title, *self._needed()]
        rules = {
            each.name: getattr(self, each.name)
            for each in fields(InteractionData)
            if each.name not in AFTER_SPLIT
        }
        return [fingerprint(files, **self._how()), *map(repr, named), repr(rules)]

    def _read(self, files: FolderFiles | None) -> Source:
        return read_folder(
            self._root(),
            self.name,
            modalities=self.modalities,
            interactions_file=self.interactions_file,
            needed=self._needed(),
            files=files,
            **self._how(),
        )


@dataclass(kw_only=True, eq=False)
class PlantedData(InteractionData):
    """Synthetic data with a known truth.

    Attributes:
        world: makes the source and its truth; `functools.partial(planted, users=...)` for another.
    """

    world: Callable[[], tuple[Source, Roles]] = planted
    split: Split | None = "random_per_user"

    def source(self) -> Source:
        """Make the world."""
        return self._made[0]

    @property
    def truth(self) -> Roles:
        """What was planted: roles of items, and what else the world knows."""
        return self._made[1]

    @cached_property
    def _made(self) -> tuple[Source, Roles]:
        try:
            return self.world()
        except SettingError as error:
            raise error.below("data.world") from error


def select_modalities(corpus: Corpus, names: Sequence[str]) -> Corpus:
    """The corpus with some of its modalities.

    Raises:
        SettingError: no such modality.
    """
    for name in names:
        if name not in corpus.modalities:
            there = ", ".join(sorted(corpus.modalities))
            raise SettingError(
                setting="data.modalities",
                value=[*names],
                problem=f"no modality {name}",
                hint=f"there are {there}",
            )
    return replace(corpus, modalities={name: corpus.modalities[name] for name in names})
