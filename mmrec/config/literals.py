"""Choices of data parts, which commands check before PyTorch is imported."""

from __future__ import annotations

from typing import Literal

Seen = Literal["train", "train+val", "none"]  # interactions masked in an evaluation
Masked = Literal["train", "train+val", "all", "none"]  # interactions masked in recommendations
TestHistory = Literal["train", "train+val"]  # interactions in the histories of test queries
Known = Literal["train", "train+val", "all"]  # interactions in the histories of recommendations
