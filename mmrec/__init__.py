"""Multimodal recommendation: Hydra composes the experiment, Lightning runs it."""

__version__ = "0.1.0"
