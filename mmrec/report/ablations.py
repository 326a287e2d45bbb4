"""Compare the settings of ablations with those of their model.

An ablation is a file of conf/ablation. Its run is comparable with the unchanged model only if the
two differ in nothing but the settings of that file. A different learning rate, for example, makes
them incomparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmrec.config.schema import conf_dir
from mmrec.config.text import one_line
from mmrec.config.yaml_file import YamlFileError, read_yaml
from mmrec.report.collect import Method, Run
from mmrec.training.provenance import flat, is_free

SHOWN = 6  # largest number of differences listed in a table
OVERRIDE = "override /"
GLOBAL = "# @package _global_"


@dataclass(frozen=True)
class Changes:
    """Settings of a file of conf/ablation.

    Attributes:
        values: settings by dotted name.
        groups: configuration groups for which the file chooses another option.
    """

    values: Mapping[str, Any]
    groups: tuple[str, ...]


def differences(base: Method, method: Method) -> dict[str, tuple[str, str]]:
    """Return the settings in which an ablation differs from its model beyond the ablation's file.

    Args:
        base: the unchanged model.
        method: the model with an ablation.

    Returns:
        The value of the base and the value of the ablation, as text, by setting. If the file of the
        ablation is not found, all differences are returned.
    """
    changes = _changes(method.runs[0]) or Changes({}, ())
    before, now = _known(base.settings), _known(method.settings)
    found = {}
    for name in sorted({*before, *now, *changes.values}):
        one, other = before.get(name), now.get(name)
        if name in changes.values:
            meant = changes.values[name]
            same = other == meant or (isinstance(meant, str) and "${" in meant)
        elif any(name.startswith(f"{group}.") for group in changes.groups):
            same = name not in now  # a setting of the option that the ablation replaces
        else:
            same = one == other or any(name.startswith(f"{place}.") for place in changes.values)
        if not same:
            found[name] = (_shown(name, before), _shown(name, now))
    return found


def described(found: Mapping[str, tuple[str, str]]) -> str:
    """Format differences as a table cell."""
    listed = [f"{name}={now} (model: {before})" for name, (before, now) in found.items()]
    more = [f"and {len(listed) - SHOWN} more"] if len(listed) > SHOWN else []
    return "; ".join([*listed[:SHOWN], *more])


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drop empty mappings, which hold no setting."""
    return {name: value for name, value in settings.items() if value != {}}


def _shown(name: str, settings: Mapping[str, Any]) -> str:
    return one_line(settings[name], 60) if name in settings else "not set"


def _changes(run: Run) -> Changes | None:
    """Read the file of a run's ablation; None if it is missing or has an unknown form."""
    name = run.ablation_file
    if name is None or ".." in Path(name).parts or Path(name).is_absolute():
        return None
    for folder in (*run.config_dirs, conf_dir()):
        path = folder / "ablation" / f"{name}.yaml"
        if path.is_file():
            return _read(path)
    return None


def _of_choice(group: str, choice: str, place: str) -> dict[str, Any]:
    """Return the settings of a configuration file and its defaults, by dotted name."""
    content = read_yaml(conf_dir() / group / f"{choice}.yaml")
    found: dict[str, Any] = {}
    for base in content.get("defaults") or ():
        if base != "_self_":
            found |= _of_choice(group, str(base), place)
    own = {name: value for name, value in content.items() if name != "defaults"}
    return found | ({f"{place}.{name}": value for name, value in flat(own).items()} if own else {})


@cache
def _read(path: Path) -> Changes | None:
    try:
        content = read_yaml(path)
        is_global = path.read_text().lstrip().startswith(GLOBAL)
    except (OSError, YamlFileError):
        return None
    if not isinstance(content, Mapping) or not is_global:
        return None
    groups = []
    values: dict[str, Any] = {}
    for entry in content.get("defaults") or ():
        if entry == "_self_":
            continue
        if not isinstance(entry, Mapping) or len(entry) != 1:
            return None
        (chosen,) = map(str, entry)
        if not chosen.startswith(OVERRIDE):
            return None
        if (
            group := chosen.removeprefix(OVERRIDE)
        ) != "model":  # the model that the ablation belongs to
            place = group.replace("/", ".")
            groups.append(place)
            values |= _of_choice(group, str(entry[chosen]), place)
    values |= flat({name: value for name, value in content.items() if name != "defaults"})
    kept = {
        name: value
        for name, value in values.items()
        if name and value != {} and not is_free(name) and name.rpartition(".")[2] != "seed"
    }
    return Changes(kept, tuple(groups))
