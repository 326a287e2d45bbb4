"""Tables of numbers and text, written as Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

from mmrec.config.text import one_line, spreadsheet_cell

Mark = Literal["best", "second"]
NOTE = 10_000  # largest number of characters of a note
LONG = 10_000  # largest number of characters of a cell in a CSV file
# Text of a cell that is aligned as a number: 1,234, 0.25, 3e-4, +1.3 %, -0.1 to +0.2, a dash.
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( %)?( to [-+]?[\d.,]+)?|[-–]?")

LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    | {"–": "--", "±": r"$\pm$"}
)


@dataclass(frozen=True)
class Value:
    """A number, or a mean over seeds.

    Attributes:
        mean: the number, or the mean.
        deviation: standard deviation over seeds; None if there is only one value.
        digits: number of decimal places.
        mark: whether the value is the best or second best of its column.
        note: text set as a superscript after the value, for example `*`.
    """

    mean: float
    deviation: float | None = None
    digits: int = 4
    mark: Mark | None = None
    note: str = ""

    def text(self, plus_minus: str = "±") -> str:
        """Return the rounded number, with its deviation if there is one."""
        if self.deviation is None:
            return f"{self.mean:.{self.digits}f}"
        return f"{self.mean:.{self.digits}f} {plus_minus} {self.deviation:.{self.digits}f}"


@dataclass(frozen=True)
class Table:
    """A table with a head, rows and notes.

    Attributes:
        name: file name without suffix.
        title: heading on the page.
        head: name of each column.
        rows: cells, each a text or a value.
        notes: paragraphs below the table.
        deviations: whether the CSV file has a column of standard deviations for each column of
            values.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Value]]
    notes: Sequence[str] = ()
    deviations: bool = True

    @property
    def numeric(self) -> list[bool]:
        """Whether each column after the first holds only numbers, which are aligned right."""
        return [False] + [
            all(_is_number(row[n]) for row in self.rows if n < len(row))
            for n in range(1, len(self.head))
        ]


def over_seeds(values: Sequence[float], digits: int = 4) -> Value | str:
    """Return the mean and the sample standard deviation; a dash if there are no values."""
    if not values:
        return "–"
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Value(statistics.fmean(values), deviation, digits)


def marked(
    rows: Sequence[Sequence[str | Value]], columns: Sequence[int]
) -> list[list[str | Value]]:
    """Mark the best and second best value of some columns; larger is better."""
    found = [list(row) for row in rows]
    for column in columns:
        means = sorted({v.mean for row in rows if isinstance(v := row[column], Value)})
        for row in found:
            value = row[column]
            if not isinstance(value, Value) or len(means) < 2:
                continue
            if value.mean == means[-1]:
                row[column] = replace(value, mark="best")
            elif value.mean == means[-2]:
                row[column] = replace(value, mark="second")
    return found


def markdown(table: Table) -> str:
    """Format a table as Markdown; the best value is bold, the second best italic."""
    around = {"best": "**", "second": "*", None: ""}
    lines = [_pipes(table.head), _pipes("--:" if right else "---" for right in table.numeric)]
    lines += [
        _pipes(
            f"{around[v.mark]}{v.text()}{around[v.mark]}{v.note}" if isinstance(v, Value) else v
            for v in row
        )
        for row in table.rows
    ]
    notes = [f"\n{one_line(note, NOTE)}" for note in table.notes]
    return "\n".join([f"### {one_line(table.title)}", "", *lines, *notes, ""])


def latex(table: Table) -> str:
    """Format a table as LaTeX with booktabs; the best value is bold, the second best underlined."""
    around: dict[Mark | None, Callable[[str], str]] = {
        "best": lambda text: rf"\textbf{{{text}}}",
        "second": lambda text: rf"\underline{{{text}}}",
        None: str,
    }
    rows = [
        " & ".join(
            around[v.mark](v.text(r"$\pm$")) + (f"$^{{{v.note}}}$" if v.note else "")
            if isinstance(v, Value)
            else _latex_text(v)
            for v in row
        )
        + r" \\"
        for row in table.rows
    ]
    return "\n".join(
        [
            *(f"% {one_line(note, NOTE)}" for note in (table.title, *table.notes)),
            rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in table.numeric)}}}",
            r"\toprule",
            " & ".join(map(_latex_text, table.head)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def comma_separated(table: Table) -> str:
    """Format a table as CSV with unrounded numbers and separate columns of standard deviations.

    Text that a spreadsheet would evaluate is prefixed with an apostrophe.
    """
    spread = {
        place
        for row in table.rows
        for place, cell in enumerate(row)
        if isinstance(cell, Value) and table.deviations
    }
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head: list[str] = []
    for place, text in enumerate(table.head):
        name = spreadsheet_cell(one_line(text, LONG))
        head += [name, f"{name} std"] if place in spread else [name]
    writer.writerow(head)
    for row in table.rows:
        line: list[str | float | None] = []
        for place, cell in enumerate(row):
            both = (
                (cell.mean, cell.deviation)
                if isinstance(cell, Value)
                else (spreadsheet_cell(one_line(cell, LONG)), None)
            )
            line += both if place in spread else both[:1]
        writer.writerow(line)
    return file.getvalue()


def html(table: Table) -> str:
    """Format a table as HTML; columns of text have the class `text`."""
    numeric = table.numeric
    head = "".join(
        f"<th{_classes(not right)}>{escape(one_line(name))}</th>"
        for name, right in zip(table.head, numeric, strict=True)
    )
    rows = "".join(f"<tr>{''.join(map(_html_cell, row, numeric))}</tr>" for row in table.rows)
    notes = "".join(f'<p class="note">{escape(one_line(note, NOTE))}</p>' for note in table.notes)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f"</div>{notes}"
    )


FORMATS: dict[str, Callable[[Table], str]] = {
    "md": markdown,
    "tex": latex,
    "csv": comma_separated,
}


def _is_number(cell: str | Value) -> bool:
    return isinstance(cell, Value) or NUMBER.fullmatch(cell) is not None


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(one_line(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _latex_text(text: str) -> str:
    return one_line(text).translate(LATEX)


def _classes(text: bool, mark: Mark | None = None) -> str:
    """Return the `class` attribute of a cell, empty if it has no class."""
    names = " ".join([*(["text"] if text else []), *([mark] if mark else [])])
    return f' class="{names}"' if names else ""


def _html_cell(cell: str | Value, numeric: bool) -> str:
    kind = _classes(not numeric, None if isinstance(cell, str) else cell.mark)
    if isinstance(cell, str):
        return f"<td{kind}>{escape(one_line(cell))}</td>"
    deviation = (
        "" if cell.deviation is None else f"<small> ± {cell.deviation:.{cell.digits}f}</small>"
    )
    note = f"<sup>{escape(cell.note)}</sup>" if cell.note else ""
    return f"<td{kind}><b>{cell.mean:.{cell.digits}f}</b>{deviation}{note}</td>"
