"""Content of items, known and new, for models that rank items by content.

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
NEW = "new items"  # the data, in errors


class Content(NamedTuple):
    """Features of items.

    Attributes:
        rows: [N, F_m] of each modality, of length one; zero where an item lacks the modality.
        present: [N, M] bool.
    """

    rows: list[Tensor]
    present: Tensor


class ItemFeatures(nn.Module):
    """The content of a catalogue; not trained, and not part of checkpoints.

    Rows are normalized to length one. This needs no statistics of the catalogue, so new items are
    treated in the same way.

    Args:
        modalities: by name.

    Attributes:
        names: names of the modalities.
        widths: F_m of each modality.
        complete: whether every item has at least one modality.

    Raises:
        SettingError: no item has one of the modalities.
    """

    present: Tensor

    def __init__(self, modalities: Mapping[str, Modality]) -> None:
        super().__init__()
        for name, modality in modalities.items():
            if not modality.present.any():
                raise SettingError(
                    setting="data.modalities",
                    problem=f"no item has modality {name}",
                    hint="list the others",
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
        """Convert features of items that need not be in the catalogue.

        Args:
            features: [N, F_m] of each modality, of lengths from 1e-12 to 1e19. Items lack the
                modalities that are not given, and those where their row is NaN.
            present: [N] bool by modality; None: all.

        Raises:
            DataError: an unknown modality, another width, different numbers of rows, an infinite
                value, a row that is NaN in part, or presence that is not one bool per item.
            TypeError: features or presence are not given by modality.
        """
        if not isinstance(features, Mapping):
            names = ", ".join(f'"{name}": array' for name in self.names)
            raise TypeError(
                f"features of new items: found {type(features).__name__}; expected arrays by "
                f"modality, {{{names}}}"
            )
        present = {} if present is None else present
        if not isinstance(present, Mapping):
            raise TypeError(
                f"present: found {type(present).__name__}; expected a bool per item by modality, "
                "for example {name: [True, ...]}"
            )
        for name in [*features, *present]:
            if name not in self.names:
                raise DataError(
                    file=NEW,
                    problem=f"unknown modality {name}",
                    expected=f"those of training, {', '.join(self.names)}",
                    hint="rename it, or leave it out",
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
    """Return a mask [N] of bools or of zeros and ones as bools."""
    if mask.shape != (count,) or not ((mask == 0) | (mask == 1)).all():
        raise DataError(
            file=NEW,
            column=f"present[{name}]",
            found=f"{mask.dtype} of shape {[*mask.shape]}",
            expected=f"a bool for each of {count} items",
        )
    return mask.bool()


def _checked_presence(name: str, rows: Tensor, width: int, mask: Tensor) -> Tensor:
    """Return which items have a modality: those in the mask whose row is not NaN.

    Raises:
        DataError: a wrong shape, an infinite value, or NaN in a part of a row.
    """
    if rows.ndim != 2 or rows.shape[1] != width:
        raise DataError(
            file=NEW,
            column=name,
            found=f"of shape {[*rows.shape]}",
            expected=f"{width} numbers per item, from the encoder that was used for training",
        )
    missing = rows.isnan()
    mask = mask & ~missing.all(1)
    for invalid, found in ((rows.isinf(), "infinite"), (missing, "NaN in a part")):
        if (bad := mask & invalid.any(1)).any():
            raise DataError(
                file=NEW,
                row=int(bad.nonzero()[0]),
                column=name,
                found=found,
                expected="finite numbers, or a row of NaN if the item lacks the modality",
            )
    return mask


def mean_item(items: Tensor, present: Tensor) -> Tensor:
    """Average the items that have any content: [N, D] and [N, M] -> [D]."""
    known = present.any(1, keepdim=True)
    return (items * known).sum(0) / known.sum().clamp(min=1)


def fill_missing(items: Tensor, present: Tensor, fallback: Tensor) -> Tensor:
    """Replace items [N, D] that have no content by a fallback [D]; `present` is [N, M]."""
    return torch.where(present.any(1, keepdim=True), items, fallback)
