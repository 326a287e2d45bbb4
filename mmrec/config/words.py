"""Rewrite command line arguments before Hydra parses them.

Hydra parses `1_000` as 1000, `1e5` as 100000.0 and `true` as a boolean. Ids, names, tags, columns
and paths are text, so such values are quoted. The imports are fast, because `--help` imports this
module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from mmrec.config.errors import SettingError
from mmrec.config.schema import conf_dir

# Settings with text or lists of text; a test compares them with the signatures of the classes.
# `*` matches a part of the name; with `[]`, only the elements of a list are text.
TEXT = (
    *("baseline", "by", "candidates", "ckpt", "exclude", "history", "index", "items", "metric"),
    "metrics",
    *(
        "monitor",
        "only",
        "output",
        "per_user",
        "run",
        "run_dir",
        "runs",
        "seen",
        "storages",
        "title",
    ),
    *("trust", "users", "check", "downloads"),
    *("data.columns.*", "data.ids", "data.interactions_file", "data.modalities", "data.name"),
    *("data.category_separator", "data.root", "data.separator"),
    *("data.category", "data.duplicates", "data.fill", "data.interactions", "data.item_id"),
    *("data.items", "data.labels", "data.mirrors", "data.size", "data.split", "data.text"),
    *("data.features.*.*", "data.source_folder", "data.text_model", "data.time_unit"),
    *("data.audio", "data.audio_model", "data.files", "data.image_model", "data.images"),
    *("data.page", "data.precision", "data.vectors"),
    *("logger.*.entity", "logger.*.experiment_name", "logger.*.group", "logger.*.job_type"),
    *("logger.*.name", "logger.*.path", "logger.*.prefix", "logger.*.project"),
    *("logger.*.root_dir", "logger.*.run_id", "logger.*.run_name", "logger.*.save_dir"),
    *("logger.*.sub_dir", "logger.*.tags", "logger.*.tracking_uri"),
    *("grid.ablations[]", "grid.name", "sweep.custom_search_space", "sweep.objective"),
    *("sweep.storage", "sweep.study_name", "upstream.root", "upstream.run"),
    *("hydra.job.name", "hydra.run.dir", "hydra.searchpath", "hydra.sweep.dir"),
    *("hydra.sweep.subdir", "hydra.sweeper.ablations[]", "hydra.sweeper.custom_search_space"),
    *("hydra.sweeper.objective", "hydra.sweeper.storage", "hydra.sweeper.study_name"),
    *(f"hydra.launcher.{name}" for name in ("account", "name", "partition", "qos")),
)
# Settings whose values are compared as text; null is an empty cell.
COMPARED = ("data.where.*",)
KEEPING = {"choice", "str"}  # functions whose arguments can be text that looks like a number


def prepared(words: Sequence[str]) -> list[str]:
    """Return command line arguments in the form that Hydra parses correctly."""
    return [spelled_out(as_text(word)) for word in folders_first(words)]


def quoted(text: str) -> str:
    """Quote text so that Hydra does not change it."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def folders_first(words: Sequence[str]) -> list[str]:
    """Move `--config-dir` and `-m` before the settings, because Hydra requires them on one side.

    Hydra uses only the last of several folders, so the others are added to its search path.
    """
    folders: list[str] = []
    flags: list[str] = []
    settings: list[str] = []
    left = iter(words)
    for word in left:
        if word in ("--config-dir", "-cd"):
            folders += islice(left, 1)
        else:
            (flags if word in ("-m", "--multirun") else settings).append(word)
    others = ",".join(quoted(f"file://{Path(folder).absolute()}") for folder in folders[-2::-1])
    return [
        *(word for folder in folders[-1:] for word in ("--config-dir", folder)),
        *flags,
        *([f"hydra.searchpath=[{others}]"] if others else []),
        *settings,
    ]


@cache
def is_text(setting: str, *, element: bool = False) -> bool:
    """Return whether the value of a setting is text.

    Args:
        setting: dotted name, or the name of a configuration group.
        element: whether the value is an element of a list.
    """
    if "/" in setting or (setting and (conf_dir() / setting).is_dir()):
        return True  # the name of a file
    return _matches(setting, TEXT) or (element and _matches(f"{setting}[]", TEXT))


def as_text(word: str) -> str:
    """Quote values of text settings that Hydra would parse as a number, boolean or null.

    `null` is not quoted, except in a list.

    Args:
        word: `setting=value`, also with `+`, `++` or `@package`. Other arguments, and those that
            Hydra cannot parse, are returned unchanged.
    """
    setting, _, value = word.partition("=")
    if word.startswith("-") or not value:
        return word
    name = setting.lstrip("+~").partition("@")[0]
    if value[0] == "[" and value[-1] == "]" and is_text(name, element=True) and _unreadable(value):
        return f"{setting}=[{','.join(map(_as_element, value[1:-1].split(',')))}]"
    result, end = "", 0
    for start, stop in _misread(name, value):
        result += f"{value[end:start]}'{value[start:stop]}'"
        end = stop
    return f"{setting}={result}{value[end:]}"


def _unreadable(value: str) -> bool:
    """Return whether Hydra cannot parse a value, for example `[zoë]` or `[O'Brien]`."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(f"setting={value}")
    except HydraException:
        return True
    return False


def _as_element(text: str) -> str:
    """Quote an element of a list, unless it is already quoted."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        inner = text[1:-1]
        return text if text[0] not in inner else quoted(inner)
    return quoted(text)


def spelled_out(word: str) -> str:
    """Convert `a=choice(null,'1_0')` to `a=null,'1_0'`.

    In Hydra, `choice()` rejects null and drops quotes, but a list of values does not. Other
    arguments are returned unchanged.
    """
    setting, _, value = word.partition("=")
    inner = value.strip().removeprefix("choice(")
    if inner == value.strip() or not inner.endswith(")"):
        return word
    from hydra.grammar.gen.OverrideLexer import OverrideLexer as Kind

    depth, needed = 0, False
    tokens = _tokens(value.strip())
    for token in tokens:
        depth += token.type in (Kind.POPEN, Kind.BRACKET_OPEN, Kind.BRACE_OPEN)
        depth -= token.type in (Kind.PCLOSE, Kind.BRACKET_CLOSE, Kind.BRACE_CLOSE)
        needed |= token.type in (Kind.NULL, Kind.QUOTED_VALUE)
        if depth == 0 and token.type == Kind.PCLOSE and token is not tokens[-1]:
            return word  # text after the function, which Hydra rejects
    return f"{setting}={inner[:-1]}" if needed else word


def refuse_numbers(config: Mapping[str, Any]) -> None:
    """Check that text settings have no numbers, because YAML parses `1_000` as 1000.

    Args:
        config: configuration as plain containers.

    Raises:
        SettingError: a text setting has a number or boolean.
    """
    for setting, value, element in _leaves(config, ""):
        text = is_text(setting, element=element) or _matches(setting, COMPARED)
        if isinstance(value, bool | int | float) and text:
            raise SettingError(
                setting=setting,
                value=value,
                expected=f"text, found a {type(value).__name__}",
                hint="quote the value where it is set, in YAML or on the command line",
            )


def _matches(setting: str, patterns: Sequence[str]) -> bool:
    """Return whether a setting matches a pattern; brackets are literal."""
    return any(fnmatchcase(setting, pattern.replace("[]", "[[]]")) for pattern in patterns)


def _tokens(value: str) -> list[Any]:
    """Return the tokens of a value in Hydra's grammar; empty if it is invalid."""
    from antlr4 import InputStream  # type: ignore[import-untyped]
    from hydra.core.override_parser.overrides_visitor import HydraErrorListener
    from hydra.errors import HydraException
    from hydra.grammar.gen.OverrideLexer import OverrideLexer

    lexer = OverrideLexer(InputStream(value))
    lexer.removeErrorListeners()
    lexer.addErrorListener(HydraErrorListener())
    lexer.mode(OverrideLexer.VALUE_MODE)
    try:
        found: list[Any] = lexer.getAllTokens()
    except HydraException:
        return []
    return found


def _misread(setting: str, value: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each text in a value that Hydra would not parse as text."""
    from hydra.grammar.gen.OverrideLexer import OverrideLexer as Kind

    converted = {Kind.INT, Kind.FLOAT, Kind.BOOL}
    enclosing: list[tuple[str, str]] = []  # bracket or function, and the setting around it
    primitive: list[Any] = []
    named = True  # whether the setting of the next value is known; false before a key of a dict

    def judged() -> Iterator[tuple[int, int]]:
        """Yield the primitive that has just ended, if Hydra would convert it."""
        tokens = [token for token in primitive if token.type != Kind.WS]
        primitive.clear()
        if len(tokens) != 1 or not named:
            return
        inside = [name for name, _ in enclosing]
        element = "[" in inside
        if not {*inside} - {"[", "{"} <= KEEPING:
            return
        text = is_text(setting, element=element)
        number = tokens[0].type in converted and (text or _matches(setting, COMPARED))
        if number or (text and inside[-1:] == ["["] and tokens[0].type == Kind.NULL):
            yield tokens[0].start, tokens[0].stop + 1

    for token in _tokens(value):
        kind = token.type
        if kind in (Kind.BRACKET_OPEN, Kind.BRACE_OPEN):
            primitive.clear()
            enclosing.append((token.text.strip(), setting))
            named = kind == Kind.BRACKET_OPEN
        elif kind == Kind.POPEN:
            enclosing.append(("".join(part.text for part in primitive).strip(), setting))
            primitive.clear()
        elif kind in (Kind.BRACKET_CLOSE, Kind.BRACE_CLOSE, Kind.PCLOSE):
            yield from judged()
            if enclosing:
                _, setting = enclosing.pop()
            named = True
        elif kind == Kind.COMMA:
            yield from judged()
            if enclosing and enclosing[-1][0] == "{":
                setting, named = enclosing[-1][1], False
        elif kind == Kind.COLON and not named:
            key = "".join(part.text for part in primitive).strip()
            setting, named = f"{setting}.{key}", True
            primitive.clear()
        elif kind == Kind.EQUAL:
            primitive.clear()  # the name of a function's argument
        else:
            primitive.append(token)
    yield from judged()


def _leaves(node: Any, setting: str, *, element: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Yield each value below a node, with its setting and whether it is an element of a list."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{setting}.{key}" if setting else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, setting, element=True)
    else:
        yield setting, node, element
