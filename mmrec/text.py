"""Text from files and users as messages show it."""

from __future__ import annotations

LIMIT = 80  # characters of a value that a message shows


def printable(text: object, limit: int = LIMIT) -> str:
    """Return text that is safe to print: no control characters, and not too long.

    Control characters, line breaks and invisible formatting characters are written as escape
    sequences, so text from a file cannot send commands to a terminal. The middle of long text is
    replaced by an ellipsis.

    Args:
        text: converted with `str`.
        limit: the maximum number of characters before escaping.
    """
    shown = str(text)
    if len(shown) > limit:
        tail = limit // 4
        shown = f"{shown[: limit - tail - 1]}…{shown[-tail:]}"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown
    )
