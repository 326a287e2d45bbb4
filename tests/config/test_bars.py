"""Long work shows a bar in a terminal and plain lines in a log, and short work shows nothing."""

from __future__ import annotations

import ast
import logging
import time
from pathlib import Path

import pytest

import mmrec
from mmrec.config import bars
from mmrec.config.bars import duration, steps, working


@pytest.fixture
def impatient(monkeypatch):
    """Work is long after a hundredth of a second."""
    monkeypatch.setattr(bars, "DELAY", 0.01)


def terminal(monkeypatch, there):
    monkeypatch.setattr(bars, "in_terminal", lambda: there)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("total", [None, 3])
def test_long_work_has_two_lines_in_a_log_and_no_bar(monkeypatch, caplog, capsys, total):
    terminal(monkeypatch, there=False)
    with caplog.at_level(logging.INFO, "mmrec"), working("neighbours", total, "tile") as advance:
        time.sleep(0.1)
        advance()
    first, last = caplog.messages
    assert first == "neighbours ..."
    assert last.startswith("neighbours: 0.1")
    assert capsys.readouterr() == ("", "")


def test_short_work_is_silent(monkeypatch, caplog, capsys):
    terminal(monkeypatch, there=False)
    with caplog.at_level(logging.INFO, "mmrec"):
        assert list(steps([1, 2, 3], "reading")) == [1, 2, 3]
    terminal(monkeypatch, there=True)
    assert list(steps([1, 2, 3], "reading")) == [1, 2, 3]
    assert not caplog.messages
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("impatient")
def test_long_work_has_a_bar_in_a_terminal_that_is_gone_at_the_end(monkeypatch, capsys):
    terminal(monkeypatch, there=True)
    for _ in steps(range(4), "factors", "round"):
        time.sleep(0.12)
    shown = capsys.readouterr().err
    assert "factors" in shown
    assert "/4" in shown
    assert shown.rpartition("\r")[2].strip() == ""


@pytest.mark.usefixtures("impatient")
def test_items_without_a_length_are_passed_on(monkeypatch):
    terminal(monkeypatch, there=True)
    assert list(steps(iter("abc"), "letters")) == ["a", "b", "c"]


@pytest.mark.usefixtures("impatient")
def test_work_that_fails_claims_no_end(monkeypatch, caplog):
    terminal(monkeypatch, there=False)

    def fail():
        with working("solving"):
            time.sleep(0.1)
            raise ZeroDivisionError

    with caplog.at_level(logging.INFO, "mmrec"), pytest.raises(ZeroDivisionError):
        fail()
    assert caplog.messages == ["solving ..."]


def test_a_terminal_is_one_for_both_streams(monkeypatch):
    for out, err in ((True, False), (False, True), (True, True)):
        monkeypatch.setattr("sys.stdout.isatty", lambda out=out: out, raising=False)
        monkeypatch.setattr("sys.stderr.isatty", lambda err=err: err, raising=False)
        assert bars.in_terminal() is (out and err)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (187, "3 min 07 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_every_bar_knows_whether_it_is_in_a_terminal():
    """Only these modules import tqdm; everything else goes through `mmrec.config.bars`."""
    importers = set()
    for path in Path(mmrec.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "tqdm" for name in names):
                importers.add(path.stem)
    assert importers == {"bars", "progress"}
