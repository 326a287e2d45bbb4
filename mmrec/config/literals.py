"""Choices about parts of the data, which commands check before torch is imported."""

from __future__ import annotations

from typing import Literal

Seen = Literal["train", "train+val", "none"]  # what an evaluation does not rank
Masked = Literal["train", "train+val", "all", "none"]  # what a list of recommendations leaves out
TestHistory = Literal["train", "train+val"]  # parts that histories of test queries are made of
Known = Literal["train", "train+val", "all"]  # parts that histories of other queries are made of
