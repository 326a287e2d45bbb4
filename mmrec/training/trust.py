"""Check whether a class of a run folder may be imported, before anything is imported.

Classes of mmrec and optimizers of PyTorch are always allowed. Other classes are allowed if their
file is outside all run folders, and the user has trained with them on this machine or has allowed
them with `trust=[...]`. Both are recorded in `trusted.json` in the cache folder. Files in a run
folder cannot grant trust.
"""

from __future__ import annotations

import json
import logging
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock

from mmrec.config.paths import cache_dir, replace_file
from mmrec.config.schema import TARGET
from mmrec.training.results import BEST, CONFIG, LAST, OVERRIDES, RESULT

log = logging.getLogger(__name__)
RECORD = "trusted.json"
OWN = "mmrec"
OPTIMIZERS = "torch.optim."
RECORDED = ("model", "data", "optimizer", "evaluation", "router_schedule")  # groups of classes


class Untrusted(ValueError):
    """Raised if a class may not be imported; the message has the reason and the remedy."""


@dataclass(frozen=True)
class Located:
    """Modules that an import of a class would execute.

    Attributes:
        module: dotted name of the module that should define the class.
        files: files by module that an import would execute, without those already imported, parent
            packages first.
    """

    module: str
    files: Mapping[str, Path]


def locate(target: str) -> Located:
    """Find the modules of a dotted class name without importing any of them.

    If `a.b` has no attribute `C`, an import of `a.b.C` also tries `a.b.C` as a module.

    Raises:
        Untrusted: the name is malformed or a module, or a module has no file.
    """
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise Untrusted("it is not the dotted name of a class")
    if parts[0] in sys.stdlib_module_names:
        raise Untrusted("it is part of Python's standard library")
    module, _, name = target.rpartition(".")
    files: dict[str, Path] = {}
    search: Sequence[str] | None = None
    for depth in range(1, len(parts)):
        parent = ".".join(parts[:depth])
        if parent in sys.modules:
            search = list(getattr(sys.modules[parent], "__path__", ()))
            continue
        spec = _find(parent, search)
        if spec is None:
            raise Untrusted(
                f"the module {parent} was not found; install it, or add its folder to PYTHONPATH"
            )
        if spec.loader is not None:  # namespace packages have no loader and execute nothing
            files[parent] = _file(parent, spec)
        search = spec.submodule_search_locations or ()
    loaded = sys.modules.get(module)
    if loaded is not None and name in vars(loaded):
        if isinstance(vars(loaded)[name], ModuleType):
            raise Untrusted("it is a module, expected a class")
        return Located(module, files)
    spec = None if target in sys.modules else _find(target, search)
    if target in sys.modules or (spec is not None and spec.loader is not None):
        # Only a package that is not imported yet can define a class with the name of its module.
        if spec is None or module not in files or parts[0] == OWN:
            raise Untrusted("it is a module, expected a class")
        files[target] = _file(target, spec)
    elif loaded is not None and _is_lazy(loaded):
        files[module] = Path(getattr(loaded, "__file__", None) or "").absolute()
    return Located(module, files)


def _is_lazy(module: ModuleType) -> bool:
    """Return whether a module may import other modules to resolve an attribute."""
    return "__getattr__" in vars(module) or hasattr(type(module), "__getattr__")


def _file(name: str, spec: ModuleSpec) -> Path:
    path = Path(spec.origin or "")
    if not spec.has_location or not path.is_file():
        raise Untrusted(f"the module {name} is not a file, so it is not imported")
    return path.absolute()


def check_import(target: str, run: Path, trust: Sequence[str] = ()) -> None:
    """Check that a class may be imported for a run folder.

    Classes allowed by `trust` are recorded, so that they need to be listed only once.

    Args:
        target: dotted name of the class.
        run: folder of the run.
        trust: modules or packages that the user trusts.

    Raises:
        Untrusted: the class may not be imported.
    """
    found = locate(target)
    for path in found.files.values():
        if (home := _run_folder(path, run)) is not None:
            raise Untrusted(
                f"it would execute {path} in the run folder {home}; move the module out of the "
                "run folder"
            )
    if not found.files or _is_own(found):
        return  # already imported, or part of the installation
    if any(f"{target}.".startswith(f"{name}.") for name in trust):
        _record(found.files)
        return
    known = _recorded()
    for name, path in found.files.items():
        if str(path.resolve()) not in known.get(name, ()):
            raise Untrusted(
                f"it would execute {path}; if you trust this file, add trust=[{found.module}]"
            )


def remember(nodes: Iterable[Mapping[str, Any]]) -> None:
    """Record the modules of classes that the user trains with, so that the run can be opened.

    Args:
        nodes: nodes of the configuration. Classes of mmrec, PyTorch and the standard library are
            not recorded.
    """
    used: dict[str, Path] = {}
    for node in nodes:
        parts = str((node or {}).get(TARGET, "")).split(".")
        if parts[0] in (OWN, "torch", "__main__", *sys.stdlib_module_names):
            continue
        for depth in range(1, len(parts) + 1):  # a module can have the same name as its class
            name = ".".join(parts[:depth])
            if file := getattr(sys.modules.get(name), "__file__", None):
                used[name] = Path(file)
    if used:
        _record(used)


def _find(name: str, search: Sequence[str] | None) -> ModuleSpec | None:
    """Find the spec of a module like `importlib`, but without importing the parent package."""
    if search is not None and not search:
        return None  # the parent is not a package
    for finder in sys.meta_path:
        if finder in (BuiltinImporter, FrozenImporter):
            continue  # the standard library
        if finder is PathFinder:
            spec = _find_file(name, sys.path if search is None else search)
        else:
            spec = finder.find_spec(name, search, None)
        if spec is not None:
            return spec
    return None


def _find_file(name: str, search: Iterable[str]) -> ModuleSpec | None:
    portions: list[str] = []
    for entry in search:
        finder: Any = pkgutil.get_importer(entry or str(Path.cwd()))
        spec: ModuleSpec | None = finder and finder.find_spec(name)
        if spec is not None and spec.loader is not None:
            return spec
        if spec is not None:
            portions += spec.submodule_search_locations or ()
    if not portions:
        return None
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def _is_own(found: Located) -> bool:
    top = found.module.partition(".")[0]
    if top != OWN and not f"{found.module}.".startswith(OPTIMIZERS):
        return False
    roots = [Path(entry).resolve() for entry in getattr(sys.modules.get(top), "__path__", ())]
    files = [file.resolve() for file in found.files.values()]
    return all(any(file.is_relative_to(root) for root in roots) for file in files)


def search_working_directory() -> None:
    """Append the working directory to the module search path, unless it is in a run folder.

    `python -P` and PYTHONSAFEPATH disable this. Only commands call it; the library does not change
    the search path.
    """
    leave_run_folders()
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # the folder was removed
        return
    if not sys.flags.safe_path and str(folder) not in sys.path and run_folder_of(folder) is None:
        sys.path.append(str(folder))


def leave_run_folders() -> None:
    """Remove run folders from the search path; Hydra would execute their `hydra_plugins`."""
    sys.path[:] = [entry for entry in sys.path if run_folder_of(Path(entry)) is None]


def run_folder_of(path: Path) -> Path | None:
    """Return the run folder that contains a path, before or after resolving links; else None."""
    for folder in (path.absolute(), path.resolve()):
        for place in (folder, *folder.parents):
            if (place / CONFIG).is_file() and any(
                (place / name).is_file() for name in (RESULT, OVERRIDES, BEST, LAST)
            ):
                return place
    return None


def _run_folder(path: Path, run: Path) -> Path | None:
    """Return the run folder that contains a path, where `run` counts even if incomplete."""
    for folder in (*path.absolute().parents, *path.resolve().parents):
        if folder.resolve() == run.resolve():
            return folder
    return run_folder_of(path)


def _recorded() -> Mapping[str, Sequence[str]]:
    try:
        found = json.loads((cache_dir() / RECORD).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: files for name, files in found.items() if isinstance(files, list)}


def _record(used: Mapping[str, Path]) -> None:
    """Add modules to the record; without a writable cache, they are trusted only once."""
    new = {name: str(path.resolve()) for name, path in used.items()}
    if all(file in _recorded().get(name, ()) for name, file in new.items()):
        return
    path = cache_dir() / RECORD
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            known = {name: list(files) for name, files in _recorded().items()}
            for name, file in new.items():
                known[name] = sorted({*known.get(name, ()), file})
            with replace_file(path) as part:
                part.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        log.warning(
            "cannot write %s (%s); opening runs that use %s will require trust=",
            *(path, error, [*new]),
        )
