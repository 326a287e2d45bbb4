"""Content of items, known and new, as models of content take it.

N items, M modalities, F_m width of modality m, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmrec.data import DataError, Modality

Rows = Tensor | NDArray[Any]


class Content(NamedTuple):
    """What items look like."""

    rows: list[Tensor]  # [N, F_m] each, of length one; zero where the item lacks the modality
    present: Tensor  # [N, M] bool


class Shelf(nn.Module):
    """The content of a catalogue; not trained, and not in checkpoints.

    Rows have length one, whatever their encoder's scale: no statistic of the catalogue is needed
    for an item that comes later.

    Args:
        modalities: by name.

    Attributes:
        complete: whether every item has some content.

    Raises:
        DataError: a modality that no item has.
    """

    present: Tensor
    rows_0: Tensor

    def __init__(self, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        self.names = tuple(modalities)
        self.widths = tuple(m.width for m in modalities.values())
        for place, (name, modality) in enumerate(modalities.items()):
            if not modality.present.any():
                raise DataError(f"no item has {name}; leave it out with data.modalities=[...]")
            self.register_buffer(f"rows_{place}", normalize(modality.features), persistent=False)
        present = torch.stack([m.present for m in modalities.values()], 1)  # [I, M]
        self.register_buffer("present", present, persistent=False)
        self.complete = bool(present.any(1).all())

    def forward(self) -> Content:
        """The catalogue's."""
        rows = [getattr(self, f"rows_{place}") for place in range(len(self.names))]
        return Content(rows, self.present)

    def new(
        self, features: Mapping[str, Rows], present: Mapping[str, Rows] | None = None
    ) -> Content:
        """That of items which need not be in the catalogue.

        Args:
            features: [N, F_m] of each modality, of lengths from 1e-12 to 1e19; all items lack a
                modality that is not given.
            present: [N] bool of each modality; None: all. A row of NaN is absent in any case.

        Raises:
            DataError: a name or width that the catalogue does not have, different numbers of rows,
                infinity, NaN in a part of a row, or presence that is not a bool for each item.
            TypeError: features without the name of their modality.
        """
        if not isinstance(features, Mapping):
            names = ", ".join(f'"{name}": array' for name in self.names)
            raise TypeError(f"new items: give the features of each modality, {{{names}}}")
        present = {} if present is None else present
        if not isinstance(present, Mapping):
            raise TypeError(
                "present: give a bool for each item by modality, as {name: [True, ...]}"
            )
        for name in [*features, *present]:
            if name not in self.names:
                raise DataError(
                    f"the model knows no modality {name}; it has {', '.join(self.names)}: rename "
                    f"{name} of the new items, or leave it out"
                )
        given = {
            name: _array(f"modality {name} of the new items", x) for name, x in features.items()
        }
        counts = {name: len(x) if x.ndim else 0 for name, x in given.items()}
        if len(set(counts.values())) != 1:
            raise DataError(
                "new items need features, the same number of rows in each modality; found "
                + (", ".join(f"{name}: {n}" for name, n in counts.items()) or "none")
            )
        count, device, dtype = next(iter(counts.values())), self.present.device, self.rows_0.dtype
        rows, there = [], []
        for name, width in zip(self.names, self.widths, strict=True):
            x = given.get(name, torch.full((count, width), torch.nan)).to(device, torch.float32)
            if x.ndim != 2:
                raise DataError(
                    f"modality {name} of the new items has shape {tuple(x.shape)}, expected a row "
                    f"of {width} numbers for each item"
                )
            if x.shape[1] != width:
                raise DataError(
                    f"modality {name} of the new items is {x.shape[1]} wide, the model has learned "
                    f"from {width}; use the same encoder"
                )
            asked = torch.ones(count, dtype=torch.bool, device=device)
            if name in present:
                asked = _array(f"present[{name}]", present[name]).to(device)
                if asked.shape != (count,) or not ((asked == 0) | (asked == 1)).all():
                    raise DataError(
                        f"present[{name}]: expected a bool for each of {count} new items, found "
                        f"{asked.dtype} of shape {tuple(asked.shape)}"
                    )
                asked = asked.bool()
            lacking = x.isnan()
            for wrong, what in (
                (x.isinf().any(1), "is infinite; NaN says it is absent"),
                (lacking.any(1), "is NaN in a part of the row; a row of NaN says it is absent"),
            ):
                if (some := asked & wrong & ~lacking.all(1)).any():
                    row = int(some.nonzero()[0])
                    raise DataError(f"modality {name} of new item {row} {what}")
            mask = asked & ~lacking.all(1)
            rows.append(normalize(torch.where(mask.unsqueeze(1), x, 0.0)).to(dtype))
            there.append(mask)
        return Content(rows, torch.stack(there, 1))


def _array(what: str, rows: Rows) -> Tensor:
    """Rows as a tensor."""
    try:
        return torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{what}: expected numbers, found {type(rows).__name__} ({error})"
        ) from None


def mean_item(items: Tensor, present: Tensor) -> Tensor:
    """Over what has content: [N, D] and [N, M] -> [D]."""
    there = present.any(1, keepdim=True)
    return (items * there).sum(0) / there.sum().clamp(min=1)


def filled(items: Tensor, present: Tensor, mean: Tensor) -> Tensor:
    """Items [N, D], and the mean [D] for those without content."""
    return torch.where(present.any(1, keepdim=True), items, mean)
