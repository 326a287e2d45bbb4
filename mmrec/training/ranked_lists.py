"""Recommendation lists of a run, from the catalogue or from new items.

Slow imports are inside functions, so that commands can check their settings first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmrec.config.errors import SettingError
from mmrec.config.literals import Known, Masked
from mmrec.training.names import Names, allowed_items, item_names, select, user_names

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from mmrec.data import Corpus, InteractionData, Interactions, Modality
    from mmrec.training.given_histories import GivenHistories
    from mmrec.training.open_run import OpenRun

log = logging.getLogger(__name__)


class Ranked(NamedTuple):
    """Items to rank.

    Attributes:
        names: names of the N items.
        new: content of new items; None for the catalogue.
        titles: titles of the items, [N]; None if unknown.
        allowed: mask of the items that can be recommended, [N] bool; None for all.
    """

    names: Names
    new: Mapping[str, Modality] | None = None
    titles: pl.Series | None = None
    allowed: Tensor | None = None

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return self.names.count


def offered(data: InteractionData, folder: Path | None) -> Ranked:
    """Return the catalogue, or the new items in a folder.

    Raises:
        DataError: the folder has no valid features.
    """
    from mmrec.data import read_items

    corpus = data.corpus
    if folder is None:
        return Ranked(item_names(data), titles=corpus.item_titles)
    new, ids = read_items(folder)
    if corpus.modalities.keys() < new.keys():  # if one is missing, an extra one may be misspelt
        more = [name for name in new if name not in corpus.modalities]
        log.warning("skipping modalities that were not in the training data: %s", ", ".join(more))
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
    """Yield the rows of `recommend`, one block of users at a time.

    Args:
        opened: opened run.
        users: users of the data or of the given histories, [Q] int64.
        k: length of the lists; they are shorter if there are fewer candidates.
        seen: items to mask, as in `recommend`.
        block: number of users scored at a time.
        accelerator: device to compute on.
        offer: items to rank; None for the catalogue.
        history: interactions that form the histories, as in `recommend`; or histories of new users,
            whose items are masked unless `seen` is `none`.
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
    """Return the interactions that are masked in recommendations."""
    from mmrec.data.corpus import together
    from mmrec.evaluation.protocol import seen_interactions

    if seen != "all":
        return seen_interactions(corpus, "test", seen)
    others = [part for part in (corpus.warm, corpus.removed) if part is not None]
    return together(corpus.train, corpus.val, corpus.test, *others)


def similar_lists(
    opened: OpenRun, items: Tensor, k: int, *, allowed: Tensor | None = None, block: int = 512
) -> Iterator[pl.DataFrame]:
    """Yield the rows of `similar`, one block of items at a time; lists exclude the item itself.

    Args:
        opened: opened run.
        items: items to find similar items for, [N] int64.
        k: length of the lists.
        allowed: mask of the items that can be in lists, [I] bool; None for all.
        block: number of items compared at a time.

    Raises:
        NoSimilarity: the model has no item vectors to compare.
        NonFiniteScores: a similarity is NaN.
    """
    import polars as pl
    import torch

    from mmrec.evaluation import NonFiniteScores
    from mmrec.evaluation.metrics import rank_items

    corpus, model = opened.corpus, opened.model
    with torch.no_grad():
        encoded = model.encode()
        for batch in torch.split(items, min(block, corpus.n_items)):
            scores = model.item_similarity(encoded, batch).float()  # [B, I]
            if scores.isnan().any():
                raise NonFiniteScores(
                    f"{opened.checkpoint}: a similarity of items is NaN; the model has diverged, "
                    "so use another run"
                )
            scores = scores.scatter(1, batch[:, None], -torch.inf)
            if allowed is not None:
                scores = scores.masked_fill(~allowed, -torch.inf)
            ranked = rank_items(scores, batch, min(k, scores.shape[1]))  # [B, k]
            row, place = (ranked >= 0).nonzero(as_tuple=True)
            found = ranked[row, place]
            columns = {
                "item": batch[row],
                "similar": found,
                "rank": place + 1,
                "similarity": scores[row, found],
            }
            frame = pl.DataFrame({name: value.numpy() for name, value in columns.items()})
            for ids, end in ((corpus.item_ids, "id"), (corpus.item_titles, "title")):
                if ids is not None:
                    item = "title" if end == "title" else "item_id"
                    frame = frame.with_columns(
                        ids.gather(frame["item"]).alias(item),
                        ids.gather(frame["similar"]).alias(f"similar_{end}"),
                    )
            yield frame


def with_names(frame: pl.DataFrame, *kinds: str) -> pl.DataFrame:
    """Add missing id columns, for example `item_id`, with row numbers as ids.

    Args:
        frame: lists.
        kinds: columns with row numbers, for example `item`.
    """
    for name in kinds:
        if f"{name}_id" not in frame.columns:
            frame = frame.with_columns(frame[name].alias(f"{name}_id"))
    return frame


def check_positive(**arguments: int) -> None:
    """Check that arguments are at least 1.

    Raises:
        SettingError: an argument is less than 1.
    """
    for name, value in arguments.items():
        if value < 1:
            raise SettingError(setting=name, value=value, expected="1 or more")


def recommended(
    opened: OpenRun,
    users: Iterable[int | str] | None,
    k: int,
    seen: Masked,
    exclude: Sequence[int | str] | None,
    only: Sequence[int | str] | None,
    accelerator: str,
    block: int,
) -> pl.DataFrame:
    """Return the lists of `OpenRun.recommend`."""
    import polars as pl

    check_positive(k=k, block=block)
    offer = offered(opened.data, None)
    # Names in a list are always ids, but a single text could be the path of a table.
    left_out, listed = (None if names is None else list(names) for names in (exclude, only))
    offer = offer._replace(allowed=allowed_items(left_out, listed, offer.names))
    chosen = _chosen("users", users, user_names(opened.data))
    lists = ranked_lists(opened, chosen, k, seen, block, accelerator, offer)
    return with_names(pl.concat(lists), "user", "item")


def compared(
    opened: OpenRun, items: Iterable[int | str] | None, k: int, block: int
) -> pl.DataFrame:
    """Return the lists of `OpenRun.similar_items`."""
    import polars as pl

    from mmrec.models import NoSimilarity

    check_positive(k=k, block=block)
    chosen = _chosen("items", items, item_names(opened.data))
    try:
        return with_names(
            pl.concat(similar_lists(opened, chosen, k, block=block)), "item", "similar"
        )
    except NoSimilarity as error:
        raise SettingError(setting="run", value=opened.folder, problem=str(error)) from None


def _chosen(setting: str, asked: Iterable[int | str] | None, names: Names) -> Tensor:
    """Return the row numbers of names in order, or all row numbers without names."""
    import torch

    if asked is None:
        return torch.arange(names.count)
    if isinstance(asked, str | bytes):
        raise SettingError(setting=setting, value=asked, expected=f"a list, as [{asked!r}]")
    return select(setting, list(asked), names)
