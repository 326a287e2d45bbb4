"""Data sets from memory: DataFrames, sparse matrices, and arrays of features.

Shapes: U users, I items, N interactions, F width of a modality.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
from torch import Tensor

from mmrec.config.errors import SettingError
from mmrec.data.assembly import (
    DEFAULT_COLUMNS,
    OPTIONAL,
    Columns,
    assemble,
    interaction_columns,
)
from mmrec.data.conversion import table_of, table_of_matrix
from mmrec.data.corpus import Corpus, DataError, Source, content_hash
from mmrec.data.datamodule import InteractionData
from mmrec.data.feature_arrays import catalogue_of, in_order, read_arrays
from mmrec.data.filters import Where, check_filters, restrict_to_core
from mmrec.data.ids import Ids, Index, user_index
from mmrec.data.item_details import detail_columns, item_columns
from mmrec.data.splits import needed_roles
from mmrec.data.tables import Column, FileTable

INTERACTIONS, ITEMS = "interactions", "items"  # as messages call the arguments


def read_frames(
    interactions: Any,
    items: Any = None,
    features: Mapping[str, Any] | None = None,
    *,
    name: str = "frames",
    columns: Columns | Mapping[str, str] = DEFAULT_COLUMNS,
    ids: Ids | None = None,
    where: Where | None = None,
    min_rating: float | None = None,
    k_core: int = 0,
    category_separator: str = "|",
    needed: Collection[str] = OPTIONAL,
) -> Source:
    """Make a data set of tables and arrays, with the checks of `read_folder`.

    A table is a pandas or polars DataFrame, a PyArrow table, or another eager frame that narwhals
    knows. Interactions may also be a SciPy sparse matrix [U, I]: each entry other than 0 is one.

    With `items`, the rows of the table are the catalogue, and interactions have its ids. Items that
    it does not list are an error if features depend on its order; else they are added to it.
    Without it, items are those of features with ids, followed by those of the interactions; beside
    an array without ids, the item ids of interactions are its row numbers.

    Args:
        interactions: a row each, or a sparse matrix.
        items: a row each, with ids and, if known, categories, titles and `cold_label` (0 warm, 1
            cold for validation, 2 for test).
        features: by modality an array [I, F] in the order of `items`, or a mapping
            `{"ids": [N], "rows": [N, F]}` in any order; items that it does not list lack the
            modality, as do those with a row of NaN.
        name: of the data set.
        columns: names of columns, as `Columns` or a mapping such as `{"user": "customer"}`.
        ids: as of `read_folder`, and so are the other arguments.
        where: accepted values by column of the interactions.
        min_rating: smallest rating of an interaction that counts.
        k_core: users and items with fewer interactions are removed.
        category_separator: between the categories of an item.
        needed: of time, position and label, those that must be valid if there.

    Raises:
        DataError: a table or array is invalid; it names the column and the label of the row.
        SettingError: a setting is invalid.
    """
    from scipy.sparse import issparse

    with _as_arguments():
        named = columns if isinstance(columns, Columns) else _columns(columns)
        check_filters(k_core, min_rating)
        if not category_separator:
            expected = "one or more characters"
            raise SettingError(setting="category_separator", value="", expected=expected)
        matrix = issparse(interactions)
        table = _entries(interactions, named) if matrix else table_of(interactions, INTERACTIONS)
        listing = None if items is None else table_of(items, ITEMS)
        if matrix:
            table, listing = _with_names(table, listing, interactions.shape[1], named.item)
        found, dropped = interaction_columns(table, name, named, where or {}, min_rating, needed)
        details: dict[str, Column] = {}
        if listing is not None:
            details = detail_columns(
                listing,
                item=named.item,
                categories=named.categories,
                title=named.title,
                cold_label="cold_label",
            )
        users = user_index(found["user"], ids)
        if matrix:  # rows without an entry are users, too
            users = Index(interactions.shape[0], None, named=False)
        arrays = read_arrays(features or {})
        catalogue = catalogue_of(found["item"], details.get("item"), arrays, ids)
        cold = {role: details[role] for role in ("item", "cold_label") if "cold_label" in details}
        source = assemble(
            name,
            found,
            dropped,
            users,
            catalogue,
            details,
            content=in_order(arrays, catalogue),
            cold=cold,
            category_separator=category_separator,
            needed=needed,
            fingerprint="",
        )
        source = replace(source, fingerprint=_fingerprint(source))
        return restrict_to_core(source, k_core) if k_core else source


@dataclass(kw_only=True, eq=False)
class FrameData(InteractionData):
    """Tables and arrays in memory, split and made into batches; see `read_frames`.

    Attributes:
        interactions: a DataFrame or a sparse matrix.
        items: a DataFrame.
        features: arrays by modality.
        name: of the data set.
        columns: names of columns.
        ids: meaning of ids that can be read in two ways.
        where: accepted values by column of the interactions.
        min_rating: smallest rating of an interaction that counts.
        k_core: users and items with fewer interactions are removed.
        category_separator: between the categories of an item.

    The other attributes are those of `InteractionData`.
    """

    interactions: Any = field(kw_only=False)
    items: Any = field(default=None, kw_only=False)
    features: Mapping[str, Any] = field(default_factory=dict, kw_only=False)
    name: str = "frames"
    columns: Columns | Mapping[str, str] = DEFAULT_COLUMNS
    ids: Ids | None = None
    where: Where = field(default_factory=dict)
    min_rating: float | None = None
    k_core: int = 0
    category_separator: str = "|"

    def source(self) -> Source:
        """Read the tables."""
        return read_frames(
            self.interactions,
            self.items,
            self.features,
            name=self.name,
            columns=self.columns,
            ids=self.ids,
            where=self.where,
            min_rating=self.min_rating,
            k_core=self.k_core,
            category_separator=self.category_separator,
            needed=needed_roles(self.split, self.cold_items, ordered=self.ordered),
        )

    def __repr__(self) -> str:  # not the tables
        return f"FrameData({self.name}, split={self.split})"


def corpus_of(
    interactions: Any, items: Any, features: Mapping[str, Any], *, ordered: bool, **settings: Any
) -> Corpus:
    """Read tables and split them; see `Corpus.from_frames`."""
    with _as_arguments():
        data = FrameData(interactions, items, features, **settings)
        data.ordered = ordered
        return data.corpus


@contextmanager
def _as_arguments() -> Iterator[None]:
    """Name settings as arguments, and lines as rows, in the errors of the folder reader."""
    try:
        yield
    except SettingError as error:
        raise SettingError(
            setting=None if error.setting is None else error.setting.removeprefix("data."),
            value=error.value,
            expected=error.expected,
            problem=error.problem,
            hint=_plain(error.hint),
        ) from None
    except DataError as error:
        raise DataError(
            file=error.file,
            line=error.line,
            row=error.row,
            column=error.column,
            found=error.found,
            expected=error.expected,
            problem=error.problem,
            hint=_plain(error.hint),
        ) from None


def _plain(hint: str | None) -> str | None:
    """A hint about arguments and tables."""
    if hint is None:
        return None
    words = {"data.": "", "the line": "the row", "the file": "the table"}
    for before, after in words.items():
        hint = hint.replace(before, after)
    return hint


def _columns(names: Mapping[str, str]) -> Columns:
    known = asdict(DEFAULT_COLUMNS)
    for role, name in names.items():
        if role not in known or not isinstance(name, str):
            raise SettingError(
                setting=f"columns.{role}",
                value=name,
                expected=f"the name of a column, by one of the roles {', '.join(known)}",
            )
    return Columns(**names)


def _entries(matrix: Any, columns: Columns) -> FileTable:
    return table_of_matrix(
        matrix, INTERACTIONS, user=columns.user, item=columns.item, value=columns.rating
    )


def _with_names(
    table: FileTable, items: FileTable | None, count: int, column: str
) -> tuple[FileTable, FileTable]:
    """The columns of a matrix by the ids of items, if there are any; and the table of items."""
    if items is None:
        rows = pl.int_range(count, eager=True).alias(column)
        return table, FileTable(Path(ITEMS), rows.to_frame())
    if len(items.frame) != count:
        raise DataError(
            file=ITEMS,
            found=f"{len(items.frame)} rows",
            expected=f"{count}, one for each column of the interactions",
        )
    names = item_columns(items, column)["item"].values
    named = names.gather(table.frame[column]).alias(column)
    return replace(table, frame=table.frame.with_columns(named)), items


def _fingerprint(source: Source) -> str:
    """Hash everything that the data set holds."""
    data, categories = source.interactions, source.categories
    parts: list[Tensor | str] = [f"{source.n_users} users, {source.n_items} items", data.user]
    parts += [data.item]
    for tensor in (data.time, source.label, source.cold):
        parts.append("none" if tensor is None else tensor)
    if categories is not None:
        parts += [categories.item, categories.category, "\n".join(categories.names)]
    for texts in (source.user_ids, source.item_ids, source.item_titles):
        parts.append("none" if texts is None else "\n".join(texts.cast(pl.String)))
    if source.removed is not None:
        parts += [source.removed.user, source.removed.item]
    return content_hash(parts + [f"{kind}: {m.digest}" for kind, m in source.modalities.items()])
