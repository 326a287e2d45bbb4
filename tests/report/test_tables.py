"""Tables say the same in every format."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import pytest

from mmrec.report.tables import Table, Value, comma_separated, html, latex, markdown, marked
from mmrec.report.tables import over_seeds as over

ROWS = marked(
    [
        ["a_b", over([0.1, 0.3])],
        ["50 % & <c>", over([0.25, 0.25])],
        ["none", over([])],
        ["last | d", over([0.05])],
    ],
    [1],
)
TABLE = Table("t", "Title", ["model", "recall@20"], ROWS, ["What it means."])


def test_means_deviations_and_marks():
    values = [row[1] for row in ROWS]
    assert values[0].mean == pytest.approx(0.2)
    assert values[0].deviation == pytest.approx(0.02**0.5)
    assert [v.mark if isinstance(v, Value) else v for v in values] == ["second", "best", "–", None]
    assert values[3].deviation is None


def test_equal_values_share_a_mark_and_one_value_has_none():
    tied = marked([["a", over([0.2])], ["b", over([0.2])], ["c", over([0.1])]], [1])
    assert [row[1].mark for row in tied] == ["best", "best", "second"]
    assert marked([["a", over([0.2])]], [1])[0][1].mark is None


def test_markdown():
    assert markdown(TABLE).splitlines() == [
        "### Title",
        "",
        "| model | recall@20 |",
        "| --- | --: |",
        "| a_b | *0.2000 ± 0.1414* |",
        "| 50 % & <c> | **0.2500 ± 0.0000** |",
        "| none | – |",
        "| last \\| d | 0.0500 |",
        "",
        "What it means.",
    ]


def test_latex():
    lines = latex(TABLE).splitlines()
    assert lines[0] == "% Title"
    assert r"a\_b & \underline{0.2000 $\pm$ 0.1414} \\" in lines
    assert r"50 \% \& <c> & \textbf{0.2500 $\pm$ 0.0000} \\" in lines
    assert r"none & -- \\" in lines
    assert r"\begin{tabular}{lr}" in lines


def test_comma_separated_has_all_digits():
    rows = list(csv.DictReader(io.StringIO(comma_separated(TABLE))))
    assert [row["model"] for row in rows] == ["a_b", "50 % & <c>", "none", "last | d"]
    assert float(rows[0]["recall@20 std"]) == pytest.approx(0.02**0.5, rel=1e-12)
    assert rows[3]["recall@20 std"] == ""


def test_html_is_escaped_and_whole():
    class Cells(HTMLParser):
        def __init__(self):
            super().__init__()
            self.found, self.open = [], []

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)
            if tag in ("td", "th"):
                self.found.append("")

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            if "td" in self.open or "th" in self.open:
                self.found[-1] += data

    cells = Cells()
    cells.feed(html(TABLE))
    assert not cells.open
    assert cells.found == [
        *("model", "recall@20", "a_b", "0.2000 ± 0.1414", "50 % & <c>", "0.2500 ± 0.0000"),
        *("none", "–", "last | d", "0.0500"),
    ]


def test_columns_of_text_are_aligned_left_and_numbers_right():
    head = ["model", "title", "items", "change", "interval", "p"]
    rows = [
        ["1", "Toy 2", "1,234", "+1.3 %", "-0.1 to +0.2", over([0.1])],
        ["2", "3", "5", "–", "", "–"],
    ]
    table = Table("t", "Title", head, rows)
    assert markdown(table).splitlines()[3] == "| --- | --- | --: | --: | --: | --: |"
    assert r"\begin{tabular}{llrrrr}" in latex(table)
    assert '<td class="text">Toy 2</td><td>1,234</td>' in html(table)
    assert '<th class="text">title</th><th>items</th>' in html(table)


@pytest.mark.parametrize("write", [markdown, latex, html, comma_separated])
def test_a_cell_is_one_short_line_without_escapes(write):
    row = ["\x1b[31m" + "x" * 20_000, over([0.1])]
    text = write(Table("t", "a\nb", ["model\n", "recall@20"], [row], ["one\ntwo"]))
    assert "\x1b" not in text
    assert all(len(line) < 11_000 for line in text.splitlines())
    plain = write(Table("t", "a b", ["model", "recall@20"], [["x", over([0.1])]], ["one two"]))
    assert text.count("\n") == plain.count("\n")


def test_text_is_no_formula_for_a_spreadsheet():
    rows = [["=1+1", over([-0.1])], ["@a", "+1.3 %"], ["b", "-0.1000 to +0.2000"]]
    table = Table("t", "t", ["-x", "y"], rows)
    found = [line.split(",") for line in comma_separated(table).splitlines()]
    assert found[0] == ["'-x", "y", "y std"]
    assert found[1] == ["'=1+1", "-0.1", ""]
    assert found[2][:2] == ["'@a", "+1.3 %"]
    assert found[3][:2] == ["b", "-0.1000 to +0.2000"]


def test_latex_stays_in_its_cell():
    row = ["\\input{/etc/passwd} & $x$ % _", over([0.1])]
    line = latex(Table("t", "t\n\\input{x}", ["a", "b"], [row])).splitlines()
    assert line[0].startswith("% t")
    assert not any(text.startswith("\\input") for text in line)
    assert r"\textbackslash{}input\{/etc/passwd\} \& \$x\$ \% \_ & 0.1000 \\" in line
