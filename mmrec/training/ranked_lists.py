"""Ranked lists of a run: users' best items, of the catalogue or among new items.

Nothing heavy is imported with this module: a command checks its settings before torch is loaded.
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


def similar_lists(
    opened: OpenRun, items: Tensor, k: int, *, allowed: Tensor | None = None, block: int = 512
) -> Iterator[pl.DataFrame]:
    """The rows of `similar`, a block of items at a time; an item is not in its own list.

    Args:
        opened: a run.
        items: [N] int64.
        k: length of the lists.
        allowed: [I] bool, items that may be listed; None: all.
        block: items that are compared at a time.

    Raises:
        NoSimilarity: the model has nothing by which items can be compared.
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
    """Add columns such as `item_id` where row numbers are the names.

    Args:
        frame: lists.
        kinds: columns of row numbers.
    """
    for name in kinds:
        if f"{name}_id" not in frame.columns:
            frame = frame.with_columns(frame[name].alias(f"{name}_id"))
    return frame


def check_positive(**arguments: int) -> None:
    """Refuse arguments below 1.

    Raises:
        SettingError: names the first.
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
    # Names in a list are ids; alone, a text could be the path of a table.
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
    """Row numbers of names in their order; of everything without names."""
    import torch

    if asked is None:
        return torch.arange(names.count)
    if isinstance(asked, str | bytes):
        raise SettingError(setting=setting, value=asked, expected=f"a list, as [{asked!r}]")
    return select(setting, list(asked), names)
