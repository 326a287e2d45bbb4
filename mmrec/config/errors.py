"""Errors that a user can correct."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# What torch says in a RuntimeError about a tensor that is too large.
TOO_LARGE = (
    "can't allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "out of memory",
)


class DataError(ValueError):
    """Invalid data. The message names the file and line, or the setting, and a remedy."""


def _memory_error(error: BaseException | None) -> BaseException | None:
    """The error itself, or the one that caused it, which says that memory did not suffice."""
    while error is not None:
        torch_says = isinstance(error, RuntimeError) and any(t in str(error) for t in TOO_LARGE)
        if torch_says or isinstance(error, MemoryError):
            return error
        error = error.__cause__
    return None


@contextmanager
def memory_suffices(
    kind: type[ValueError],
    where: str = "",
    *,
    what: str = "the settings of model and data need",
    lower: str = "sizes such as model.dim, data.batch_size, data.eval_batch_size or data.negatives",
) -> Iterator[None]:
    """Say of an allocation that fails which settings to lower.

    Args:
        kind: the error to raise.
        where: the beginning of its message, as `outputs/a/config.yaml: `.
        what: needs the memory, with its verb.
        lower: the settings to lower.

    Raises:
        ValueError: of the `kind`, if memory does not suffice.
    """
    try:
        yield
    except Exception as error:
        cause = _memory_error(error)
        if cause is None:
            raise
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        message = f"{where}{what} more memory than there is ({reason}); lower {lower}"
        raise kind(message) from cause
