"""Which code a model's numbers come from."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

from hydra.utils import get_object


@cache
def code_digest(target: str) -> str:
    """A digest of the module that defines a class, and of all that it imports from its own package.

    Its own package, and mmrec. Comments, line breaks and the commit do not count: a change
    elsewhere leaves the digest as it is.

    Args:
        target: dotted name of the class, as `mmrec.models.LightGCN`.

    Returns:
        16 hexadecimal digits.
    """
    module = get_object(target).__module__
    roots = {"mmrec", module.partition(".")[0]}
    sources: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources or name.partition(".")[0] not in roots:
            continue
        path = _source(name)
        if path is None:
            continue
        tree = ast.parse(path.read_text())
        sources[name] = ast.dump(tree)
        waiting += _imported(tree, name if path.name == "__init__.py" else name.rpartition(".")[0])
    content = "\n".join(f"{name} {dumped}" for name, dumped in sorted(sources.items()))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _source(name: str) -> Path | None:
    """The file of a module; None: a name that is none, or has none."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Names of what may be modules."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                base = resolve_name("." * node.level + (node.module or ""), package)
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
