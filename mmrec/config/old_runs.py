"""Compatibility with run folders of earlier versions of mmrec.

A removed setting is dropped from the configuration of an old run if it has the value that the code
still implements. With other values, the run cannot be opened. Renamed parameters are mapped to
their new names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# Removed settings by class, with the value that equals the current behaviour.
REMOVED: Mapping[str, Mapping[str, object]] = {
    "mmrec.models.MAGNET": {"hidden": 0, "agreement": "cosine"},
}
# Removed values of existing settings by class.
REMOVED_CHOICES: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "mmrec.models.MAGNET": {"content": ("gated",)},
}

# Added settings, with the value that equals the earlier behaviour.
ADDED: Mapping[str, object] = {"data.corrupt_how": "noise", "data.keep_repeats": None}

# Old and new prefixes of the dotted names of moved classes.
MOVED: Mapping[str, str] = {"mmrec.schedules.": "mmrec.nn.schedules."}

# Parameters of projections, for up to 64 modalities.
PROJECTIONS = {f"project.each.{place}.linear.": f"project.{place}." for place in range(64)}

# Old and new prefixes of renamed parameters by class.
RENAMED_PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "mmrec.models.vbpr.VBPR": PROJECTIONS,
    "mmrec.models.gated_lightgcn.GatedLightGCN": PROJECTIONS,
    "mmrec.models.magnet.MAGNET": {
        f"{name}.": f"channels.{name}." for name in ("node", "project", "behaviour", "contents")
    },
}


def without_removed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Drop removed settings with the current behaviour, and rename moved classes.

    Args:
        config: groups of the `config.yaml` of a run.

    Returns:
        A copy, in which all other settings are unchanged.
    """
    return {
        group: {
            name: _moved(value) if name == "_target_" else value
            for name, value in node.items()
            if not _is_default(node, name, value)
        }
        if isinstance(node, Mapping)
        else node
        for group, node in config.items()
    }


def without_added(config: Mapping[str, Any]) -> dict[str, Any]:
    """Drop added settings with the earlier behaviour.

    Equal runs therefore have the same hash in all versions.

    Args:
        config: groups of settings, or settings by dotted name.
    """
    left = {name: value for name, value in config.items() if not _means_before(name, value)}
    return {
        group: {
            name: value
            for name, value in node.items()
            if not _means_before(f"{group}.{name}", value)
        }
        if isinstance(node, Mapping)
        else node
        for group, node in left.items()
    }


def _means_before(name: str, value: object) -> bool:
    return name in ADDED and ADDED[name] == value


def _moved(target: object) -> object:
    """Return the current dotted name of a class."""
    for old, new in MOVED.items():
        if isinstance(target, str) and target.startswith(old):
            return new + target.removeprefix(old)
    return target


def unsupported(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of settings that are no longer supported.

    Args:
        config: result of `without_removed`.
    """
    for group, node in config.items():
        if not isinstance(node, Mapping):
            continue
        for name, value in node.items():
            if name in _of(REMOVED, node) or value in _of(REMOVED_CHOICES, node).get(name, ()):
                yield f"{group}.{name}", value


def rename_parameters(state: Mapping[str, Any], kinds: Iterable[type]) -> dict[str, Any]:
    """Return the parameters of a checkpoint with their current names.

    Args:
        state: parameters by name.
        kinds: class of the model and its base classes.
    """
    renamed = {}
    tables = [RENAMED_PARAMETERS.get(f"{k.__module__}.{k.__qualname__}", {}) for k in kinds]
    prefixes = {old: new for table in tables for old, new in table.items()}
    for name, value in state.items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        renamed[prefixes.get(old, "") + name.removeprefix(old)] = value
    return renamed


def _is_default(node: Mapping[str, Any], name: str, value: object) -> bool:
    removed = _of(REMOVED, node)
    return name in removed and type(value) is type(removed[name]) and value == removed[name]


def _of(table: Mapping[str, Mapping[str, Any]], node: Mapping[str, Any]) -> Mapping[str, Any]:
    target = node.get("_target_")
    return table.get(target, {}) if isinstance(target, str) else {}
