"""Read untrusted YAML with bounded time and memory.

Values are parsed like in OmegaConf: `1e-3` is a number, and dates are text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmrec.config.text import one_line

BYTES = 2**20  # maximum size of a file
DEPTH = 40  # maximum depth of nested lists and mappings
NODES = 100_000  # maximum number of values
SCALAR = 20_000  # maximum length of a value
DIGITS = 1000  # maximum length of a number
_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
    |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)

if TYPE_CHECKING:
    _Base = yaml.SafeLoader
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlFileError(ValueError):
    """Raised if a YAML file is too large, malformed, or has other than plain values."""


class _Loader(_Base):
    """YAML loader with OmegaConf's floats, dates as text, and no duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlFileError(f"line {_line(key.start_mark)}: a key must be plain text")
            if (key.tag, key.value) in keys:
                where = _line(key.start_mark)
                raise YamlFileError(f"line {where}: duplicate key {one_line(key.value, 80)}")
            keys.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
    for first, known in _Loader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """Read a YAML file of plain values: mappings, lists, text, numbers, booleans and null.

    Raises:
        YamlFileError: the file is larger than 1 MiB, nested more than 40 levels deep, malformed, or
            has aliases, merge keys, tags or duplicate keys. The message has the path.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        content = file.read(BYTES + 1)
    if len(content) > BYTES:
        raise YamlFileError(f"{path} is larger than {BYTES // 2**20} MiB")
    try:
        text = content.decode()
        _check(text)
        return yaml.load(text, _Loader)
    except YamlFileError as error:
        raise YamlFileError(f"{path} cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise YamlFileError(f"{path} cannot be read ({one_line(error)})") from None


def _check(text: str) -> None:
    """Check the events of a document, before values are created."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if not isinstance(event, yaml.NodeEvent):
            continue
        nodes += 1
        depth += isinstance(event, yaml.CollectionStartEvent)
        if problem := _problem(event, depth, nodes):
            raise YamlFileError(f"line {_line(event.start_mark)}: {problem}")


def _problem(event: yaml.NodeEvent, depth: int, nodes: int) -> str | None:
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        return "anchors and aliases are not allowed"
    if depth > DEPTH:
        return f"nested more than {DEPTH} levels deep"
    if nodes > NODES:
        return f"more than {NODES} values"
    if getattr(event, "tag", None) is not None:
        return f"the tag {one_line(getattr(event, 'tag', ''), 80)} is not allowed"
    if isinstance(event, yaml.ScalarEvent):
        if len(event.value) > SCALAR:
            return f"a value of more than {SCALAR} characters"
        if len(event.value) > DIGITS and re.fullmatch(r"[-+]?[0-9a-fA-Fx_:.]+", event.value):
            return f"a number of more than {DIGITS} characters"
        if event.implicit[0] and event.value == "<<":
            return "merge keys are not allowed"
    return None


def _line(mark: Any) -> int:
    return int(mark.line) + 1
