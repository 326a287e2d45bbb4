"""Checks of the configuration against the signatures of its classes."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from mmrec.config.errors import SettingError
from mmrec.config.paths import conf_dir as conf_dir

if TYPE_CHECKING:
    from pydantic import TypeAdapter

TARGET = "_target_"
HYDRA_KEYS: dict[str, Any] = {
    "_partial_": bool,
    "_recursive_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
}
KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a group of settings",
    type(None): "null",
}
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
# Groups that are omitted from a resolved configuration if they are empty.
OPTIONAL = ("lr_schedule", "upstream")


GIVEN = {"corpus", "params"}  # arguments that are passed by the framework and are not settings
TOLD = {  # types of pydantic's errors, and our messages
    "float_": "expected a number, for example 0.01",
    "int_": "expected an integer, for example 10",
    "bool_": "expected true or false",
    "string_type": "expected text",
}


def nearest(word: str, choices: Iterable[str], n: int = 3) -> str:
    """Return `; did you mean a or b?` with similar choices, or a list of all choices."""
    known = sorted(choices)
    near = difflib.get_close_matches(word, known, n=n, cutoff=0.5)
    near = near or [choice for choice in known if len(word) > 2 and word in choice][:n]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; the choices are {', '.join(known)}" if known else ""


def unread_search_setting(key: str) -> SettingError | None:
    """Return the error for a setting of a search or grid if none is selected.

    Args:
        key: name of the setting, for example `n_trials` or `sweep.n_trials`.

    Returns:
        The error; None if it is not a setting of a search or grid.
    """
    import yaml

    group, _, name = key.rpartition(".")
    for kind, sweeper in (("sweep", "optuna"), ("grid", "grid")):
        path = conf_dir() / "hydra/sweeper" / f"{sweeper}.yaml"
        known = name in yaml.safe_load(path.read_text()) and not name.startswith("_")
        if group == kind or (not group and known):
            chosen = "sweep=<model>" if kind == "sweep" else "grid=<name>"
            given = None  # prefix of the settings of the selected search or grid
            if any(word.startswith(f"{kind}=") for word in sys.argv):
                given = kind
            elif f"hydra/sweeper={sweeper}" in sys.argv:
                given = "hydra.sweeper"
            if given:
                hint = f"use {given}.{name}=..."
                return SettingError(setting=key, problem="no such setting", hint=hint)
            return SettingError(
                setting=key,
                problem=f"no {'search' if kind == 'sweep' else 'grid'} is selected",
                hint=f"use -m with {chosen} {kind}.{name}=..., or with hydra/sweeper={sweeper} "
                f"hydra.sweeper.{name}=...",
            )
    return None


def check_monitor(
    monitor: str, cutoffs: Iterable[int], metrics: Iterable[str], setting: str = "monitor"
) -> None:
    """Check that the metric used for selection is a validation metric at one of the cutoffs.

    Args:
        monitor: name of the metric.
        cutoffs: cutoffs of the evaluation.
        metrics: names of all metrics, without cutoff.
        setting: name of the setting.

    Raises:
        SettingError: the metric is invalid.
    """
    valid = [f"val/{metric}@{k}" for metric in metrics for k in cutoffs]
    if monitor not in valid:
        raise SettingError(
            setting=setting,
            value=monitor,
            expected="a validation metric at one of evaluation.cutoffs" + nearest(monitor, valid),
        )


def check_call(config: Mapping[str, Any], path: str) -> None:
    """Check a node with `_target_`, and the nodes below it, against the signature of its class.

    The signature is the schema: unknown arguments, missing arguments, and values outside the
    declared type and range are errors.

    Args:
        config: node as plain containers.
        path: path of the node, for example `data`; empty for the whole configuration.

    Raises:
        SettingError: a setting is invalid.
    """
    prefix = f"{path}." if path else ""
    for key, value in config.items():
        for place, node in _mappings(value):
            check_call(node, f"{prefix}{key}{place}")
    if TARGET not in config:
        return
    target = _imported(config[TARGET], f"{prefix}{TARGET}")
    for key, hint in HYDRA_KEYS.items():
        if key in config:
            check_value(hint, config[key], f"{prefix}{key}")
    try:
        parameters = inspect.signature(target).parameters
        hints = get_type_hints(
            target.__init__ if inspect.isclass(target) else target, include_extras=True
        )
    except (NameError, TypeError, ValueError):  # not written in Python
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return  # functions with **kwargs check their arguments themselves
    for key, value in config.items():
        if str(key).startswith("_"):
            continue
        if key not in parameters:
            raise SettingError(
                setting=f"{prefix}{key}",
                problem=f"no such setting{nearest(key, parameters.keys() - GIVEN)}",
            )
        hint = hints.get(key, Any)
        if isinstance(value, Mapping) and TARGET in value:
            if _takes_functions(hint) and value.get("_partial_") is not True:
                raise SettingError(
                    setting=f"{prefix}{key}._partial_",
                    expected="true, because the function is called later",
                )
        elif isinstance(value, Mapping) and _takes_functions(hint):
            raise SettingError(
                setting=f"{prefix}{key}",
                problem=f"it has no {TARGET}",
                hint=f"set {TARGET} to the dotted name of a function",
            )
        elif not any(TARGET in node for _, node in _mappings(value)):
            check_value(hint, value, f"{prefix}{key}")
    partial = config.get("_partial_") is True
    for key, parameter in parameters.items():
        named = parameter.kind is parameter.KEYWORD_ONLY or not partial
        variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY)
        if parameter.default is parameter.empty and named and not variable and key not in config:
            raise SettingError(
                setting=f"{prefix}{key}",
                problem=f"it is missing; {config[TARGET]} requires a value",
            )


def check_value(hint: Any, value: Any, setting: str) -> None:
    """Check a value against a type annotation, without conversion.

    Text is not a number, true is not 1, and 3.0 is not an integer: values that pydantic would
    convert are rejected, because the class receives the original value. NaN and infinity are
    rejected as well.

    Args:
        hint: type annotation, which may have ranges: `Annotated[float, Gt(0)]`.
        value: value as plain containers.
        setting: full name of the setting.

    Raises:
        SettingError: the value is invalid.
    """
    from pydantic import PydanticUserError, ValidationError

    try:
        adapter = _adapter(hint)
    except PydanticUserError:
        return  # pydantic does not support the type
    try:
        found = adapter.validate_python(value)
    except ValidationError as error:
        errors = error.errors()
        place, part = _deepest(value, errors)
        # Users cannot enter tensors, so only other alternatives are useful in the message.
        typed = [e for e in errors if e.get("ctx", {}).get("class") != "Tensor"] or errors
        expected = " or ".join(dict.fromkeys(map(_told, typed)))
        raise SettingError(setting=f"{setting}{place}", value=part, problem=expected) from None
    if changed := _converted(value, found):
        before, after = map(_kind, changed)
        raise SettingError(setting=setting, value=value, expected=f"{after}, found {before}")


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    """Create pydantic's validator of a type, cached because it is slow."""
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    return TypeAdapter(hint, config=None if is_dataclass(hint) else config)


def _mappings(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a mapping, or the mappings in a list with their paths."""
    if isinstance(value, Mapping):
        yield "", value
    elif isinstance(value, list):
        for place, element in enumerate(value):
            yield from ((f".{place}{deeper}", node) for deeper, node in _mappings(element))


def _takes_functions(hint: Any) -> bool:
    return Callable in (get_origin(hint), *map(get_origin, get_args(hint)))


def _deepest(value: Any, errors: Sequence[Mapping[str, Any]]) -> tuple[str, Any]:
    """Return the path below a mapping where an error occurred, for example `.visual`, and value."""
    for error in errors:
        place, part = "", value
        for key in error["loc"]:  # keys also contain names of types in a union
            if isinstance(part, Mapping) and key in part:
                place, part = f"{place}.{key}", part[key]
        if place:
            return place, part
    return "", value


def _converted(value: Any, found: Any) -> tuple[Any, Any] | None:
    """Return the first part of a value that pydantic has converted, before and after; or None.

    Lists are accepted for tuples, and integers for floats.
    """
    if isinstance(value, Mapping) and isinstance(found, Mapping):
        pairs = [(value[key], found[key]) for key in found]
    elif isinstance(value, list) and isinstance(found, list | tuple):
        pairs = list(zip(value, found, strict=True))
    elif type(value) is type(found) or (type(value) is int and type(found) is float):
        return None
    else:
        return value, found
    return next(filter(None, (_converted(*pair) for pair in pairs)), None)


def _kind(value: Any) -> str:
    kind = type(value)
    return KINDS.get(kind, f"{kind.__module__}.{kind.__qualname__}")


def _told(error: Mapping[str, Any]) -> str:
    """Return the message for an error of pydantic."""
    alone = error["type"] == "is_instance_of" and error["ctx"]["class"] == "Sequence"
    if not error["loc"] and (alone or error["type"] == "sequence_str"):
        return "expected a list, for example [a,b]"
    for start, what in TOLD.items():
        if error["type"].startswith(start):
            return what
    return str(error["msg"])


def _imported(name: str, place: str) -> Any:
    """Import the object of a `_target_`.

    Raises:
        SettingError: it cannot be imported or called.
    """
    from hydra.utils import get_object

    try:
        target = get_object(name)
    except (AttributeError, ImportError, ValueError) as error:  # also for invalid names
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
                what = f"no module {reason.name} was found; install it, or add it to PYTHONPATH"
        raise SettingError(setting=place, value=name, problem=what) from error
    if not callable(target):
        raise SettingError(
            setting=place,
            value=name,
            problem="it is not callable",
            hint="use the dotted name of a class or function",
        )
    return target


def _public(module: str) -> list[str]:
    """Return the public names in a module, including submodules of a package."""
    found = sys.modules[module]
    below = (info.name for info in pkgutil.iter_modules(getattr(found, "__path__", ())))
    return sorted({name for name in (*vars(found), *below) if not name.startswith("_")})
