"""Errors that a user can correct."""


class DataError(ValueError):
    """Invalid data. The message names the file and line, or the setting, and a remedy."""
