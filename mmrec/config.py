"""Where the configuration lives, and what is checked before anything is built."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

TARGET = "_target_"
ROOT = (
    "model",
    "data",
    "optimizer",
    "trainer",
    "logger",
    "callbacks",
    "router_schedule",
    "evaluation",
    "seed",
    "monitor",
    "ckpt",
    "run_dir",
)


class ConfigError(ValueError):
    """A setting cannot be; the message names it and says what can."""


def conf_dir() -> Path:
    """The configuration's folder: the installed package's own, else the checkout's."""
    package = Path(str(files("mmrec")))
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def nearest(word: str, choices: Iterable[str], n: int = 3) -> str:
    """`; did you mean a or b?`, with the choices nearest to a word or that hold it, or all."""
    known = sorted(choices)
    near = difflib.get_close_matches(word, known, n=n, cutoff=0.5)
    near = near or [choice for choice in known if len(word) > 2 and word in choice][:n]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are {', '.join(known)}" if known else ""


def unread_search_setting(key: str) -> str | None:
    """The error about a setting of a search or grid where none is chosen.

    Args:
        key: as typed, for example `n_trials` or `sweep.n_trials`.

    Returns:
        None if it is no such setting.
    """
    import yaml

    group, _, name = key.rpartition(".")
    for kind, sweeper in (("sweep", "optuna"), ("grid", "grid")):
        path = conf_dir() / "hydra/sweeper" / f"{sweeper}.yaml"
        known = name in yaml.safe_load(path.read_text()) and not name.startswith("_")
        if group == kind or (not group and known):
            chosen = "sweep=<model>" if kind == "sweep" else "grid=<name>"
            return (
                f"{key}: no {'search' if kind == 'sweep' else 'grid'} is chosen; with -m, give "
                f"{chosen} {kind}.{name}=..., or hydra/sweeper={sweeper} hydra.sweeper.{name}=..."
            )
    return None


def check_monitor(
    monitor: str, cutoffs: Iterable[int], metrics: Iterable[str], setting: str = "monitor"
) -> None:
    """Selection may look at a validation metric at one of the cutoffs, and at nothing else.

    Args:
        monitor: a metric.
        cutoffs: of the evaluation.
        metrics: names without cutoff.
        setting: that holds the metric.

    Raises:
        ConfigError: it is none.
    """
    valid = [f"val/{metric}@{k}" for metric in metrics for k in cutoffs]
    if monitor not in valid:
        raise ConfigError(
            f"{setting}={monitor}: selection sees validation metrics at evaluation.cutoffs only"
            + nearest(monitor, valid)
        )


def check_call(config: Mapping[str, Any], path: str) -> None:
    """Check a node with `_target_`, and those below it, against the signature of what it calls.

    The signature is the schema: a keyword that is not there, a value of another type, or a word
    that is none of a `Literal`'s is an error that names the setting as it is typed.

    Args:
        config: plain containers.
        path: of the node, as `data`; empty for the whole configuration.

    Raises:
        ConfigError: says which setting, what it is, and what it may be.
    """
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    prefix = f"{path}." if path else ""
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_call(value, f"{prefix}{key}")
    if TARGET not in config:
        return
    target = _imported(config[TARGET], f"{prefix}{TARGET}")
    parameters = inspect.signature(target).parameters
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return  # a library's function that takes anything says itself what it can't use
    for key, value in config.items():
        if key.startswith("_") or (isinstance(value, Mapping) and TARGET in value):
            continue
        if key not in parameters:
            raise ConfigError(f"{prefix}{key}: no such setting{nearest(key, parameters)}")
        try:
            adapter = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True))
            adapter.validate_python(value, strict=False)
        except (PydanticUserError, KeyError):
            continue  # not a type that pydantic knows
        except ValidationError as error:
            told = [_told(e) for e in error.errors()]
            expected = " or ".join(dict.fromkeys(told))
            raise ConfigError(f"{prefix}{key}={value}: {expected}") from None


def _told(error: Mapping[str, Any]) -> str:
    """What pydantic says, but for one value where there should be several."""
    alone = error["type"] == "is_instance_of" and error["ctx"]["class"] == "Sequence"
    if not error["loc"] and (alone or error["type"] == "sequence_str"):
        return "expected a list, as [a,b]"
    return str(error["msg"])


def _imported(name: str, place: str) -> Any:
    """What a `_target_` names.

    Raises:
        ConfigError: it cannot be imported.
    """
    from hydra.utils import get_object

    try:
        target = get_object(name)
    except (AttributeError, ImportError, ValueError) as error:  # of what is no name, too
        module, _, last = str(name).rpartition(".")
        reason = error.__cause__ or error
        what = f"{type(reason).__name__}: {reason}"
        if isinstance(reason, ModuleNotFoundError):
            above, _, missing = str(reason.name).rpartition(".")
            if reason.name == name and module in sys.modules:
                what = f"{module} has no {last}{nearest(last, _public(module))}"
            elif above in sys.modules:
                what = f"{above} has no {missing}{nearest(missing, _public(above))}"
            else:
                what = f"there is no module {reason.name}; install it, or extend PYTHONPATH"
        raise ConfigError(f"{place}={name}: {what}") from error
    if not callable(target):
        raise ConfigError(f"{place}={name}: it cannot be called; name a class or a function")
    return target


def _public(module: str) -> list[str]:
    """The names in a module, and those of the modules in a package."""
    found = sys.modules[module]
    below = (info.name for info in pkgutil.iter_modules(getattr(found, "__path__", ())))
    return sorted({name for name in (*vars(found), *below) if not name.startswith("_")})
