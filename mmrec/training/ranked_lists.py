"""Ranked lists of a run: users' best items, of the catalogue or among new items.

Nothing heavy is imported with this module: a command checks its settings before torch is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmrec.config.literals import Known, Masked
from mmrec.training.names import Names, item_names

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from mmrec.data import Corpus, InteractionData, Interactions, Modality
    from mmrec.training.given_histories import GivenHistories
    from mmrec.training.open_run import OpenRun

log = logging.getLogger(__name__)


class Ranked(NamedTuple):
    """The items that are ranked.

    Attributes:
        names: what they are called; N of them.
        new: content of items that came after training; None: the catalogue.
        titles: [N], if known.
        allowed: [N] bool, those that may be listed; None: all.
    """

    names: Names
    new: Mapping[str, Modality] | None = None
    titles: pl.Series | None = None
    allowed: Tensor | None = None

    @property
    def n_items(self) -> int:
        """N."""
        return self.names.count


def offered(data: InteractionData, folder: Path | None) -> Ranked:
    """Return the catalogue, or the new items of a folder.

    Raises:
        DataError: the folder has no valid features.
    """
    from mmrec.data import read_items

    corpus = data.corpus
    if folder is None:
        return Ranked(item_names(data), titles=corpus.item_titles)
    new, ids = read_items(folder)
    if corpus.modalities.keys() < new.keys():  # where one is lacking, another may be misspelt
        more = [name for name in new if name not in corpus.modalities]
        log.warning("not read, as the model has not learned from them: %s", ", ".join(more))
        new = {name: new[name] for name in corpus.modalities}
    count = len(next(iter(new.values())).features)
    return Ranked(Names("item", str(folder), count, ids), new)


def ranked_lists(
    opened: OpenRun,
    users: Tensor,
    k: int,
    seen: Masked,
    block: int,
    accelerator: str,
    offer: Ranked | None = None,
    history: Known | GivenHistories | None = None,
) -> Iterator[pl.DataFrame]:
    """The rows of `recommend`, a block of users at a time.

    Args:
        opened: what scores.
        users: [Q] int64, of the data or of the histories that are given.
        k: length of the lists; they are shorter where there are fewer candidates.
        seen: items that are masked, as in `recommend`.
        block: users that are scored at a time.
        accelerator: what to compute on.
        offer: what is ranked; None: the catalogue.
        history: interactions that histories are made of, as in `recommend`; or histories of other
            users, of which `seen` masks everything or nothing.
    """
    import polars as pl
    import torch

    from mmrec.config.checks import check_choice
    from mmrec.evaluation.inference import best_items
    from mmrec.nn import UserItems
    from mmrec.training.open_run import scored

    check_choice(Masked, "recommend", seen=seen)

    corpus = opened.corpus
    offer = offer or offered(opened.data, None)
    if history is None or isinstance(history, str):
        count, ids, ties = corpus.n_users, corpus.user_ids, None
        queries = opened.queries(users, min(block, count), history)
        had = masked_interactions(corpus, seen)
    else:
        count, ids, ties = len(history), history.ids, history.ties
        queries = history.queries(opened.model, users, min(block, count))
        had = history.seen.select(torch.full((len(history.seen),), seen != "none"))
    masked = UserItems(had, count, corpus.n_items)
    for batch, scores in scored(opened, queries, accelerator=accelerator, items=offer.new):
        scores = scores.float()
        mask = None
        if offer.new is None:
            mask = masked.to(batch.device)(batch).to_sparse_coo().indices()  # [2, N]
        order = None if ties is None else ties.to(batch.device)[batch]
        ranked = best_items(scores, batch, k, mask, offer.allowed, order)
        row, place = (ranked >= 0).nonzero(as_tuple=True)
        item = ranked[row, place]
        columns = {"user": batch[row], "item": item, "rank": place + 1, "score": scores[row, item]}
        frame = pl.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
        for name, originals in (("user", ids), ("item", offer.names.ids)):
            if originals is not None:
                frame = frame.with_columns(originals.gather(frame[name]).alias(f"{name}_id"))
        if offer.titles is not None:
            frame = frame.with_columns(offer.titles.gather(frame["item"]).alias("title"))
        yield frame


def masked_interactions(corpus: Corpus, seen: Masked) -> Interactions:
    """Return the interactions whose items are not recommended to their users."""
    from mmrec.data.corpus import together
    from mmrec.evaluation.protocol import seen_interactions

    if seen != "all":
        return seen_interactions(corpus, "test", seen)
    others = [part for part in (corpus.warm, corpus.removed) if part is not None]
    return together(corpus.train, corpus.val, corpus.test, *others)
