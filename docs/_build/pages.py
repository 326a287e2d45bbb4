"""Pages of the site that are made from the repository: models, experiments.

A page per model shows its module's docstring, its settings and search space, its ablations, the section of
`models.md` or `sequences.md` about it, and its rows in the tables of `experiments/`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
NOTES = ("models.md", "sequences.md", "cold-start.md", "routers.md")
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add a page per model, and the pages of the experiments with their pictures."""
    names = sorted(p.stem for p in (ROOT / "conf/model").glob("[!_]*.yaml"))
    for name in names:
        files.append(File.generated(config, f"models/{name}.md", content=model_page(name)))
    for path in sorted((ROOT / "experiments").rglob("*")):
        if path.suffix in (".md", ".png", ".svg"):
            place = path.relative_to(ROOT).as_posix()
            if path.suffix == ".md":
                files.append(File.generated(config, place, content=path.read_text()))
            else:
                files.append(File.generated(config, place, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to pages of the site; a link to another file of the repository becomes its text."""
    place = Path(page.file.src_uri)
    of_experiment = place.parts[0] == "experiments"
    source = (ROOT if of_experiment else ROOT / "docs") / place

    def lead(found: re.Match[str]) -> str:
        text, target = found.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return found[0]
        goal = (source.parent / path).resolve()
        if not goal.is_relative_to(ROOT):
            return found[0]
        inside = goal.relative_to(ROOT)
        if inside.parts[0] == "docs":
            inside = Path(*inside.parts[1:])
        elif inside.parts[0] != "experiments" or goal.suffix not in (".md", ".png", ".svg"):
            return text if text.startswith("`") else f"{text} (`{inside.as_posix()}`)"
        up = "../" * (len(place.parts) - 1)
        return f"[{text}]({up}{inside.as_posix()}{hash_}{anchor})"

    if place.as_posix() == "models/index.md":
        markdown = re.sub(r"^\| `(\w+)` \|", r"| [`\1`](\1.md) |", markdown, flags=re.MULTILINE)
    return LINK.sub(lead, markdown)


def model_page(name: str) -> str:
    """The page of a model as Markdown."""
    settings = (ROOT / f"conf/model/{name}.yaml").read_text()
    target = re.search(r"^_target_: mmrec\.models\.(\w+)$", settings, re.MULTILINE)
    assert target
    module = ROOT / f"mmrec/models/{name}.py"
    title, _, about = (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n\n")
    about = about.partition("Shapes:")[0].strip()
    parts = [f"# {target[1]} (`model={name}`)", title, about]
    for page in NOTES:
        text = (ROOT / "docs" / page).read_text()
        found = re.search(rf"^## [^\n]*`model={name}`[^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        if found:
            parts += [f"## Differences and reference run\n\n{_one_up(found[1].strip())}"]
    parts += [f"## Settings\n\nDefaults, in `conf/model/{name}.yaml`:\n\n```yaml\n{settings}```"]
    space = ROOT / f"conf/sweep/{name}.yaml"
    if space.is_file():
        parts += [
            f"Search space of `python -m mmrec.run -m sweep={name} model={name}`:\n\n"
            f"```yaml\n{space.read_text()}```"
        ]
    ablations = sorted(p.stem for p in (ROOT / f"conf/ablation/{name}").glob("*.yaml"))
    if ablations:
        listed = ", ".join(f"`{a}`" for a in ablations)
        target_name = name.replace("_", "-")
        parts += [f"Ablations of `make ablation-{target_name}`: {listed}."]
    if tables := "\n\n".join(_results(name)):
        parts += [f"## Results\n\n{tables}"]
    parts += [f"## API\n\n::: mmrec.models.{target[1]}"]
    return "\n\n".join(parts) + "\n"


def _one_up(text: str) -> str:
    """The links of a page in `docs/`, as seen from a folder below."""
    return LINK.sub(lambda m: m[0] if "://" in m[2] else f"[{m[1]}](../{m[2]})", text)


def _results(name: str) -> Iterator[str]:
    """The head and the model's rows of each first table that has any, with a link to its page."""
    row = re.compile(rf"^{name}(?:,| |$)", re.IGNORECASE)
    for path in sorted((ROOT / "experiments").glob("*/*.md")):
        lines = path.read_text().splitlines()
        for start, line in enumerate(lines):
            if line.startswith("| ---") or re.match(r"^\|(\s*:?-+:?\s*\|)+$", line):
                end = next((i for i in range(start, len(lines)) if not lines[i]), len(lines))
                rows = [r for r in lines[start + 1 : end] if row.match(r.strip("| *").strip("`"))]
                if rows:
                    where = path.relative_to(ROOT).as_posix()
                    yield f"From [{where}](../../{where}):"
                    table = "\n".join([lines[start - 1], line, *rows])
                    yield LINK.sub(r"\1", table)  # these links are relative to the other page
                    break
