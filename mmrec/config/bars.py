"""Progress of slow operations: a bar in a terminal, or log lines otherwise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from threading import Timer
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
T = TypeVar("T")
DELAY = 2.0  # seconds before progress is shown


def in_terminal() -> bool:
    """Return whether stdout and stderr are terminals; redirected output has no bars."""
    return sys.stdout.isatty() and sys.stderr.isatty()


@contextmanager
def working(
    what: str, total: int | None = None, unit: str = "it"
) -> Iterator[Callable[[], object]]:
    """Show the progress of an operation that takes longer than `DELAY` seconds.

    In a terminal, a bar is shown, which disappears at the end. Without a total, or if output is
    redirected, one line is logged after the delay, and one with the duration at the end.

    Args:
        what: name of the operation.
        total: number of steps; None if unknown.
        unit: name of a step.

    Yields:
        A function to call after each step.
    """
    if total is not None and in_terminal():
        with tqdm(desc=what, total=total, unit=unit, delay=DELAY, leave=False) as bar:
            yield bar.update
        return
    start = time.perf_counter()
    timer = Timer(DELAY, log.info, ("%s ...", what))
    timer.daemon = True
    timer.start()
    try:
        yield lambda: None
    finally:
        timer.cancel()
    seconds = time.perf_counter() - start
    if seconds >= DELAY:
        log.info("%s: %s", what, duration(seconds))


def steps(items: Iterable[T], what: str, unit: str = "it") -> Iterator[T]:
    """Iterate over items and show the progress like `working`.

    Args:
        items: items to iterate over.
        what: name of the operation.
        unit: name of a step.

    Yields:
        The items.
    """
    total = len(items) if isinstance(items, Sized) else None
    with working(what, total, unit) as advance:
        for item in items:
            yield item
            advance()


def duration(seconds: float) -> str:
    """Format a duration, for example `8.3 s`, `41 s`, `3 min 07 s` or `2 h 05 min`."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
