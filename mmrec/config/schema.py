"""Where the configuration lives, and what is checked before anything is built."""

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
    int: "a whole number",
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
# Groups that a resolved configuration leaves out if they are empty.
OPTIONAL = ("lr_schedule", "upstream")


GIVEN = {"corpus", "params"}  # arguments that are no settings: what a model and an optimizer get
TOLD = {  # types of pydantic's errors, and what messages say instead
    "float_": "expected a number, for example 0.01",
    "int_": "expected a whole number, for example 10",
    "bool_": "expected true or false",
    "string_type": "expected text",
}


def nearest(word: str, choices: Iterable[str], n: int = 3) -> str:
    """`; did you mean a or b?`, with the choices nearest to a word or that hold it, or all."""
    known = sorted(choices)
    near = difflib.get_close_matches(word, known, n=n, cutoff=0.5)
    near = near or [choice for choice in known if len(word) > 2 and word in choice][:n]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are {', '.join(known)}" if known else ""


def unread_search_setting(key: str) -> SettingError | None:
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
            given = None  # where the settings of what is chosen are
            if any(word.startswith(f"{kind}=") for word in sys.argv):
                given = kind
            elif f"hydra/sweeper={sweeper}" in sys.argv:
                given = "hydra.sweeper"
            if given:
                hint = f"give {given}.{name}=..."
                return SettingError(setting=key, problem="no such setting", hint=hint)
            return SettingError(
                setting=key,
                problem=f"no {'search' if kind == 'sweep' else 'grid'} is chosen",
                hint=f"with -m, give {chosen} {kind}.{name}=..., or hydra/sweeper={sweeper} "
                f"hydra.sweeper.{name}=...",
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
        SettingError: it is none.
    """
    valid = [f"val/{metric}@{k}" for metric in metrics for k in cutoffs]
    if monitor not in valid:
        raise SettingError(
            setting=setting,
            value=monitor,
            expected="a validation metric at one of evaluation.cutoffs" + nearest(monitor, valid),
        )


def check_call(config: Mapping[str, Any], path: str) -> None:
    """Check a node with `_target_`, and those below it, against the signature of what it calls.

    The signature is the schema. An unknown keyword, a missing one, or a value that is not of the
    declared type and range is an error that names the setting as it is typed.

    Args:
        config: plain containers.
        path: of the node, for example `data`; empty for the whole configuration.

    Raises:
        SettingError: says which setting, its value, and what is expected.
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
    except (NameError, TypeError, ValueError):  # of what is not written in Python
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return  # a library's function that takes anything says itself what it can't use
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
                    setting=f"{prefix}{key}._partial_", expected="true, as it is called later"
                )
        elif isinstance(value, Mapping) and _takes_functions(hint):
            raise SettingError(
                setting=f"{prefix}{key}", problem=f"it has no {TARGET}", hint="name a function"
            )
        elif not any(TARGET in node for _, node in _mappings(value)):
            check_value(hint, value, f"{prefix}{key}")
    partial = config.get("_partial_") is True
    for key, parameter in parameters.items():
        named = parameter.kind is parameter.KEYWORD_ONLY or not partial
        variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY)
        if parameter.default is parameter.empty and named and not variable and key not in config:
            raise SettingError(
                setting=f"{prefix}{key}", problem=f"give it a value; {config[TARGET]} needs it"
            )


def check_value(hint: Any, value: Any, setting: str) -> None:
    """Check a value against a type annotation; no value is converted to fit.

    Text is not a number, true is not 1, and 3.0 is not a whole number: a value that pydantic would
    convert is refused, since what is called gets it as it is. NaN and infinity are refused too.

    Args:
        hint: a type, also with ranges: `Annotated[float, Gt(0)]`.
        value: plain containers.
        setting: as typed on the command line.

    Raises:
        SettingError: names the setting and what is expected.
    """
    from pydantic import PydanticUserError, ValidationError

    try:
        adapter = _adapter(hint)
    except PydanticUserError:
        return  # not a type that pydantic knows
    try:
        found = adapter.validate_python(value)
    except ValidationError as error:
        errors = error.errors()
        place, part = _deepest(value, errors)
        # A tensor is never typed, so an alternative to it says more.
        typed = [e for e in errors if e.get("ctx", {}).get("class") != "Tensor"] or errors
        expected = " or ".join(dict.fromkeys(map(_told, typed)))
        raise SettingError(setting=f"{setting}{place}", value=part, problem=expected) from None
    if changed := _converted(value, found):
        before, after = map(_kind, changed)
        raise SettingError(setting=setting, value=value, expected=f"{after}, found {before}")


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    """Build pydantic's validator of a type, which costs more than a validation."""
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    return TypeAdapter(hint, config=None if is_dataclass(hint) else config)


def _mappings(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A mapping, or those in a list, each with its place in it."""
    if isinstance(value, Mapping):
        yield "", value
    elif isinstance(value, list):
        for place, element in enumerate(value):
            yield from ((f".{place}{deeper}", node) for deeper, node in _mappings(element))


def _takes_functions(hint: Any) -> bool:
    return Callable in (get_origin(hint), *map(get_origin, get_args(hint)))


def _deepest(value: Any, errors: Sequence[Mapping[str, Any]]) -> tuple[str, Any]:
    """The setting below a mapping that an error is about, as `.visual`, and its value."""
    for error in errors:
        place, part = "", value
        for key in error["loc"]:  # names of types in a union are among the keys
            if isinstance(part, Mapping) and key in part:
                place, part = f"{place}.{key}", part[key]
        if place:
            return place, part
    return "", value


def _converted(value: Any, found: Any) -> tuple[Any, Any] | None:
    """The first part of a value that validation has converted, before and after; None: no part.

    A list may be a tuple, and a whole number a float.
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
    """What pydantic says, but for one value where there should be several."""
    alone = error["type"] == "is_instance_of" and error["ctx"]["class"] == "Sequence"
    if not error["loc"] and (alone or error["type"] == "sequence_str"):
        return "expected a list, as [a,b]"
    for start, what in TOLD.items():
        if error["type"].startswith(start):
            return what
    return str(error["msg"])


def _imported(name: str, place: str) -> Any:
    """What a `_target_` names.

    Raises:
        SettingError: it cannot be imported.
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
        raise SettingError(setting=place, value=name, problem=what) from error
    if not callable(target):
        raise SettingError(
            setting=place,
            value=name,
            problem="it cannot be called",
            hint="name a class or a function",
        )
    return target


def _public(module: str) -> list[str]:
    """The names in a module, and those of the modules in a package."""
    found = sys.modules[module]
    below = (info.name for info in pkgutil.iter_modules(getattr(found, "__path__", ())))
    return sorted({name for name in (*vars(found), *below) if not name.startswith("_")})
