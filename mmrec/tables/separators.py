"""Separators of delimited text: their names, and how to tell which one a text has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmrec.config.errors import SettingError

SEPARATORS = {
    "tab": "\t",
    "comma": ",",
    "semicolon": ";",
    "pipe": "|",
    "double_colon": "::",
    "space": " ",
}
ALLOWED = ", ".join(SEPARATORS)
QUOTING = ",;|"
QUOTED_FIELD = r'"(?:[^"]|"")*"'
NAME = re.compile(r"[\w.:-]*")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def chosen_separator(setting: str, value: object) -> str:
    """The separator that a setting names.

    Args:
        setting: as typed on the command line.
        value: a key of `SEPARATORS`, or any text.

    Raises:
        SettingError: not text, empty, or with a quote or a line break.
    """
    if not isinstance(value, str) or not value or set(value) & set('"\r\n'):
        raise SettingError(
            setting=setting, value=value, expected=f"{ALLOWED}, or the characters themselves"
        )
    return "\t" if value == r"\t" else SEPARATORS.get(value, value)


def detect_separator(header: str, sample: Sequence[str]) -> str | None:
    """The separator that divides each line of the sample into as many values as the header.

    Of several, the one with the most columns; a space only if nothing else fits. If no separator
    fits all lines, the one that the header contains most often, so that an error can name the line
    that differs.

    Returns:
        None if the header is a single column.
    """
    widths = {each: width(header, each) for each in SEPARATORS.values()}
    candidates = [each for each, width in widths.items() if width > 1]
    fitting = [
        each
        for each in candidates
        if all(width(line, each) == widths[each] for line in sample if line.strip())
    ]
    others = [each for each in candidates if each != " "]
    best = [each for each in others if each in fitting] or fitting or others
    return max(best, key=widths.__getitem__, default=None)


def header_advice(names: Sequence[str], setting: str | None) -> str | None:
    """What to do about a header of delimited text that is none, or that has a single column.

    Args:
        names: of the columns.
        setting: sets the separator; None: the table may have a single column.

    Returns:
        None if the header looks like one.
    """
    if any(NUMBER.fullmatch(name) for name in names):
        return "the first line has numbers; add a line with the names of the columns above it"
    # A single column is enough for some tables, for example a list of users.
    if len(names) > 1 or (not setting and NAME.fullmatch(names[0])):
        return None
    choose = f", or set {setting}" if setting else ""
    return f"separate the columns by {ALLOWED.replace('_', ' ')}{choose}"


def separator_name(separator: str) -> str:
    """What messages call a separator."""
    names = {value: key for key, value in SEPARATORS.items()}
    return names.get(separator, repr(separator))


def width(line: str, separator: str) -> int:
    """Count the values of a line; separators within quotes do not count."""
    if separator in QUOTING and '"' in line:
        line = re.sub(QUOTED_FIELD, "", line)
    return line.count(separator) + 1
