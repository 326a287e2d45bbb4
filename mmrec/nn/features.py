"""Content features of a catalogue, as a table that a model reads.

I items, F width of a modality.
"""

from __future__ import annotations

from torch import Tensor, nn

from mmrec.data import Modality
from mmrec.nn.fusion import center_and_scale


class Features(nn.Module):
    """The features of one modality: [I, F]. Items without the modality have a row of zeros.

    A linear map of content is `nn.Linear(features.width, dim)` applied to the result.

    Args:
        modality: features and presence.
        trainable: train the features as parameters, as many published models do; they are then
            part of checkpoints. Rows of items without the modality stay zero.
        standardize: subtract the mean over the items that have the modality, and divide by one
            factor, so that rows have a mean squared norm of 1.

    Attributes:
        width: F.
        present: [I] bool, False where an item lacks the modality.
    """

    present: Tensor

    def __init__(
        self, modality: Modality, *, trainable: bool = False, standardize: bool = False
    ) -> None:
        super().__init__()
        self.width = modality.width
        self.register_buffer("present", modality.present, persistent=False)
        rows = modality.features
        if standardize:
            mean, scale = center_and_scale(modality)
            rows = (scale * (rows - mean)).masked_fill(~modality.present.unsqueeze(1), 0.0)
        if trainable:
            self.rows = nn.Parameter(rows.clone())
        else:
            self.register_buffer("rows", rows, persistent=False)

    def forward(self) -> Tensor:
        """Return the table: [I, F]."""
        rows = self.rows
        assert isinstance(rows, Tensor)
        if isinstance(rows, nn.Parameter):
            return rows * self.present.unsqueeze(1)  # no gradient reaches an absent row
        return rows
