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


MISSING = object()  # a field that was not given; None may be a value


class SettingError(ValueError):
    """Invalid setting. The message is made of the fields, in the same way everywhere.

    Args:
        message: instead of a message made of the fields, where no single setting is wrong.
        setting: name as typed on the command line, for example `model.dim`.
        value: what it is.
        expected: valid values, to follow "expected".
        problem: what is wrong, instead of `expected`.
        hint: what to do.

    Attributes:
        setting: as given; None where no single setting is wrong.
        value: as given; `MISSING` if there is none.
        expected: as given.
        hint: as given.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        setting: str | None = None,
        value: object = MISSING,
        expected: str | None = None,
        problem: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.setting, self.value, self.expected, self.hint = setting, value, expected, hint
        if message is None:
            named = f"{setting}" if value is MISSING else f"{setting}={value}"
            message = _sentence(named, expected, problem, hint)
        super().__init__(message)


class DataError(ValueError):
    """Invalid data. The message is made of the fields, in the same way everywhere.

    Args:
        message: instead of a message made of the fields, where no single place is wrong.
        file: as shown to the user.
        place: line or row in the file, for example `line 7`.
        column: its name.
        found: what is there.
        expected: valid values, to follow "expected".
        problem: what is wrong, instead of `found` and `expected`.
        hint: what to do.

    Attributes:
        file: as given; None where no single file is wrong.
        place: as given.
        column: as given.
        found: as given.
        expected: as given.
        hint: as given.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        file: object = None,
        place: str | None = None,
        column: str | None = None,
        found: str | None = None,
        expected: str | None = None,
        problem: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.file = None if file is None else str(file)
        self.place, self.column, self.found = place, column, found
        self.expected, self.hint = expected, hint
        if message is None:
            where = ", ".join(str(part) for part in (file, place) if part is not None)
            if column is not None and found is not None:
                message = f"{where}: {column} is {found}, expected {expected}"
                message += f"; {hint}" if hint else ""
            else:
                message = _sentence(where, expected, problem, hint)
        super().__init__(message)


def _sentence(where: str, expected: str | None, problem: str | None, hint: str | None) -> str:
    """Join the parts of a message."""
    said = problem if problem is not None else f"expected {expected}" if expected else None
    parts = [part for part in (said, hint) if part]
    return f"{where}: {'; '.join(parts)}" if parts else where


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
