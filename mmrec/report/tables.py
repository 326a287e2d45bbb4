"""Tables: values with their marks, and how they are written in Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

from mmrec.config.text import one_line, spreadsheet_cell

Mark = Literal["best", "second"]
NOTE = 10_000  # characters of a note
LONG = 10_000  # characters of a cell for other programs


LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    | {"–": "--", "±": r"$\pm$"}
)


@dataclass(frozen=True)
class Value:
    """A number over seeds.

    Attributes:
        mean: of them.
        deviation: standard deviation; None: there is one seed, or nothing to deviate.
        digits: after the point.
        mark: place among the column's.
        note: stands behind it, as `*`.
    """

    mean: float
    deviation: float | None = None
    digits: int = 4
    mark: Mark | None = None
    note: str = ""

    def text(self, plus_minus: str = "±") -> str:
        """The number, with its deviation."""
        if self.deviation is None:
            return f"{self.mean:.{self.digits}f}"
        return f"{self.mean:.{self.digits}f} {plus_minus} {self.deviation:.{self.digits}f}"


@dataclass(frozen=True)
class Table:
    """Rows under a head.

    Attributes:
        name: of its files.
        title: for people.
        head: of each column.
        rows: texts and values.
        notes: what has to be known about it.
        deviations: whether other programs get a column for them, whether there are any or not.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Value]]
    notes: Sequence[str] = ()
    deviations: bool = True


def over_seeds(values: Sequence[float], digits: int = 4) -> Value | str:
    """Mean and standard deviation; a dash where there is nothing."""
    if not values:
        return "–"
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Value(statistics.fmean(values), deviation, digits)


def marked(
    rows: Sequence[Sequence[str | Value]], columns: Sequence[int]
) -> list[list[str | Value]]:
    """The rows with the best and second best value of some columns marked; larger is better."""
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
    """For a README; best bold, second in italics."""
    around = {"best": "**", "second": "*", None: ""}
    lines = [_pipes(table.head), _pipes(["---"] + ["--:"] * (len(table.head) - 1))]
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
    """For a paper, with booktabs; best bold, second underlined."""
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
            rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}",
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
    """For other programs: all digits, and the deviation in a column of its own.

    Text that a spreadsheet would evaluate begins with an apostrophe.
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
    """For the page."""
    head = "".join(f"<th>{escape(one_line(name))}</th>" for name in table.head)
    rows = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in table.rows)
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


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(one_line(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _latex_text(text: str) -> str:
    return one_line(text).translate(LATEX)


def _html_cell(cell: str | Value) -> str:
    if not isinstance(cell, Value):
        return f"<td>{escape(one_line(cell))}</td>"
    kind = f' class="{cell.mark}"' if cell.mark else ""
    deviation = (
        "" if cell.deviation is None else f"<small> ± {cell.deviation:.{cell.digits}f}</small>"
    )
    note = f"<sup>{escape(cell.note)}</sup>" if cell.note else ""
    return f"<td{kind}><b>{cell.mean:.{cell.digits}f}</b>{deviation}{note}</td>"
