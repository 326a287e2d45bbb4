"""Errors that a user can correct."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmrec.config.text import CELL, printable

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
        message: instead of a message made of the fields.
        setting: name as typed on the command line, for example `model.dim`; None where no single
            setting is wrong.
        value: what it is.
        problem: what is wrong, where `expected` does not say it.
        expected: valid values, to follow "expected".
        hint: what to do.

    Attributes:
        setting: as given; None where no single setting is wrong.
        value: as given; `MISSING` if there is none.
        problem: as given.
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
        self.setting, self.value = setting, value
        self.problem, self.expected, self.hint = problem, expected, hint
        if message is None:
            named = setting if value is MISSING else f"{setting}={_typed(value)}"
            message = _sentence(named, problem, None, expected, hint)
        super().__init__(message)

    def below(self, group: str) -> SettingError:
        """Return the error with the setting named below a group, for example `evaluation`."""
        if self.setting is None:
            return SettingError(setting=group, problem=str(self))
        return SettingError(
            setting=f"{group}.{self.setting}",
            value=self.value,
            expected=self.expected,
            problem=self.problem,
            hint=self.hint,
        )


class DataError(ValueError):
    """Invalid data. The message is made of the fields, in the same way everywhere.

    Args:
        message: instead of a message made of the fields, where no single place is wrong.
        file: as shown to the user, or the name of data that are not in a file.
        line: in a file of text, from 1.
        row: in an array or a table without lines, from 0; or the label of a row of a DataFrame.
        column: its name, or its number from 0.
        problem: what is wrong, where `found` and `expected` do not say it.
        found: what is there.
        expected: valid values, to follow "expected".
        hint: what to do.

    Attributes:
        file: as given; None where no single file is wrong.
        line: as given.
        row: as given.
        column: as given.
        problem: as given.
        found: as given.
        expected: as given.
        hint: as given.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        file: object = None,
        line: int | None = None,
        row: int | str | None = None,
        column: str | int | None = None,
        found: str | None = None,
        expected: str | None = None,
        problem: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.file = None if file is None else str(file)
        self.line, self.row, self.column = line, row, column
        self.problem, self.found, self.expected, self.hint = problem, found, expected, hint
        if message is None:
            where = str(file)
            where += "" if line is None else f", line {line}"
            where += "" if row is None else f", row {row}"
            there = None if found is None else f"found {found}"
            if column is not None and found is not None:
                there = f"{f'column {column}' if type(column) is int else column} is {found}"
            message = _sentence(where, problem, there, expected, hint)
        super().__init__(message)

    def in_file(self, file: object, hint: str | None = None) -> DataError:
        """Return the error with another file, and with another hint if one is given."""
        fields = (self.file, self.problem, self.found, self.expected, self.hint)
        return DataError(
            file=file,
            line=self.line,
            row=self.row,
            column=self.column,
            problem=str(self) if all(field is None for field in fields) else self.problem,
            found=self.found,
            expected=self.expected,
            hint=hint or self.hint,
        )


def _typed(value: object) -> str:
    """A value as it is typed on the command line."""
    return printable(_hydra_words(value), CELL)


def _hydra_words(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_hydra_words, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_hydra_words(v)}' for k, v in value.items())}}}"
    return str(value)


def _sentence(
    where: str | None,
    problem: str | None,
    found: str | None,
    expected: str | None,
    hint: str | None,
) -> str:
    """Join the parts of a message."""
    parts = (problem, found, None if expected is None else f"expected {expected}")
    said = ", ".join(part for part in parts if part)
    said = "; ".join(part for part in (said, hint) if part)
    return ": ".join(part for part in (where, said) if part)


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
    where: str | None = None,
    *,
    setting: str | None = None,
    value: object = MISSING,
    what: str = "the settings of model and data need",
    lower: str = "sizes such as model.dim, data.batch_size, data.eval_batch_size or data.negatives",
) -> Iterator[None]:
    """Say of an allocation that fails which settings to lower.

    Args:
        kind: the error to raise.
        where: the file that its message begins with, if it is no `SettingError`.
        setting: that the work belongs to, if the error is a `SettingError`.
        value: of the setting.
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
        problem, hint = f"{what} more memory than there is ({reason})", f"lower {lower}"
        if issubclass(kind, SettingError):
            raise kind(setting=setting, value=value, problem=problem, hint=hint) from cause
        raise kind(_sentence(where, problem, None, None, hint)) from cause
