"""A corpus in memory as the data of a run, whose folder names the corpus but does not hold it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, field, fields

import polars as pl
from torch import Tensor

from mmrec.config.errors import SettingError
from mmrec.data.corpus import Corpus, DataError, content_hash
from mmrec.data.datamodule import InteractionData
from mmrec.data.loaders import check_ordered

AT_HAND: ContextVar[Corpus | None] = ContextVar("AT_HAND", default=None)
OF_SPLITS = (
    *("split", "temporal_cutoffs", "cold_share", "cold_items", "warm_test"),
    *("draw_repeats", "keep_repeats"),
)


@contextmanager
def at_hand(corpus: Corpus | None) -> Iterator[None]:
    """Let `MemoryData` find a corpus within the block; None changes nothing."""
    if corpus is None:
        yield
        return
    token = AT_HAND.set(corpus)
    try:
        yield
    finally:
        AT_HAND.reset(token)


def corpus_digest(corpus: Corpus) -> str:
    """Hash everything that a model and its evaluation read of a corpus."""
    parts: list[Tensor | str] = [corpus.fingerprint, corpus.split]
    parts.append(f"{corpus.n_users} users, {corpus.n_items} items")
    for data in (corpus.train, corpus.val, corpus.test, corpus.warm):
        parts += ["none"] if data is None else [data.user, data.item]
        parts.append("none" if data is None or data.time is None else data.time)
    for kind, modality in corpus.modalities.items():
        parts += [f"{kind}: {modality.digest}", modality.present]
    parts.append("none" if corpus.cold is None else corpus.cold)
    if corpus.categories is not None:
        parts += [corpus.categories.item, corpus.categories.category]
    for ids in (corpus.user_ids, corpus.item_ids):
        parts.append("none" if ids is None else "\n".join(ids.cast(pl.String)))
    return content_hash(parts)


@dataclass(kw_only=True, eq=False)
class MemoryData(InteractionData):
    """The corpus of the surrounding `at_hand` block, made into batches.

    Attributes:
        name: of the corpus.
        digest: of the corpus, as `corpus_digest` returns it.

    The other attributes are those of `InteractionData`; those of the split have no effect on a
    corpus, and are refused.

    Raises:
        SettingError: a setting of the split is given.
    """

    name: str = field(kw_only=False)
    digest: str = field(kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for each in fields(InteractionData):
            value = getattr(self, each.name)
            value = tuple(value) if isinstance(value, list) else value
            if each.name in OF_SPLITS and each.default is not MISSING and value != each.default:
                raise SettingError(
                    setting=f"data.{each.name}",
                    value=value,
                    problem="the corpus in memory is split already",
                    hint="give the setting where the corpus is made",
                )
        self._corpus = AT_HAND.get()  # the block may have ended when the data are read

    def whole(self) -> Corpus:
        """The corpus at hand.

        Raises:
            DataError: no corpus is at hand, or one with another digest.
        """
        corpus = self._corpus
        if corpus is None:
            raise DataError(
                file=self.name,
                problem="the run was trained on a corpus in memory, which its folder does not hold",
                hint="open it from Python, with open_run(folder, data=corpus)",
            )
        if (found := corpus_digest(corpus)) != self.digest:
            raise DataError(
                file=self.name,
                problem=f"the run has seen a corpus with digest {self.digest[:12]}, found "
                f"{corpus.name} with {found[:12]}",
                hint="make the corpus from the same tables, features and split as for training",
            )
        if self.ordered:
            check_ordered(corpus.name, corpus.train)
        return corpus
