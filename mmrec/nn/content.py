"""Content of catalogue items and of new items, for content-based models.

Shapes: N items, I items of the catalogue, M modalities, F_m width of modality m, D embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmrec.config.errors import DataError, SettingError
from mmrec.data import Modality
from mmrec.nn.features import Features

Rows = Tensor | NDArray[Any]
NEW = "new items"  # name of the data in error messages


class Content(NamedTuple):
    """Features of N items.

    Attributes:
        rows: features of each modality, [N, F_m], of unit length; zero if absent.
        present: mask of the modalities, [N, M] bool.
    """

    rows: list[Tensor]
    present: Tensor


class ItemFeatures(nn.Module):
    """Frozen content of a catalogue, not stored in checkpoints.

    Rows are normalised to unit length. This needs no statistics of the catalogue, so new items are
    normalised in the same way.

    Args:
        modalities: modalities by name.

    Attributes:
        names: names of the modalities.
        widths: number of features F_m of each modality.
        complete: whether every item has at least one modality.

    Raises:
        SettingError: a modality is absent from all items.
    """

    present: Tensor

    def __init__(self, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        for name, modality in modalities.items():
            if not modality.present.any():
                raise SettingError(
                    setting="data.modalities",
                    problem=f"no item has modality {name}",
                    hint="remove it from data.modalities",
                )
        self.names = tuple(modalities)
        self.widths = tuple(m.width for m in modalities.values())
        self.features = nn.ModuleList(
            Features(replace(m, features=normalize(m.features))) for m in modalities.values()
        )
        present = torch.stack([m.present for m in modalities.values()], 1)  # [I, M]
        self.register_buffer("present", present, persistent=False)
        self.complete = bool(present.any(1).all())

    def forward(self) -> Content:
        """Return the content of the catalogue."""
        return Content([features() for features in self.features], self.present)

    def new(
        self, features: Mapping[str, Rows], present: Mapping[str, Rows] | None = None
    ) -> Content:
        """Convert features of new items.

        Args:
            features: features by modality, [N, F_m], with row norms from 1e-12 to 1e19. Modalities
                that are not given, and rows of NaN, are absent.
            present: mask by modality, [N] bool; None marks all rows as present.

        Raises:
            DataError: a modality is unknown; the numbers of rows differ; a width differs from
                training; a value is infinite; a row is partly NaN; or a mask is not [N] bool.
            TypeError: `features` or `present` is not a mapping.
        """
        if not isinstance(features, Mapping):
            names = ", ".join(f'"{name}": array' for name in self.names)
            raise TypeError(
                f"features of new items: found {type(features).__name__}; expected a mapping from "
                f"modality to array, {{{names}}}"
            )
        present = {} if present is None else present
        if not isinstance(present, Mapping):
            raise TypeError(
                f"present: found {type(present).__name__}; expected a mapping from modality to one "
                "bool per item, for example {name: [True, ...]}"
            )
        for name in [*features, *present]:
            if name not in self.names:
                raise DataError(
                    file=NEW,
                    problem=f"unknown modality {name}",
                    expected=f"the modalities of training: {', '.join(self.names)}",
                    hint="rename or remove it",
                )
        given = {name: _tensor(name, rows) for name, rows in features.items()}
        counts = {name: len(rows) if rows.ndim else 0 for name, rows in given.items()}
        if len(set(counts.values())) != 1:
            found = ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"
            raise DataError(
                file=NEW,
                found=f"features of {found}",
                expected="the same number of rows for at least one modality",
            )
        (count,), device = set(counts.values()), self.present.device
        dtype = self.features[0]().dtype
        rows, there = [], []
        for name, width in zip(self.names, self.widths, strict=True):
            x = given.get(name, torch.full((count, width), torch.nan)).to(device, torch.float32)
            mask = torch.ones(count, dtype=torch.bool, device=device)
            if name in present:
                mask = _checked_mask(name, _tensor(f"present[{name}]", present[name]), count)
                mask = mask.to(device)
            mask = _checked_presence(name, x, width, mask)
            rows.append(normalize(torch.where(mask.unsqueeze(1), x, 0.0)).to(dtype))
            there.append(mask)
        return Content(rows, torch.stack(there, 1))


def _tensor(name: str, rows: Rows) -> Tensor:
    try:
        return torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError) as error:
        found = f"{type(rows).__name__} ({error})"
        raise DataError(file=NEW, column=name, found=found, expected="numbers") from None


def _checked_mask(name: str, mask: Tensor, count: int) -> Tensor:
    """Convert a mask [N] of bools, or of zeros and ones, to bools."""
    if mask.shape != (count,) or not ((mask == 0) | (mask == 1)).all():
        raise DataError(
            file=NEW,
            column=f"present[{name}]",
            found=f"{mask.dtype} of shape {[*mask.shape]}",
            expected=f"one bool for each of {count} items",
        )
    return mask.bool()


def _checked_presence(name: str, rows: Tensor, width: int, mask: Tensor) -> Tensor:
    """Return the mask without rows of NaN.

    Raises:
        DataError: the shape is wrong, a value is infinite, or a row is partly NaN.
    """
    if rows.ndim != 2 or rows.shape[1] != width:
        raise DataError(
            file=NEW,
            column=name,
            found=f"of shape {[*rows.shape]}",
            expected=f"{width} numbers per item, from the encoder used for training",
        )
    missing = rows.isnan()
    mask = mask & ~missing.all(1)
    for invalid, found in ((rows.isinf(), "infinite"), (missing, "partly NaN")):
        if (bad := mask & invalid.any(1)).any():
            raise DataError(
                file=NEW,
                row=int(bad.nonzero()[0]),
                column=name,
                found=found,
                expected="finite numbers, or only NaN if the item lacks the modality",
            )
    return mask


def mean_item(items: Tensor, present: Tensor) -> Tensor:
    """Return the mean of the items that have content: [N, D] and [N, M] -> [D]."""
    known = present.any(1, keepdim=True)
    return (items * known).sum(0) / known.sum().clamp(min=1)


def fill_missing(items: Tensor, present: Tensor, fallback: Tensor) -> Tensor:
    """Replace items without content by a fallback: [N, D], [N, M] and [D] -> [N, D]."""
    return torch.where(present.any(1, keepdim=True), items, fallback)
