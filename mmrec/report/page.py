"""Write the HTML page of a report, and its tables and figures as files."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from mmrec.config.bars import steps
from mmrec.config.paths import replace_file
from mmrec.report import charts
from mmrec.report.tables import FORMATS, Table, html

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SEEN = {
    "train": "training items are masked",
    "train+val": "training and validation items are masked",
    "all": "all items that a user has in the data are masked, including test items",
    "none": "no items are masked",
}


@dataclass(frozen=True)
class Tile:
    """A picture or a name among others.

    Attributes:
        caption: below the picture.
        note: below the caption.
        picture: a JPEG; None if there is none.
    """

    caption: str
    note: str = ""
    picture: bytes | None = None

    @property
    def address(self) -> str | None:
        """The picture as an address that needs no network."""
        if self.picture is None:
            return None
        return f"data:image/jpeg;base64,{b64encode(self.picture).decode()}"


@dataclass(frozen=True, eq=False)
class Section:
    """A section of the page.

    Attributes:
        title: heading.
        slug: prefix of the file names of the figures.
        text: introductory paragraph.
        tables: shown below the text.
        figures: by name.
        details: longer texts by name, collapsed.
        tiles: rows of them; the first of a row is the one that the others are compared with.
        suffixes: formats of the figures; a page needs svg.
        rendered: content of the figures' files, by suffix; rendered on first use.
    """

    title: str
    slug: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    tiles: list[list[Tile]] = field(default_factory=list)
    suffixes: Sequence[str] = ("png", "svg")

    @cached_property
    def rendered(self) -> dict[str, dict[str, bytes]]:
        figures = self.figures.items()
        return {name: charts.rendered(figure, self.suffixes) for name, figure in figures}


def left_out(reasons: Mapping[Path, str]) -> Section:
    """List the folders that are left out of the comparison, with reasons."""
    rows = [[str(folder), reason] for folder, reason in reasons.items()]
    return Section(
        "Left out",
        "left-out",
        tables=[Table("left-out", "Runs that are not in the tables", ["folder", "reason"], rows)],
    )


def write_page(
    folder: Path, title: str, summary: str, warnings: Sequence[str], sections: Sequence[Section]
) -> Path:
    """Write `index.html`, and a file for each table and figure.

    Args:
        folder: created if it does not exist.
        title: of the page.
        summary: paragraph below the title.
        warnings: highlighted paragraphs below the summary.
        sections: in the order of the page.

    Returns:
        The path of the page.
    """
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for section in steps(sections, "writing the report", "section"):
        for table in section.tables:
            for suffix, write in FORMATS.items():
                _write(folder / "tables" / f"{table.name}.{suffix}", write(table).encode())
        for name, by_suffix in section.rendered.items():
            for suffix, content in by_suffix.items():
                _write(folder / "figures" / f"{section.slug}-{name}.{suffix}", content)
    _write(folder / "index.html", page(title, summary, warnings, sections).encode())
    return folder / "index.html"


def _write(path: Path, content: bytes) -> None:
    with replace_file(path) as part:
        part.write_bytes(content)


def page(title: str, summary: str, warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """Return a self-contained HTML page."""
    from jinja2 import Environment, StrictUndefined

    source = files("mmrec.report").joinpath("page.html.j2").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    shown = [
        {
            "title": section.title,
            "text": section.text,
            "tables": section.tables,
            "figures": {
                name: charts.for_a_page(by_suffix["svg"])
                for name, by_suffix in section.rendered.items()
            },
            "details": section.details,
            "tiles": section.tiles,
        }
        for section in sections
    ]
    return environment.from_string(source).render(
        title=title, summary=summary, warnings=warnings, sections=shown, html=html
    )
