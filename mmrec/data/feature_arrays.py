"""Features from memory, and the catalogue that they and the interactions belong to.

Shapes: I items, N rows, F width of a modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from mmrec.data.conversion import series_of
from mmrec.data.corpus import DataError, Modality, content_hash
from mmrec.data.files import modality_of
from mmrec.data.ids import NOT_NEGATIVE, Ids, Index, in_order_of_features, rows_of, user_index
from mmrec.data.tables import Column

BY_ID = {"ids", "rows"}
GIVE_ITEMS = 'give items in the order of the rows, or {"ids": ids, "rows": array}'
Array = tuple[pl.Series | None, Modality]  # ids of the rows, if given, and their features


def read_arrays(features: Mapping[str, Any]) -> dict[str, Array]:
    """Check features, and convert them.

    Args:
        features: by modality an array [N, F], or `{"ids": [N], "rows": [N, F]}`.

    Raises:
        DataError: an array is invalid, or an id is missing or repeated.
    """
    found: dict[str, Array] = {}
    for kind, given in features.items():
        where, ids = _where(kind), None
        if isinstance(given, Mapping):
            if {*given} != BY_ID:
                raise DataError(
                    file=where,
                    found=", ".join(map(str, given)) or "an empty mapping",
                    expected='an array, or {"ids": ids, "rows": array}',
                )
            ids, given = series_of(given["ids"], "ids"), given["rows"]
        modality = modality_of(np.asarray(given), where, kind)
        if ids is not None:
            column = Column(Path(where), "ids", ids)
            ids = ids if ids.dtype.is_integer() else column.text
            column.reject(ids.is_null() | ids.is_duplicated(), "each id once; drop the row")
            if len(ids) != len(modality.features):
                raise DataError(
                    file=where,
                    found=f"{len(ids)} ids",
                    expected=f"{len(modality.features)}, one for each row",
                )
        found[kind] = (ids, modality)
    return found


def _where(kind: str) -> str:
    return f'features["{kind}"]'


def catalogue_of(
    item: Column, detail: Column | None, arrays: Mapping[str, Array], choice: Ids | None
) -> Index:
    """Number the items: in the order of a table of items, of ids of features, or of an array.

    Args:
        item: ids of the interactions; none is null.
        detail: ids of the table of items, if there is one.
        arrays: as `read_arrays` returns them.
        choice: configured meaning of ids that can be read in two ways.

    Raises:
        DataError: an id is unknown, repeated, or can be read in two ways.
    """
    plain = {_where(kind): len(m.features) for kind, (ids, m) in arrays.items() if ids is None}
    listed = [ids for ids, _ in arrays.values() if ids is not None]
    if detail is not None:
        names = _names(detail)
        detail.reject(names.is_duplicated(), "each item once; drop the row")
        if plain:
            known = "an id of items, whose rows are those of the features"
            item.reject(rows_of(item, names).is_null(), f"{known}; add it, or drop the row")
        return _named([names, _names(item)])
    if listed and plain:
        raise DataError(
            file=next(iter(plain)),
            problem="it has no ids, and other features have",
            hint=GIVE_ITEMS,
        )
    if listed:
        return _named([*listed, _names(item)])
    if not plain:
        return user_index(item, choice)  # of ids that nothing is ordered by, as for users
    (where, height), ids = max(plain.items(), key=lambda each: each[1]), item.integers
    item.reject(ids.is_null(), f"a row number of {where}; {GIVE_ITEMS}")
    item.reject(ids < 0, NOT_NEGATIVE)
    last = height - 1 + (int(ids.to_numpy().min()) > 0)  # they may count from 1
    item.reject(ids > last, f"below {height}, the number of rows of {where}; {GIVE_ITEMS}")
    more = pl.Series(dtype=pl.Int64)
    return in_order_of_features(item, plain, choice, more, strict=True)


def _names(column: Column) -> pl.Series:
    return column.values if column.values.dtype.is_integer() else column.text


def _named(parts: Sequence[pl.Series]) -> Index:
    """An index of names in the order of their first part, and new ones of later parts sorted."""
    integers = all(part.dtype.is_integer() for part in parts)
    kind = pl.Int64 if integers else pl.String
    names = parts[0].cast(kind)
    for part in parts[1:]:
        more = part.cast(kind).unique()
        more = more.filter(~more.is_in(names.implode())).sort()
        names = pl.concat([names, more.alias(names.name)])
    rows = pl.int_range(len(names), eager=True)
    if integers and (names == rows).all():
        return Index(len(names), None, named=False)
    return Index(len(names), names, named=True)


def in_order(arrays: Mapping[str, Array], items: Index) -> dict[str, Modality]:
    """Put features in the order of the items: modalities [I, F] by name.

    Args:
        arrays: as `read_arrays` returns them.
        items: rows of items.

    Raises:
        DataError: another number of rows than items, or an unknown id.
    """
    found = {}
    for kind, (ids, modality) in arrays.items():
        if ids is None:
            if len(modality.features) != items.count:
                raise DataError(
                    file=_where(kind),
                    found=f"{len(modality.features)} rows",
                    expected=f"{items.count}, one for each item",
                    hint=f"add what is missing (NaN if unknown), or {GIVE_ITEMS}",
                )
            found[kind] = modality
            continue
        rows = items.rows(Column(Path(_where(kind)), "ids", ids)).to_torch()
        features = torch.zeros(items.count, modality.width)
        present = torch.zeros(items.count, dtype=torch.bool)
        features[rows], present[rows] = modality.features, modality.present
        found[kind] = Modality(features, present, content_hash([features, present]))
    return found
