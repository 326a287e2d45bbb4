"""Digest of the code that a model depends on."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

from hydra.utils import get_object


@cache
def code_digest(*targets: str) -> str:
    """Hash the modules that define classes, and all modules that they import.

    Only modules of mmrec and of the package of each class are included. Comments, line breaks and
    changes in other modules do not change the digest.

    Args:
        targets: dotted names of the classes, for example `mmrec.models.LightGCN`.

    Returns:
        16 hexadecimal digits.
    """
    modules = [get_object(target).__module__ for target in targets]
    roots = {"mmrec", *(module.partition(".")[0] for module in modules)}
    sources: dict[str, str] = {}
    waiting = modules
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
    """Return the file of a module; None if the name is not a module or has no source file."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the imported names that may be modules."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                base = resolve_name("." * node.level + (node.module or ""), package)
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
