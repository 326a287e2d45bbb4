"""Read and check the configuration in a run folder, which may come from an untrusted source.

Nothing in the folder is executed. The configuration may only refer to models, data modules and
their parts; classes outside mmrec are imported only if `mmrec.training.trust` allows it.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from hydra.utils import get_object
from torch.optim import Optimizer

from mmrec.config.errors import SettingError
from mmrec.config.old_runs import unsupported
from mmrec.config.paths import data_root as default_data_root
from mmrec.config.paths import expand
from mmrec.config.schema import TARGET, check_call
from mmrec.config.text import one_line
from mmrec.data import InteractionData
from mmrec.evaluation import Evaluation
from mmrec.models import Recommender
from mmrec.nn.schedules import RouterSchedule
from mmrec.training.results import CONFIG, ResultError, read_config, read_result
from mmrec.training.trust import Untrusted, check_import

log = logging.getLogger(__name__)


KINDS = {
    "model": Recommender,
    "data": InteractionData,
    "optimizer": Optimizer,
    "evaluation": Evaluation,
    "router_schedule": RouterSchedule,
}


LATER = ("model", "optimizer")  # groups with _partial_, called with additional arguments


PARTS = ("mmrec.data.", "mmrec.nn.schedules.")  # arguments of models and data modules


def read_run_config(folder: Path, trust: Sequence[str]) -> dict[str, Any]:
    """Read and check the configuration of a run.

    Args:
        folder: folder of the run.
        trust: modules outside mmrec that may be imported.

    Raises:
        ResultError: the file is malformed, or refers to a class that may not be imported.
    """
    path = folder / CONFIG
    config = read_config(folder)
    for setting, value in unsupported(config):
        raise ResultError(
            f"{path}: {setting} is {one_line(value)}, which this version no longer supports; open "
            f"the run with {_writer(folder)}"
        )
    groups = (*KINDS, "trainer", "seed")
    if missing := [name for name in groups if name not in config]:
        raise ResultError(f"{path} has no {', '.join(missing)}; is it the config.yaml of a run?")
    for group, kind in KINDS.items():
        if group == "router_schedule" and not config[group]:
            continue  # most models have no router
        _check_trust(path, group, config[group], kind, trust)
        try:
            check_call(config[group], group)
        except SettingError as error:
            raise ResultError(
                f"{path}: {error}; if another version wrote it, open the run with {_writer(folder)}"
            ) from None
    _check_values(path, config)
    return config


def _writer(folder: Path) -> str:
    """Return the version and, if known, the commit of mmrec that wrote a run."""
    try:
        result = read_result(folder)
    except ResultError:
        return "the version of mmrec that wrote it"
    version, commit = result["versions"].get("mmrec", "(unknown version)"), result["git_commit"]
    return f"mmrec {version}" + (f", commit {commit}" if commit else "")


def _check_values(path: Path, config: Mapping[str, Any]) -> None:
    """Check values outside the groups with a class, for errors that name the setting."""
    seed, trainer = config["seed"], config["trainer"]
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ResultError(f"{path}: seed is {one_line(seed)}, expected 0 to 2^32 - 1")
    precision = trainer.get("precision") if isinstance(trainer, Mapping) else None
    if isinstance(precision, bool) or not isinstance(precision, str | int):
        raise ResultError(
            f"{path}: trainer.precision is {one_line(precision)}, expected one of Lightning's"
        )


def _check_trust(
    path: Path, group: str, node: object, kind: type, trust: Sequence[str] = ()
) -> None:
    """Check that a configuration can only build a model, its data and its parts.

    First, all classes of the group are checked against the trusted modules. Then they are imported,
    and their type is checked. Nothing is called.

    Raises:
        ResultError: the configuration is not allowed; the message names the setting.
    """
    if not isinstance(node, Mapping) or TARGET not in node:
        raise ResultError(f"{path}: {group} has no {TARGET}; it must name a {kind.__name__}")
    nodes = list(_below(node, group))
    for place, value in nodes:
        for key in value if isinstance(value, Mapping) else ():
            if not isinstance(key, str):
                raise ResultError(
                    f"{path}: {place} has the key {one_line(key)}, expected the name of a setting"
                )
        if isinstance(value, str) and "${" in value:  # OmegaConf would evaluate it
            said = one_line(value)
            raise ResultError(f"{path}: {place} is {said}, expected a value without interpolation")
    classes = [(place, value[TARGET]) for place, value in nodes if _is_call(value)]
    for place, name in classes:
        if not _may_be(kind if place == group else None, name):
            raise _refused(path, place, name, kind if place == group else None)
        try:
            check_import(name, path.parent, trust)
        except Untrusted as error:
            raise ResultError(f"{path}: {place}.{TARGET} is {one_line(name)}: {error}") from None
    for place, name in classes:
        _check_kind(path, place, name, kind if place == group else None)
    for place, value in nodes:
        if _is_call(value):
            _check_keys(path, place, value, later=place in LATER)


def _is_call(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and TARGET in value


def _may_be(kind: type | None, name: object) -> bool:
    """Return whether a name can be a class of a kind, or, without a kind, a part."""
    if not isinstance(name, str) or name.partition(".")[0] in sys.stdlib_module_names:
        return False
    return kind is not None or name.startswith(PARTS)


def _check_kind(path: Path, place: str, name: str, kind: type | None) -> None:
    """Import a trusted class, and check its type."""
    try:
        target = get_object(name)
    except Exception as error:  # an import may raise anything
        raise ResultError(
            f"{path}: {place}.{TARGET} is {one_line(name)}, which cannot be imported "
            f"({one_line(error)}); install it, or add its folder to PYTHONPATH"
        ) from None
    if kind is not None:
        right = inspect.isclass(target) and issubclass(target, kind)
    else:  # check the defining module: mmrec.data.files.hashlib is not part of mmrec.data
        public = not name.rpartition(".")[2].startswith("_")
        right = public and f"{getattr(target, '__module__', '')}.".startswith(PARTS)
    if not right:
        raise _refused(path, place, name, kind)


def _refused(path: Path, place: str, name: object, kind: type | None) -> ResultError:
    expected = f"something in {' or '.join(PARTS)}" if kind is None else f"a {kind.__name__} class"
    return ResultError(
        f"{path}: {place}.{TARGET} is {one_line(name)}, which is not {expected}; it is not executed"
    )


def _check_keys(path: Path, place: str, node: Mapping[str, Any], *, later: bool) -> None:
    """Check the keys that control Hydra's call: positional arguments, conversion and partial."""
    allowed: dict[str, tuple[object, ...]] = {
        "_args_": (None,),
        "_convert_": ("none", "partial", "object", "all"),
        "_recursive_": (True, False),
        "_partial_": (later,) if "." not in place else (True, False),
    }
    found = {"_partial_": False, **node} if later else node
    for key, values in allowed.items():
        if key in found and found[key] not in values:
            raise ResultError(
                f"{path}: {place}.{key} is {one_line(found[key])}, expected "
                f"{' or '.join(map(str, values))}"
            )


def _below(node: object, place: str) -> Iterator[tuple[str, object]]:
    """Yield all values in a node with their paths."""
    yield place, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _below(value, f"{place}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _below(value, f"{place}[{index}]")


def placed(data: Mapping[str, Any], root: str | Path | None) -> dict[str, Any]:
    """Return the settings of the data with the current folder of data sets.

    Raises:
        SettingError: `root` is given, but the data are not read from a folder.
    """
    if "root" not in data:
        if root is not None:
            what = str(data[TARGET]).rpartition(".")[2]
            raise SettingError(
                setting="data.root",
                value=root,
                problem=f"{what} reads no folder",
                hint="leave the setting out",
            )
        return dict(data)
    if root is not None:
        return {**data, "root": str(root)}
    recorded, name = data["root"], data.get("name")
    moved = isinstance(recorded, str) and not expand(recorded).joinpath(str(name)).is_dir()
    if moved and os.environ.get("MMREC_DATA"):
        log.info(
            "data: %s is not in %s, read from MMREC_DATA=%s", name, recorded, default_data_root()
        )
        return {**data, "root": None}
    return dict(data)


def titled(data: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return the column settings of the data with another column for titles.

    Raises:
        SettingError: the data are not read from a folder.
    """
    if "root" not in data:
        what = str(data[TARGET]).rpartition(".")[2]
        raise SettingError(
            setting="data.columns.title",
            value=title,
            problem=f"{what} reads no folder",
            hint="leave the setting out",
        )
    columns = data.get("columns") or {TARGET: "mmrec.data.Columns"}
    return {"columns": {**columns, "title": title}}
